"""Every architecture of timm as a backbone: built on the plain model, pruned, its maps always `(b, c, h, w)`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vertebra.backbones import timm_models
from vertebra.backbones.base import Backbone, Size
from vertebra.backbones.config import BackboneConfigMixin
from vertebra.backbones.freezing import frozen_class, unfreeze_modules
from vertebra.backbones.timm_module import TimmModule
from vertebra.hub import HubOptions
from vertebra.outputs import BackboneOutput
from vertebra.stages import Stage

ARCHITECTURE = ("backbone", "model_args", "output_stride", "num_channels")
"""The keys that decide what the levels are."""
UNFIT = (AssertionError, IndexError, RuntimeError, TypeError, ValueError, ZeroDivisionError)
"""What timm's models raise on image sizes they do not run at."""


class TimmBackboneConfig(BackboneConfigMixin):
    """Configuration of a timm architecture as a backbone.

    Args:
        backbone: Name of the architecture, with or without a tag of its weights (`resnet50`, `resnet50.a1_in1k`).
        num_channels: Channels of the input.
        features_only: Always True; kept for files.
        use_pretrained_backbone: Whether `TimmBackbone(config)` loads timm's weights; False for random ones.
        use_timm_backbone: Always True; kept for files.
        freeze_batch_norm_2d: Whether all batch norms are frozen.
        output_stride: Largest stride (8 or 16) for architectures that can dilate; None for their own.
        model_args: Further arguments of timm's constructor, e.g. `{"img_size": (320, 512)}`.
        pretrained_cfg: timm's description of the weights (sizes, mean, interpolation), kept for the image processor.

    Stages are timm's levels under timm's module names: index 0 of a ResNet is `act1` at stride 2, index 0 of a ConvNeXt its
    first stage. Default selection: the last level.
    """

    model_type = "timm_backbone"
    knows_stages = False

    backbone: str | None = None
    num_channels: int = 3
    features_only: bool = True
    use_pretrained_backbone: bool = True
    use_timm_backbone: bool = True
    freeze_batch_norm_2d: bool = False
    output_stride: int | None = None
    model_args: Mapping[str, Any] | None = None
    pretrained_cfg: Mapping[str, Any] | None = None

    def validate(self) -> None:
        """Check what timm backbones always are. Raises ValueError."""
        super().validate()
        for name in ("features_only", "use_timm_backbone"):
            if not getattr(self, name):
                raise ValueError(f"{name}=False makes no timm backbone; leave {name} out.")

    @property
    def stage_names(self) -> list[str] | None:
        """Timm's names of all levels; found by building the architecture on the meta device once."""
        if self._known_names() is None and self.backbone is not None:
            with torch.device("meta"):
                model = build_configured(self)
            self.know_stages([stage.name for stage in timm_models.describe_levels(model)])
        return self._known_names()

    def know_stages(self, names: list[str]) -> None:
        """Keep the names of the levels, for as long as the architecture stays the same."""
        self._stage_names, self._stages_of = names, self._architecture()

    def _known_names(self) -> list[str] | None:
        return self._stage_names if vars(self).get("_stages_of") == self._architecture() else None

    @property
    def timm_args(self) -> dict[str, Any]:
        """All arguments of timm's constructor but the input channels."""
        return {**(self.model_args or {}), "output_stride": self.output_stride}

    def _selection_keys(self) -> dict[str, Any]:
        return super()._selection_keys() if self._known_names() is not None else dict(self._selection)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], return_unused_kwargs: bool = False, **overrides: Any) -> Any:
        """Read a `timm_backbone` file, or timm's own `config.json` (`architecture`, `pretrained_cfg`, `model_args`)."""
        if "architecture" in content:
            args = {**(content.get("model_args") or {}), "num_classes": content.get("num_classes")}
            args = {key: value for key, value in args.items() if value is not None}
            kept = {"num_channels": args.pop("in_chans", 3)}
            kept |= {"model_args": args or None, "pretrained_cfg": content.get("pretrained_cfg")}
            content = {"backbone": content["architecture"], **kept}
        loaded = super().from_dict(content, return_unused_kwargs=return_unused_kwargs, **overrides)
        config = loaded[0] if return_unused_kwargs else loaded
        if not overrides.keys() & ARCHITECTURE:
            config._stage_names, config._stages_of = content.get("stage_names"), config._architecture()
        return loaded

    @classmethod
    def of(cls, config: Any) -> TimmBackboneConfig:
        """The configuration of the same architecture as a backbone, from a `TimmWrapperConfig`; weights are random."""
        content = {name: getattr(config, name) for name in ("architecture", "model_args", "pretrained_cfg")}
        own: TimmBackboneConfig = cls.from_dict(
            {**content, "num_classes": config.num_labels}, use_pretrained_backbone=False
        )
        return own

    def _architecture(self) -> tuple[str, ...]:
        return tuple(str(getattr(self, name)) for name in ARCHITECTURE)


