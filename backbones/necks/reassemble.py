"""Reassembling (DPT, Ranftl et al. 2021): maps of one stride from different depths become levels of different strides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from vertebra.backbones.necks.base import Neck
from vertebra.backbones.necks.blocks import Resize, convolution, ratio_of, whole_ratio
from vertebra.backbones.necks.config import NeckConfig
from vertebra.stages import Stage, pair, plain_stride

STRIDES = (4, 8, 16, 32)


class ReassembleConfig(NeckConfig):
    """Configuration of a reassembling neck.

    Args:
        backbone_config: Configuration of the backbone below.
        channels: Channels of every level; None keeps those of the map it is made of.
        strides: Strides of the levels.
        in_features: The stage of each level, from the finest level (an early block) to the coarsest (the last block).
        hidden_channels: Channels of each level while it is resampled (DPT-Large: 256, 512, 1024, 1024); None for `channels`.
    """

    model_type = "vertebra_reassemble"

    hidden_channels: Sequence[int] | None = None

    def validate(self) -> None:
        """Check that there is a width for each level. Raises ValueError."""
        super().validate()
        if self.hidden_channels is not None and len(self.hidden_channels) != len(self.strides):
            raise ValueError(
                f"hidden_channels={list(self.hidden_channels)} must have one entry for each of the {len(self.strides)} levels."
            )


class Reassemble(Neck):
    """Each level from a map of its own: a 1x1 convolution, resampling (a transposed convolution for whole ratios, a strided one
    for their inverses, exact-ratio bilinear resampling otherwise) and a 3x3 convolution.

    Without `strides` there are levels of stride 4, 8, 16 and 32. Where fewer maps are selected than there are levels, these are
    spread over them, the last map for the coarsest level.
    """

    config_class = ReassembleConfig
    config: ReassembleConfig

    @classmethod
    def wire(cls, stages: Sequence[Stage], strides: Sequence[Any] | None) -> tuple[list[Any], list[str]]:
        """Any strides, of maps spread evenly from early to late."""
        asked = [plain_stride(pair(stride)) for stride in strides or STRIDES]
        return asked, [stage.name for stage in spread(stages, len(asked))]

    @classmethod
    def level(cls, source: Stage, index: int, config: Any) -> Stage:
        """As for every neck, but where a strided convolution keeps the first cell in place."""
        level = super().level(source, index, config)
        if _inverse(source, level) is not None:
            return Stage(level.name, index, level.channels, level.stride, source.offset, source.offset_note)
        return level

    def build(self, levels: Sequence[Stage]) -> None:
        """The layers of each level."""
        sources = {stage.name: stage for stage in self.inputs}
        hidden = self.config.hidden_channels
        self.levels = nn.ModuleDict()
        for stage in levels:
            source = sources[self.config.source_of(stage.index)]
            width = stage.channels if hidden is None else hidden[stage.index]
            self.levels[stage.name] = nn.Sequential(
                convolution(source.channels, width, 1),
                _resample(source, stage, width),
                nn.Conv2d(width, stage.channels, 3, padding=1, bias=False),
            )

    def fuse(self, maps: Mapping[str, Tensor], levels: Sequence[Stage]) -> list[Tensor]:
        """Each level from its own map."""
        return [self.levels[stage.name](maps[self.config.source_of(stage.index)]) for stage in levels]


def spread(stages: Sequence[Stage], count: int) -> list[Stage]:
    """`count` stages at even distances, the last one included: blocks 2, 5, 8, 11 for four of twelve."""
    return [stages[max(-(-len(stages) * number // count) - 1, 0)] for number in range(1, count + 1)]


def _inverse(source: Stage, target: Stage) -> int | None:
    """How many times coarser the target is, where that is a whole number above one."""
    down, right = ratio_of(source.stride, target.stride)
    factor = whole_ratio((1 / down, 1 / right))
    return factor if factor is not None and factor > 1 else None


def _resample(source: Stage, target: Stage, width: int) -> nn.Module:
    ratio = ratio_of(source.stride, target.stride)
    up, down = whole_ratio(ratio), _inverse(source, target)
    if up == 1:
        return nn.Identity()
    if up is not None:
        return nn.ConvTranspose2d(width, width, kernel_size=up, stride=up)
    if down is not None:
        return nn.Conv2d(width, width, 3, stride=down, padding=1)
    return Resize(ratio)
