"""Every architecture of timm as a backbone: built on the plain model, pruned, its maps always `(b, c, h, w)`."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from vertebra.backbones import timm_models, timm_sizes
from vertebra.backbones.base import Backbone
from vertebra.backbones.config import FORMAT, BackboneConfigMixin
from vertebra.backbones.freezing import frozen_class, unfreeze_modules
from vertebra.backbones.sizes import Size, SizeError
from vertebra.backbones.timm_module import TimmModule, outline
from vertebra.backbones.timm_probe import UNFIT, SizeProbe, can_be_built, settle_size, swollen, timm_levels
from vertebra.backbones.timm_spelling import wrapped_spelling
from vertebra.backbones.timm_tables import fitted_tables
from vertebra.backbones.tracing import located, measure
from vertebra.hub import HubOptions
from vertebra.loading import LoadReport
from vertebra.outputs import BackboneOutput
from vertebra.stages import Stage
from vertebra.weights import WeightFiles

ARCHITECTURE = ("backbone", "model_args", "output_stride", "num_channels")
"""The keys that decide what the levels are."""
DEPENDS = "its padding depends on the image size; backbone.measure_offsets(height, width) is exact for one size"


class TimmBackboneConfig(BackboneConfigMixin):
    """Configuration of a timm architecture as a backbone.

    Args:
        backbone: Name of the architecture, with or without a tag of its weights (`resnet50`, `resnet50.a1_in1k`).
        num_channels: Channels of the input.
        features_only: Always True; kept for files.
        use_pretrained_backbone: Whether `TimmBackbone(config)` loads timm's weights; False for random ones.
        use_timm_backbone: Always True; kept for files.
        freeze_batch_norm_2d: Whether all batch norms are frozen.
        output_stride: Largest stride (8, 16 or 32) for architectures that can dilate; None for their own.
        model_args: Further arguments of timm's constructor, e.g. `{"img_size": (320, 512)}`.
        image_size: `(height, width)` or a side: the size of the images that will come, whatever the class calls it. When the
            backbone is built it becomes `img_size` among the `model_args` where tables or windows depend on it, and nothing
            otherwise.
        pretrained_cfg: timm's description of the weights (sizes, mean, interpolation), kept for the image processor.

    Stages are timm's levels under timm's module names: index 0 of a ResNet is `act1` at stride 2, index 0 of a ConvNeXt its
    first stage. Default selection: the last level.
    """

    model_type = "timm_backbone"
    knows_stages = False
    no_dilation = None
    own_keys = ("prune", "freeze", "size_policy")

    backbone: str | None = None
    num_channels: int = 3
    features_only: bool = True
    use_pretrained_backbone: bool = True
    use_timm_backbone: bool = True
    freeze_batch_norm_2d: bool = False
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
                model = timm_models.build_configured(self)
            self.know_stages([stage.name for stage in timm_models.describe_levels(model)])
        return self._known_names()

    def know_stages(self, names: list[str]) -> None:
        """Keep the names of the levels, for as long as the architecture stays the same."""
        self._stage_names, self._stages_of = names, self._architecture()

    def _known_names(self) -> list[str] | None:
        return self._stage_names if vars(self).get("_stages_of") == self._architecture() else None

    @property
    def image_size(self) -> Size | None:
        """The size asked for; once the backbone is built, None where nothing depends on it."""
        return vars(self).get("_image_size")

    @image_size.setter
    def image_size(self, size: int | Sequence[int] | None) -> None:
        sides = (size, size) if isinstance(size, int) else size
        if sides is not None and (len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides)):
            raise ValueError(f"image_size={size!r} must be (height, width) in pixels, such as (320, 512), or one side.")
        self._image_size = None if sides is None else (sides[0], sides[1])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as a dictionary; an `image_size` that no backbone was built for yet stands under `vertebra`."""
        content = super().to_dict()
        if self.image_size is not None:
            content["vertebra"] = {"format": FORMAT, **content.get("vertebra", {}), "image_size": list(self.image_size)}
        return content

    @property
    def timm_args(self) -> dict[str, Any]:
        """All arguments of timm's constructor but the input channels."""
        # 32 is every architecture's own; those that cannot dilate do not take the argument at all
        dilating = {"output_stride": self.output_stride} if self.output_stride not in (None, 32) else {}
        return {**(self.model_args or {}), **dilating}

    def _selection_keys(self) -> dict[str, Any]:
        if self._known_names() is None:
            return dict(self._selection)
        # transformers 4 refuses out_features of timm backbones; the indices say the same
        return {name: value for name, value in super()._selection_keys().items() if name != "out_features"}

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