def build_configured(config: TimmBackboneConfig) -> nn.Module:
    """Build the architecture a configuration names, with random weights on the current default device."""
    return timm_models.build(config.backbone, in_chans=config.num_channels, args=config.timm_args)


class TimmBackbone(TimmModule, Backbone):
    """A timm architecture as a backbone.

    Parameters keep timm's own names whatever is selected. As in transformers 4, `TimmBackbone(config)` loads timm's
    pretrained weights unless the configuration says `use_pretrained_backbone=False`.

    Raises:
        ValueError: timm has no such architecture or weights, or does not take the arguments.
    """

    config_class = TimmBackboneConfig
    has_attentions: ClassVar[bool] = False
    config: TimmBackboneConfig

    def __init__(self, config: TimmBackboneConfig) -> None:
        config = self.own_config(config)
        fetch = config.use_pretrained_backbone and torch.get_default_device().type != "meta"
        with torch.device("meta") if fetch else nullcontext():
            model: Any = build_configured(config)
        self.__dict__["_levels"] = timm_models.describe_levels(model)
        super().__init__(config)
        self.config.know_stages([stage.name for stage in self.stages])
        self._sizes: dict[tuple[int, int, int], list[Size]] = {}
        if self.config.prune and self.selected:
            model.prune_intermediate_layers(list(self.selected), prune_norm=True, prune_head=True)
            for name in timm_models.UNUSED_BY_LEVELS.get(type(model).__name__, ()):
                del model._parameters[name]
        elif self.config.prune:
            for table in (model._modules, model._parameters, model._buffers):
                table.clear()
        self.adopt(model)
        if fetch:
            files = timm_models.pretrained_files(str(config.backbone), HubOptions())
            self.load_weights(self.find_weights(files, None, None))
        self.post_init()

    @classmethod
    def own_config(cls, config: Any) -> Any:
        """A configuration of this class from one of timm's with its head."""
        return TimmBackboneConfig.of(config) if hasattr(config, "architecture") else config

    def describe_stages(self) -> Iterable[Stage]:
        """Timm's levels, under timm's module names."""
        levels: list[Stage] = self.__dict__["_levels"]
        return levels

    def post_init(self) -> None:
        """Freeze what the configuration says is frozen; timm initialises its weights itself."""
        if self.config.freeze_batch_norm_2d:
            self.freeze_batch_norm_2d()
        if self.config.freeze is not None:
            self.freeze(self.config.freeze)

    def twin(self, device: str = "meta", **changes: Any) -> Backbone:
        """The same architecture with random weights; see `Backbone.twin`."""
        return super().twin(device, use_pretrained_backbone=False, freeze_batch_norm_2d=False, **changes)

    @property
    def native_size(self) -> Size:
        """The image size timm's description of the weights names, or 224x224."""
        return timm_models.native_size(self.timm_model) or (224, 224)

    @property
    def exceptions(self) -> Mapping[str, str]:
        """What timm's architectures are known not to keep."""
        return timm_models.EXCEPTIONS.get(type(self.timm_model).__name__, {})

    def freeze_batch_norm_2d(self) -> None:
        """Freeze all batch norms: their statistics do not move, and their weights have no gradient."""
        module: Any
        for _, module in self._batch_norms():
            module.requires_grad_(False)
            module.__class__ = frozen_class(type(module))
        self.config.freeze_batch_norm_2d = True

    def _batch_norms(self) -> list[tuple[str, nn.Module]]:
        return [(name, module) for name, module in self.named_modules() if isinstance(module, nn.BatchNorm2d)]

    def unfreeze_batch_norm_2d(self) -> None:
        """Undo `freeze_batch_norm_2d`; batch norms of stages that are frozen stay so."""
        self.config.freeze_batch_norm_2d = False
        unfreeze_modules(self, {f"{name}.{leaf}" for name, norm in self._batch_norms() for leaf in norm._parameters})
        if self.config.freeze is not None:
            self.freeze(self.config.freeze)

    def unfreeze(self) -> None:
        """Undo `freeze`; batch norms that the configuration freezes stay frozen."""
        super().unfreeze()
        if self.config.freeze_batch_norm_2d:
            self.freeze_batch_norm_2d()

    def forward_features(
        self, pixel_values: Tensor, *, output_hidden_states: bool, output_attentions: bool
    ) -> BackboneOutput:
        """Run timm's `forward_intermediates` up to the last level needed."""
        indices = (
            list(range(self.final_stage(output_hidden_states) + 1)) if output_hidden_states else list(self.selected)
        )
        states = self._run(pixel_values, indices)
        return BackboneOutput(
            feature_maps=tuple(states[indices.index(index)] for index in self.selected),
            hidden_states=tuple(states) if output_hidden_states else None,
        )

    def _run(self, pixel_values: Tensor, indices: list[int]) -> list[Tensor]:
        if not indices:
            return []
        height, width = pixel_values.shape[-2:]
        self._check_size(height, width)
        self.forget_attention_biases()
        if torch.compiler.is_compiling():
            return timm_levels(self.timm_model, pixel_values, indices)
        try:
            return timm_levels(self.timm_model, pixel_values, indices)
        except UNFIT as error:
            if self._probe(height, width) is not None:
                raise
            raise self._unfit(height, width) from error

    def map_sizes(self, height: int, width: int) -> list[Size]:
        """Map size of every level up to the last selected one, found by a run on the meta device.

        Raises:
            ValueError: the architecture does not run at this size; names one it runs at.
        """
        self._check_size(height, width)
        sizes = self._probe(height, width)
        if sizes is None:
            raise self._unfit(height, width)
        return sizes[: self.last_stage + 1]

    def _probe(self, height: int, width: int) -> list[Size] | None:
        """Map size of every level, or None where the architecture does not run; each size is tried once."""
        if type(self.timm_model).__name__ in timm_models.NO_META_RUN:
            return [(int(height // stage.stride[0]), int(width // stage.stride[1])) for stage in self.stages]
        if self.last_stage < 0:
            return []
        key = (height, width, self.last_stage)
        if key not in self._sizes:
            with torch.device("meta"), torch.no_grad():
                twin = build_configured(self.config).eval()
                pixels = torch.empty(1, self.config.num_channels, height, width)
                try:
                    states = timm_levels(twin, pixels, list(range(self.last_stage + 1)))
                except UNFIT:
                    return None
            self._sizes[key] = [(state.shape[-2], state.shape[-1]) for state in states]
        return self._sizes[key]

    def _check_size(self, height: int, width: int) -> None:
        fixed = type(self.timm_model).__name__ in timm_models.RESIZES_INPUT
        if fixed and timm_models.native_size(self.timm_model) != (height, width):
            raise self._unfit(height, width)

    def _unfit(self, height: int, width: int) -> ValueError:
        size = "x".join(map(str, self.native_size))
        return ValueError(
            f"timm's {self.config.backbone} does not run on images of {height}x{width}. It runs at {size}. Other sizes may need "
            f"model_args={{'img_size': ({height}, {width})}} or {{'dynamic_img_size': True}}, where the architecture takes them, "
            f"or size_policy='pad', where a multiple of {self.size_divisor} is all it wants and it is not in use yet."
        )

    def timm_arguments(self) -> dict[str, Any]:
        """Name, input channels, constructor arguments and cfg of the timm model."""
        config = self.config
        cfg = dict(config.pretrained_cfg or {})
        return {"name": config.backbone, "in_chans": config.num_channels, "args": config.timm_args, "cfg": cfg}


def timm_levels(model: Any, pixel_values: Tensor, indices: list[int]) -> list[Tensor]:
    """The maps of the levels `indices` (ascending), `(b, c, h, w)` each, before any final norm."""
    return list(
        model.forward_intermediates(
            pixel_values, indices=indices, norm=False, stop_early=True, output_fmt="NCHW", intermediates_only=True
        )
    )
