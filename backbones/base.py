"""The contract every backbone keeps: images in, one `(b, c, h, w)` map per selected stage out, every claim checkable."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from vertebra.backbones.config import BackboneConfigMixin
from vertebra.backbones.dilation import capped
from vertebra.backbones.freezing import FrozenReport, freeze_modules, report_frozen, unfreeze_modules
from vertebra.backbones.layers import one_size
from vertebra.backbones.sizes import Size as Size
from vertebra.backbones.sizes import SizePolicy
from vertebra.backbones.timm_native import ReadsTimm
from vertebra.card import CardFacts
from vertebra.outputs import BackboneOutput
from vertebra.stages import Stage, Stride, plain_stride, select_by_stride

if TYPE_CHECKING:
    from vertebra.backbones.param_groups import ParamGroups


class Backbone(SizePolicy, ReadsTimm):
    """Images to multi-scale feature maps.

    A family implements `describe_stages`, which says what all its stages are, and `forward_features`, which computes the
    selected ones; it builds only the stages up to `self.last_stage` and ends its constructor with `self.post_init()`.

    Args:
        config: Configuration with a selection of stages; the backbone keeps a copy of its own.
        stages: All stages, where more than the configuration is needed to know them; `describe_stages` tells them otherwise.
    """

    has_attentions: bool = True
    first_map: ClassVar[int] = 0
    """Index of the first stage that can be selected; those before it have hidden states alone."""
    config: BackboneConfigMixin

    def __init__(self, config: Any, stages: Iterable[Stage] | None = None) -> None:
        super().__init__(config)
        self.config = copy.deepcopy(config)
        self.stages: tuple[Stage, ...] = tuple(
            capped(self.describe_stages(), self.config.output_stride, self.config.no_dilation)
            if stages is None
            else stages
        )
        if self.config.out_strides is not None:
            self.config.out_indices = select_by_stride(self.stages, self.config.out_strides)
        self._frozen_names: set[str] = set()
        self.built_stages: tuple[int, ...] = self.selected
        """Indices of the stages that were selected when the backbone was built."""

    def describe_stages(self) -> Iterable[Stage]:
        """All stages the architecture has, in order, from `self.config` alone."""
        raise NotImplementedError(f"{type(self).__name__} must implement describe_stages, or pass its stages on.")

    @abstractmethod
    def forward_features(
        self, pixel_values: Tensor, *, output_hidden_states: bool, output_attentions: bool
    ) -> BackboneOutput:
        """Compute the maps of `self.selected` from `(b, c, h, w)` pixels, and nothing beyond the last of them."""

    @classmethod
    def from_pretrained(cls, source: Any, *args: Any, image_size: int | Size | None = None, **kwargs: Any) -> Any:
        """As for every model, for images of a size that is known.

        Args:
            source: As in `PreTrainedModel.from_pretrained`, which describes all others too.
            *args: Further positional arguments of the constructor.
            image_size: `(height, width)` in pixels, or one side. Families here resize position tables to every image as it
                comes, so that all this does is to check that such images run; timm's architectures are built for it.
            **kwargs: As there.

        Raises:
            ValueError: images of this size do not run; names the nearest size that does.
        """
        loaded = super().from_pretrained(source, *args, **kwargs)
        if image_size is not None:
            backbone = loaded[0] if isinstance(loaded, tuple) else loaded
            backbone.output_shapes(*((image_size, image_size) if isinstance(image_size, int) else image_size))
        return loaded

    @classmethod
    def config_from(cls, content: Mapping[str, Any], **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """As for every model; families whose configuration has no `image_size` need none."""
        if "image_size" not in cls.config_class._settable():
            kwargs.pop("image_size", None)
        return super().config_from(content, **kwargs)

    def post_init(self) -> None:
        """Initialise the weights and freeze what the configuration says is frozen; the last line of every constructor."""
        super().post_init()
        if self.config.freeze is not None:
            self.freeze(self.config.freeze)

    # Selection

    @property
    def stage_names(self) -> list[str]:
        """Names of all stages."""
        return [stage.name for stage in self.stages]

    @property
    def out_features(self) -> list[str]:
        """Names of the selected stages. May be narrowed; widened only with `prune=False`."""
        return self.config.out_features

    @out_features.setter
    def out_features(self, names: Sequence[str]) -> None:
        self._narrow("out_features", names)

    @property
    def out_indices(self) -> list[int]:
        """Indices of the selected stages, as given. May be narrowed; widened only with `prune=False`."""
        return self.config.out_indices

    @out_indices.setter
    def out_indices(self, indices: Iterable[int]) -> None:
        self._narrow("out_indices", indices)

    @property
    def out_strides(self) -> list[Stride]:
        """Strides of the selected maps; assigning selects the deepest stage of each stride."""
        return self.strides

    @out_strides.setter
    def out_strides(self, strides: Iterable[Any]) -> None:
        self.out_indices = select_by_stride(self.stages, strides)

    def _narrow(self, argument: str, value: Any) -> None:
        config = copy.deepcopy(self.config)
        setattr(config, argument, value)
        self._check_built(argument, value, [index % len(self.stages) for index in config.out_indices])
        setattr(self.config, argument, value)

    def _check_built(self, argument: str, value: Any, selected: Sequence[int]) -> None:
        if self.config.prune and not set(selected) <= set(self.built_stages):
            built = [self.stages[index].name for index in self.built_stages]
            raise ValueError(
                f"{argument}={value!r} asks for stages this pruned backbone was not built with (it has {built}). Build it with "
                f"the stages wanted, or with prune=False to keep them all."
            )

    @property
    def selected(self) -> tuple[int, ...]:
        """Indices of the selected stages, counted from the start."""
        return tuple(index % len(self.stages) for index in self.config.out_indices)

    @property
    def last_stage(self) -> int:
        """Index of the last stage that is computed; -1 when none is selected."""
        return max(self.selected, default=-1)

    @property
    def last_built_stage(self) -> int:
        """Index of the last stage that exists: the last of all with `prune=False`."""
        return max(self.built_stages, default=-1) if self.config.prune else len(self.stages) - 1

    @property
    def selectable_stages(self) -> tuple[Stage, ...]:
        """The stages that can be selected as it is built: those it was built for, and with `prune=False` all that have a map."""
        unpruned = () if self.config.prune else range(self.first_map, len(self.stages))
        return tuple(self.stages[index] for index in sorted({*self.built_stages, *unpruned}))

    def final_stage(self, output_hidden_states: bool) -> int:
        """Index of the last stage to run: unpruned backbones give the hidden states of all stages."""
        return len(self.stages) - 1 if output_hidden_states and not self.config.prune else self.last_stage

    @property
    def output_stages(self) -> tuple[Stage, ...]:
        """The selected stages."""
        return tuple(self.stages[index] for index in self.selected)

    @property
    def hidden_stages(self) -> tuple[Stage, ...]:
        """The stages that hidden states belong to."""
        return self.stages

    @property
    def channels(self) -> list[int]:
        """Channels of each selected map."""
        return [stage.channels for stage in self.output_stages]

    @property
    def strides(self) -> list[Stride]:
        """Stride of each selected map, in pixels of the input."""
        return [plain_stride(stage.stride) for stage in self.output_stages]

    @property
    def num_features(self) -> list[int]:
        """Channels of all stages."""
        return [stage.channels for stage in self.stages]

    @property
    def out_feature_channels(self) -> dict[str, int]:
        """Stage name to channels, of the selected stages."""
        return {stage.name: stage.channels for stage in self.output_stages}

    def measure_offsets(
        self, height: int | None = None, width: int | None = None
    ) -> dict[str, tuple[Fraction, Fraction] | None]:
        """Where the first cell of every stage lies: stage name to the offset that `Stage` describes.

        Families here state it. For a timm architecture it is measured, the first call also fills it in to `stages`.

        Args:
            height: Of the images, in pixels; with `width` the answer is for images of this size alone.
            width: Of the images, in pixels.

        Raises:
            ValueError: images of this size do not run.
        """
        return {stage.name: stage.offset for stage in self.stages}

    @property
    def exceptions(self) -> Mapping[str, str]:
        """Claims of the contract that this architecture is known not to keep, each with the reason: `"cells"` where a map is
        smaller than size over stride, `"gradients"` where a pruned backbone keeps parameters without a gradient.
        """
        return {}

    def card_facts(self) -> CardFacts:
        """What a model card says about a backbone: every stage and what becomes of it, sizes, and what is frozen."""
        facts, config = super().card_facts(), self.config
        roles = dict.fromkeys(range(self.last_built_stage + 1), "computed") | dict.fromkeys(self.selected, "returned")
        sizes = {"floor": "cropped to a multiple of", "pad": "padded to a multiple of"}.get(config.size_policy or "")
        return replace(
            facts,
            summary="images to feature maps, `(batch, channels, height / stride, width / stride)` of each stage returned.",
            facts={
                **facts.facts,
                "image channels": str(config.num_channels),
                "image sizes": f"{sizes} {self.size_divisor}" if sizes else "the architecture's own rule",
                "made for": "x".join(map(str, self.native_size)),
                "frozen up to": f"`{config.freeze}`" if config.freeze else "nothing is frozen",
            },
            pixels=(config.num_channels, *self.native_size),
            show="for name, feature_map in zip(model.out_features, output.feature_maps):\n"
            "    print(name, tuple(feature_map.shape))",
            stages=[(stage, roles.get(stage.index, "not in these files")) for stage in self.stages],
        )

    # Running

    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> BackboneOutput | tuple[Any, ...]:
        """Compute the selected feature maps.

        Args:
            pixel_values: `(b, c, h, w)` images, normalised as the image processor does.
            output_hidden_states: Also return the states of all stages up to the last selected one.
            output_attentions: Also return attention weights, where the family has attention.
            return_dict: False returns a plain tuple of what is not None.

        Raises:
            ValueError: pixels of another shape, a size that cannot run, or attentions where there are none.
        """
        config = self.config
        hidden, attentions, as_dict = self.asked_for(output_hidden_states, output_attentions, return_dict)
        self._check_built("config.out_indices", config.out_indices, self.selected)
        self._check_pixels(pixel_values)
        if attentions and not self.has_attentions:
            raise ValueError(f"{type(self).__name__} has no attention weights to return; leave output_attentions out.")
        if config.size_policy is not None:
            pixel_values = one_size(pixel_values)
        height, width = pixel_values.shape[-2:]
        fitted = self._fitted(height, width)
        if config.size_policy is not None and fitted != (height, width):
            pixel_values = F.pad(pixel_values, (0, fitted[1] - width, 0, fitted[0] - height))
        output = self.forward_features(pixel_values, output_hidden_states=hidden, output_attentions=attentions)
        if config.size_policy == "pad" and fitted != (height, width):
            self._crop(output, height, width)
        return output if as_dict else output.to_tuple()

    def _check_pixels(self, pixel_values: Tensor) -> None:
        channels = self.config.num_channels
        if pixel_values.ndim != 4 or pixel_values.shape[1] != channels:
            raise ValueError(
                f"pixel_values of shape {tuple(pixel_values.shape)} must be (batch, {channels}, height, width). An image processor "
                f"makes them: processor(image, return_tensors='pt').pixel_values."
            )

    def _crop(self, output: BackboneOutput, height: int, width: int) -> None:
        def crop(stage: Stage, state: Tensor) -> Tensor:
            rows, columns = self._covering(stage, height, width, (state.shape[-2], state.shape[-1]))
            return state[..., :rows, :columns]

        output.feature_maps = tuple(map(crop, self.output_stages, output.feature_maps or ()))
        if output.hidden_states is not None:
            output.hidden_states = tuple(map(crop, self.hidden_stages, output.hidden_states))

    # Freezing

    def twin(self, device: str = "meta", **changes: Any) -> Backbone:
        """The same architecture with random weights (none on the meta device), unfrozen, with `changes` to its configuration."""
        config = copy.deepcopy(self.config)
        for name, value in {"freeze": None, **changes}.items():
            setattr(config, name, value)
        with torch.device(device):
            return type(self)(config)

    def pruned_size(self, index: int) -> int:
        """Number of parameters of a backbone of this architecture that is pruned to the stage `index` alone."""
        return self.twin(out_indices=[index], prune=True).num_parameters()

    def names_elsewhere(self) -> Mapping[str, str]:
        """Own name of every tensor to the one that transformers gives it inside other models, where it has another there."""
        return {}

    def unpruned_names(self) -> set[str]:
        """Names of all tensors of the backbone with nothing pruned."""
        return set(self.twin(prune=False).state_dict())

    def freeze(self, upto: str | int | None = None) -> FrozenReport:
        """Freeze everything up to and including the stage `upto` (all that is built when None), for good.

        Frozen parameters have no gradient, and frozen norms, dropout and drop path stay in evaluation mode whatever
        `.train()` is called on. It is stored with the configuration and holds after saving and loading. What replaces
        modules (`SyncBatchNorm.convert_sync_batchnorm`) comes before it.

        Returns:
            What is frozen, printable.

        Raises:
            ValueError: there is no such stage, or it was pruned.
        """
        index = self._stage_index(self.stages[self.last_built_stage].name if upto is None else upto)
        if index > self.last_built_stage:
            raise ValueError(
                f"Stage {self.stages[index].name!r} was pruned: this backbone ends with "
                f"{self.stages[self.last_built_stage].name!r}. Freeze up to that, or build with prune=False."
            )
        self.unfreeze()
        self._frozen_names = freeze_modules(self, self.twin(out_indices=range(self.first_map, index + 1), prune=True))
        self.config.freeze = self.stages[index].name
        return self.frozen_report()

    def unfreeze(self) -> None:
        """Undo `freeze`: what it froze is trainable again."""
        if self.config.freeze is not None:
            unfreeze_modules(self, self._frozen_names)
            self.config.freeze = None

    def frozen_report(self) -> FrozenReport:
        """What is frozen: parameters, modules, and the stage up to which."""
        return report_frozen(self, self.config.freeze)

    def param_groups(
        self, lr: float, weight_decay: float = 0.05, layer_decay: float | None = None, **options: Any
    ) -> ParamGroups:
        """The trainable parameters in groups for an optimizer; see `vertebra.param_groups`, which takes `options` as well."""
        from vertebra.backbones.param_groups import param_groups

        return param_groups(self, lr, weight_decay, layer_decay, **options)

    def _stage_index(self, stage: str | int) -> int:
        config = copy.deepcopy(self.config)
        config.set_output_features_output_indices(
            [stage] if isinstance(stage, str) else None, None if isinstance(stage, str) else [stage]
        )
        return config.out_indices[0] % len(self.stages)
