"""The contract every backbone keeps: images in, one `(b, c, h, w)` map per selected stage out, every claim checkable."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from vertebra.backbones.config import BackboneConfigMixin
from vertebra.backbones.freezing import FrozenReport, freeze_modules, report_frozen, unfreeze_modules
from vertebra.model import PreTrainedModel
from vertebra.outputs import BackboneOutput
from vertebra.stages import Stage, Stride, plain_stride, select_by_stride

Size = tuple[int, int]


class Backbone(PreTrainedModel):
    """Images to multi-scale feature maps.

    A family implements `describe_stages`, which says what all its stages are, and `forward_features`, which computes the
    selected ones; it builds only the stages up to `self.last_stage` and ends its constructor with `self.post_init()`.

    Args:
        config: Configuration with a selection of stages; the backbone keeps a copy of its own.
    """

    has_attentions: ClassVar[bool] = True
    first_map: ClassVar[int] = 0
    """Index of the first stage that can be selected; those before it have hidden states alone."""
    config: BackboneConfigMixin

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.config = copy.deepcopy(config)
        self.stages: tuple[Stage, ...] = tuple(self.describe_stages())
        if self.config.out_strides is not None:
            self.config.out_indices = select_by_stride(self.stages, self.config.out_strides)
        self._frozen_names: set[str] = set()
        self.built_stages: tuple[int, ...] = self.selected
        """Indices of the stages that were selected when the backbone was built."""

    @abstractmethod
    def describe_stages(self) -> Iterable[Stage]:
        """All stages the architecture has, in order, from `self.config` alone."""

    @abstractmethod
    def forward_features(
        self, pixel_values: Tensor, *, output_hidden_states: bool, output_attentions: bool
    ) -> BackboneOutput:
        """Compute the maps of `self.selected` from `(b, c, h, w)` pixels, and nothing beyond the last of them."""

    def map_sizes(self, height: int, width: int) -> list[Size]:
        """Map size of every stage up to the last selected one; the default rounds up at every stage.

        Raises:
            ValueError: the architecture cannot run at this size; names a size that works.
        """
        stages = self.stages[: self.last_stage + 1]
        return [(math.ceil(height / stage.stride[0]), math.ceil(width / stage.stride[1])) for stage in stages]

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

    def final_stage(self, output_hidden_states: bool) -> int:
        """Index of the last stage to run: unpruned backbones give the hidden states of all stages."""
        return len(self.stages) - 1 if output_hidden_states and not self.config.prune else self.last_stage

    @property
    def output_stages(self) -> tuple[Stage, ...]:
        """The selected stages."""
        return tuple(self.stages[index] for index in self.selected)

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

    # Image sizes

    @property
    def size_divisor(self) -> int:
        """Sizes that are multiples of it are divided by every computed stage without a remainder."""
        strides = [hop for stage in self.stages[: self.last_stage + 1] for hop in stage.stride]
        return math.lcm(*(hop.numerator for hop in strides)) if strides else 1

    def accepts(self, height: int, width: int) -> bool:
        """Whether images of this size run."""
        try:
            self.output_shapes(height, width)
        except ValueError:
            return False
        return True

    def output_shapes(self, height: int, width: int) -> dict[str, tuple[int, int, int]]:
        """Stage name to `(channels, height, width)` of each selected map, without running.

        Raises:
            ValueError: images of this size do not run; names a size that does.
        """
        sizes = self.map_sizes(*self._fitted(height, width))
        if self.config.size_policy == "pad":
            sizes = [
                self._covering(stage, height, width, size) for stage, size in zip(self.stages, sizes, strict=False)
            ]
        return {self.stages[index].name: (self.stages[index].channels, *sizes[index]) for index in self.selected}

    def _fitted(self, height: int, width: int) -> Size:
        """The size at which the network runs for an image of `height` and `width` under the size policy."""
        divisor = self.size_divisor
        if min(height, width) < 1:
            raise ValueError(
                f"An image of {height}x{width} has no pixels; sizes are height and width in pixels, from 1x1."
            )
        if self.config.size_policy == "pad":
            return math.ceil(height / divisor) * divisor, math.ceil(width / divisor) * divisor
        if self.config.size_policy == "floor":
            if min(height, width) < divisor:
                raise ValueError(
                    f"An image of {height}x{width} is smaller than one cell of the last stage, and size_policy='floor' would "
                    f"leave nothing of it. The smallest size is {divisor}x{divisor}; size_policy='pad' takes any."
                )
            return height // divisor * divisor, width // divisor * divisor
        return height, width

    @staticmethod
    def _covering(stage: Stage, height: int, width: int, size: Size) -> Size:
        """The part of a padded map that covers the image itself."""
        return min(size[0], math.ceil(height / stage.stride[0])), min(size[1], math.ceil(width / stage.stride[1]))

    @property
    def native_size(self) -> Size:
        """The image size the architecture is made for: `config.image_size`, or 224x224 where it does not say."""
        size = getattr(self.config, "image_size", 224)
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    @property
    def exceptions(self) -> Mapping[str, str]:
        """Claims of the contract that this architecture is known not to keep, each with the reason: `"cells"` where a map is
        smaller than size over stride, `"gradients"` where a pruned backbone keeps parameters without a gradient.
        """
        return {}

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
            output.hidden_states = tuple(map(crop, self.stages, output.hidden_states))

    # Freezing

    def twin(self, device: str = "meta", **changes: Any) -> Backbone:
        """The same architecture with random weights (none on the meta device), unfrozen, with `changes` to its configuration."""
        config = copy.deepcopy(self.config)
        for name, value in {"freeze": None, **changes}.items():
            setattr(config, name, value)
        with torch.device(device):
            return type(self)(config)

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

    def _stage_index(self, stage: str | int) -> int:
        config = copy.deepcopy(self.config)
        config.set_output_features_output_indices(
            [stage] if isinstance(stage, str) else None, None if isinstance(stage, str) else [stage]
        )
        return config.out_indices[0] % len(self.stages)