class TimmBackbone(TimmModule, Backbone):
    """A timm architecture as a backbone.

    Parameters keep timm's own names whatever is selected. As in transformers 4, `TimmBackbone(config)` loads timm's
    pretrained weights unless the configuration says `use_pretrained_backbone=False`.

    Raises:
        ValueError: timm has no such architecture or weights, or does not take the arguments.
    """

    config_class = TimmBackboneConfig
    has_attentions = False
    config: TimmBackboneConfig

    def __init__(self, config: TimmBackboneConfig) -> None:
        config = self.own_config(config)
        if config.image_size is not None:
            config = settle_size(config, _on_meta)
        fetch = config.use_pretrained_backbone and torch.get_default_device().type != "meta"
        with torch.device("meta") if fetch else nullcontext():
            model: Any = timm_models.build_configured(config)
        self.__dict__["_levels"] = timm_models.describe_levels(model)
        self.__dict__["_whole"] = frozenset(model.state_dict(keep_vars=True))
        config = copy.deepcopy(config)
        config.know_stages(
            [level.name for level in self.__dict__["_levels"]]
        )  # else it builds the architecture once more
        super().__init__(config)
        self.config.know_stages([stage.name for stage in self.stages])
        self._probe = SizeProbe(self.config)
        if self.config.prune:
            timm_models.prune(model, self.selected)
        self.adopt(model)
        if fetch:
            files = timm_models.pretrained_files(str(config.backbone), HubOptions())
            self.load_weights(self.find_weights(files, None, None))
        self.post_init()

    @classmethod
    def from_pretrained(
        cls, source: Any, *args: Any, config: Any = None, image_size: int | Sequence[int] | None = None, **kwargs: Any
    ) -> Any:
        """Load a timm checkpoint; see `TimmModule.from_pretrained`.

        Args:
            source: As there.
            *args: As there.
            config: As there.
            image_size: `(height, width)` in pixels, or one side: the backbone is built for images of this size. What has the
                shape of the native size is resampled by timm's own loader.
            **kwargs: As there.

        Raises:
            ValueError: the architecture cannot run at that size; names the nearest size at which it can.
        """
        if image_size is not None and config is None:
            kwargs["image_size"] = image_size
        elif image_size is not None:
            config = copy.deepcopy(cls.own_config(config))
            config.image_size = image_size
        return super().from_pretrained(source, *args, config=config, **kwargs)

    @classmethod
    def own_config(cls, config: Any) -> Any:
        """A configuration of this class from one of timm's with its head."""
        return TimmBackboneConfig.of(config) if hasattr(config, "architecture") else config

    def describe_stages(self) -> Iterable[Stage]:
        """Timm's levels, under timm's module names."""
        levels: list[Stage] = self.__dict__["_levels"]
        bound = self.config.output_stride
        if bound is not None and any(max(level.stride) > bound for level in levels):
            raise timm_models.undilated(str(self.config.backbone), bound)
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

    def unpruned_names(self) -> set[str]:
        """Names of all tensors of the backbone with nothing pruned."""
        return set(self.__dict__["_whole"])

    def names_elsewhere(self) -> Mapping[str, str]:
        """As in `Backbone.names_elsewhere`: the names of timm's feature extractors."""
        return wrapped_spelling(str(self.config.backbone), self.state_dict(), self.selected, self.config.timm_args)

    def pruned_size(self, index: int) -> int:
        """Parameters of a backbone that ends with a stage; see `Backbone.pruned_size`."""
        if self.config.prune:
            return super().pruned_size(index)
        ending: Any = outline(self.timm_model)
        timm_models.prune(ending, [index])
        return sum(parameter.numel() for parameter in ending.parameters())

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

    def load_weights(self, weights: WeightFiles, **options: Any) -> LoadReport:
        """As for every timm model; position tables that timm's loader does not resample are resampled first.

        Raises:
            ValueError: the backbone is built for another size than the weights, and nobody resamples what depends on it.
        """
        if (self.config.model_args or {}).get("img_size") is not None and not options.get("ignore_mismatched_sizes"):
            weights = fitted_tables(self, weights)
        return super().load_weights(weights, **options)

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
        if (reason := self._fixed_size_reason(height, width)) is not None:
            raise self.refuse_size(height, width, reason)
        self.forget_attention_biases()
        if torch.compiler.is_compiling():
            return timm_levels(self.timm_model, pixel_values, indices)
        try:
            states = timm_levels(self.timm_model, pixel_values, indices)
        except UNFIT as error:
            if self._probe.map_sizes(height, width, self.last_stage) is not None:
                raise
            raise self.refuse_size(height, width, self._misfit(height, width)) from error
        if any(swollen(self.stages[index], state, height, width) for index, state in zip(indices, states, strict=True)):
            raise self.refuse_size(height, width, self._misfit(height, width))
        return states

    def map_sizes(self, height: int, width: int) -> list[Size]:
        """Map size of every level up to the last selected one, found by a run on the meta device.

        Raises:
            ValueError: the architecture does not run at this size.
        """
        if (reason := self._fixed_size_reason(height, width)) is not None:
            raise ValueError(reason)
        sizes = self._probe.map_sizes(height, width, self.last_stage)
        if sizes is None:
            raise ValueError(self._misfit(height, width))
        return sizes

    def size_steps(self) -> list[Size]:
        """As in `SizePolicy.size_steps`; also what sides of a few classes must be multiples of."""
        side = timm_sizes.NO_META_RUN.get(type(self.timm_model).__name__)
        return [*super().size_steps(), *([] if side is None else [(side, side)])]

    def measure_offsets(
        self, height: int | None = None, width: int | None = None
    ) -> dict[str, tuple[Fraction, Fraction] | None]:
        """Measure where the first cell of every level lies, on the meta device; see `Backbone.measure_offsets`.

        Without a size, the native size is compared with one that is odd at every level: where both agree the offset holds for
        every size, and is filled in to `stages`. "Same" padding makes it depend on the size; it is exact for a size given here.
        None means that paths with different centres meet, as in anti-aliased shortcuts, or that cells are regrouped in a way
        that is not followed; the error of `Stage.cell_to_pixel` says which.
        """
        if type(self.timm_model).__name__ in timm_sizes.NO_META_RUN:
            return {stage.name: None for stage in self.stages}
        if height is not None and width is not None:
            fitted = self._fitted(height, width)
            if self._probe.map_sizes(*fitted, len(self.stages) - 1) is None:
                raise self.refuse_size(height, width, self._misfit(height, width))
            return {stage.name: stage.offset for stage in self._measured(*fitted)}
        height, width = self.native_size
        found = self._measured(height, width)
        divisor = self.size_divisor
        odd = (height // divisor * divisor + divisor + 1, width // divisor * divisor + divisor + 1)
        if self._probe.map_sizes(*odd, len(self.stages) - 1) is not None:
            found = [
                stage if stage.offset == other.offset else replace(stage, offset=None, offset_note=DEPENDS)
                for stage, other in zip(found, self._measured(*odd), strict=True)
            ]
        self.__dict__["stages"] = tuple(found)  # some models have a child of this name
        return {stage.name: stage.offset for stage in found}

    def _measured(self, height: int, width: int) -> list[Stage]:
        with torch.device("meta"):
            model = timm_models.build_configured(self.config).eval()
        every = list(range(len(self.stages)))
        states = measure(lambda pixels: timm_levels(model, pixels, every), self.config.num_channels, height, width)
        return [located(stage, state) for stage, state in zip(self.stages, states, strict=True)]

    @property
    def is_flexible(self) -> bool:
        """Whether timm's constructor was given what makes other sizes run; see `timm_sizes.FLEXIBLE`."""
        given = self.config.timm_args
        flexible = timm_sizes.flexible_args(timm_models.module_of(str(self.config.backbone)), given)
        return bool(flexible) and not timm_sizes.cuts_patches(
            self.timm_model, given.get("img_size") or self.native_size
        )

    def refuse_size(self, height: int, width: int, why: Exception | str, near: Size | None = None) -> SizeError:
        """As in `SizePolicy.refuse_size`; also says where the architecture runs only when built for the size."""
        error = super().refuse_size(height, width, why, near)
        fixed = near is None and not self.is_flexible
        if fixed and can_be_built(self.config, self._fitted(height, width), self.last_stage):
            return SizeError(f"{error} from_pretrained(…, image_size=({height}, {width})) builds it for that size.")
        return error

    def _fixed_size_reason(self, height: int, width: int) -> str | None:
        reason = timm_sizes.fixed_size_reason(self.timm_model, height, width, timm_models.native_size(self.timm_model))
        return reason and f"{self._misfit(height, width)}: {reason}"

    def _misfit(self, height: int, width: int) -> str:
        return f"timm's {self.config.backbone} does not run on images of {height}x{width}"

    def timm_arguments(self) -> dict[str, Any]:
        """Name, input channels, constructor arguments and cfg of the timm model."""
        config = self.config
        cfg = dict(config.pretrained_cfg or {})
        return {"name": config.backbone, "in_chans": config.num_channels, "args": config.timm_args, "cfg": cfg}


def _on_meta(config: TimmBackboneConfig) -> TimmBackbone:
    with torch.device("meta"):
        return TimmBackbone(config)
