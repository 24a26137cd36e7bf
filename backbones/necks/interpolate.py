"""Plain interpolation: each level is the map of the nearest stride, resampled by exact ratio; no weights but a projection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from vertebra.backbones.necks.base import Neck
from vertebra.backbones.necks.blocks import Resize, convolution, ratio_of
from vertebra.backbones.necks.config import NeckConfig
from vertebra.stages import Stage, pair, plain_stride


class InterpolateConfig(NeckConfig):
    """Configuration of plain interpolation.

    Args:
        backbone_config: Configuration of the backbone below.
        channels: Channels of every level, by a 1x1 convolution; None (the default) keeps those of the map.
        strides: Strides of the levels.
        in_features: The stage of each level.
    """

    model_type = "vertebra_interpolate"

    channels: int | None = None


class Interpolate(Neck):
    """Each level from the map whose stride is nearest (by ratio; of two, the finer), projected and resampled.

    Without `strides` it keeps those of the backbone's maps: a projection alone, where `channels` is given.
    """

    config_class = InterpolateConfig
    config: InterpolateConfig

    @classmethod
    def wire(cls, stages: Sequence[Stage], strides: Sequence[Any] | None) -> tuple[list[Any], list[str]]:
        """Any strides, each of the deepest stage of the nearest stride."""
        deepest = {stage.stride: stage for stage in sorted(stages, key=lambda stage: stage.index)}
        asked = [pair(stride) for stride in strides] if strides is not None else sorted(deepest)
        nearest = [min((_distance(have, want), have) for have in deepest)[1] for want in asked]
        return [plain_stride(stride) for stride in asked], [deepest[stride].name for stride in nearest]

    def build(self, levels: Sequence[Stage]) -> None:
        """A projection where the width changes, and resampling where the stride does."""
        sources = {stage.name: stage for stage in self.inputs}
        self.projection, self.resize = nn.ModuleDict(), nn.ModuleDict()
        for stage in levels:
            source = sources[self.config.source_of(stage.index)]
            if self.config.channels is not None:
                self.projection[stage.name] = convolution(source.channels, stage.channels, 1)
            if source.stride != stage.stride:
                self.resize[stage.name] = Resize(ratio_of(source.stride, stage.stride))

    def fuse(self, maps: Mapping[str, Tensor], levels: Sequence[Stage]) -> list[Tensor]:
        """Each level from its own map."""
        results = []
        for stage in levels:
            state = maps[self.config.source_of(stage.index)]
            steps = (part[stage.name] for part in (self.projection, self.resize) if stage.name in part)
            for step in steps:
                state = step(state)
            results.append(state)
        return results


def _distance(have: Any, want: Any) -> Any:
    """How far apart two strides are: the larger over the smaller, over both axes."""
    ratios = ratio_of(have, want)
    return max(max(ratio, 1 / ratio) for ratio in ratios)
