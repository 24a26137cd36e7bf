"""What the configurations of all necks share: the backbone below, and the levels made of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from vertebra.auto.config import AutoConfig
from vertebra.backbones.config import BackboneConfigMixin
from vertebra.config import PreTrainedConfig
from vertebra.errors import listing
from vertebra.stages import Stage, exact_strides, pair, select_by_stride, select_stages, stride_text


class NeckConfig(BackboneConfigMixin):
    """Base of the configurations of necks.

    Every level is a stage called `stride4`, `stride8`, …; unlike a plain backbone, a neck whose selection nobody chose returns
    all of them.

    Args:
        backbone_config: Configuration of the backbone below, or its dictionary.
        channels: Channels of every level; None keeps those of the map a level is made of, where the neck allows it.
        strides: Stride of each level in pixels of the image, ascending; 3.5 and `(4, 8)` (vertical, horizontal) are strides too.
        in_features: Name of the backbone's stage that each level is made of; the last one stands for all further levels.
    """

    no_dilation = (
        "a neck has the strides it is given, and dilation is the backbone's: pyramid(name, output_stride=8, …)."
    )

    backbone_config: Mapping[str, Any] | PreTrainedConfig | None = None
    channels: int | None = 256
    strides: Sequence[Any] = ()
    in_features: Sequence[str] = ()

    def _settle(self, given: dict[str, Any]) -> None:
        if isinstance(self.backbone_config, Mapping):
            below = self.backbone_config
            self.backbone_config = AutoConfig.class_of(below, type(self).__name__).from_dict(below)
        if not isinstance(self.backbone_config, BackboneConfigMixin):
            raise ValueError(
                f"backbone_config={self.backbone_config!r} must be the configuration of a backbone, such as ResNetConfig(). "
                f"{type(self).__name__.removesuffix('Config')}(backbone) fills it in from a backbone that is built."
            )
        super()._settle(given)

    def validate(self) -> None:
        """Check that there are levels, and their width. Raises ValueError."""
        super().validate()
        if not self.strides or not self.in_features:
            raise ValueError(
                f"{type(self).__name__} needs strides and in_features, one entry per level. "
                f"{type(self).__name__.removesuffix('Config')}(backbone, strides=(4, 8, 16, 32)) finds both."
            )
        exact_strides(self.strides)
        if self.channels is not None and (not isinstance(self.channels, int) or self.channels < 1):
            raise ValueError(f"channels={self.channels!r} must be at least 1, and a whole number.")

    @property
    def stage_names(self) -> list[str]:
        """`stride4`, `stride8`, …."""
        return [f"stride{stride_text(stride)}" for stride in self.hops]

    @property
    def hops(self) -> list[tuple[Fraction, Fraction]]:
        """Stride of each level as `(vertical, horizontal)` exact numbers."""
        return [pair(stride) for stride in self.strides]

    @property
    def num_channels(self) -> int:  # type: ignore[override]  # the backbone's, not a key of its own
        """Channels of the images: the backbone's, as which they are stored. Assigning changes the backbone's configuration."""
        return int(self._below.num_channels)

    @num_channels.setter
    def num_channels(self, channels: int) -> None:
        self._below.num_channels = channels

    def source_of(self, level: int) -> str:
        """Name of the backbone's stage that a level is made of."""
        return self.in_features[min(level, len(self.in_features) - 1)]

    def levels(self) -> list[int]:
        """Indices of the levels that are built: the selected ones, or all with `prune=False`."""
        every = range(len(self.strides))
        return [index % len(every) for index in self.out_indices] if self.prune else list(every)

    def backbone_for(self, names: Sequence[str]) -> Any:
        """The configuration of the backbone below, selecting the stages `names`."""
        below = copy.deepcopy(self._below)
        order = below.stage_names
        below.out_features = sorted(set(names), key=order.index)
        return below

    @property
    def _below(self) -> Any:
        return self.backbone_config

    def _select(self, selection: Mapping[str, Any]) -> None:
        if "out_strides" in selection:
            stages = [Stage(name, i, 0, self.hops[i]) for i, name in enumerate(self.stage_names)]
            selection = {**selection, "out_indices": select_by_stride(stages, selection["out_strides"])}
            del selection["out_strides"]
        super()._select(selection)

    def _resolve(self) -> tuple[list[str], list[int]]:
        if not self._selection:
            return select_stages(self.stage_names, out_features=self.stage_names)
        return super()._resolve()


def no_such_strides(neck: str, asked: Sequence[Any], missing: Sequence[Any], stages: Sequence[Stage]) -> ValueError:
    """The error for strides that a neck cannot make, with what exists and what would make them."""
    have = listing(f"{stage.name}: {stride_text(stage.stride)}" for stage in stages)
    lacks = listing(stride_text(pair(stride)) for stride in missing)
    return ValueError(
        f"{neck} cannot make stride {lacks} of strides={[stride_text(pair(stride)) for stride in asked]}: the maps below it have "
        f"{have}. pyramid(backbone, strides, neck='auto') chooses a neck that can; 'interpolate' and 'reassemble' make any "
        f"stride by resampling."
    )
