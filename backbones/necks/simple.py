"""Simple feature pyramid (ViTDet, Li et al. 2022): every level is made of the one last map of a flat backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from vertebra.backbones.necks.base import Neck
from vertebra.backbones.necks.blocks import NORMS, Resize, check_norm, convolution, ratio_of, whole_ratio
from vertebra.backbones.necks.config import NeckConfig
from vertebra.stages import Stage, pair, plain_stride

STRIDES = (4, 8, 16, 32)


class SimpleFeaturePyramidConfig(NeckConfig):
    """Configuration of a simple feature pyramid.

    Args:
        backbone_config: Configuration of the backbone below.
        channels: Channels of every level.
        strides: Strides of the levels.
        in_features: The one stage that all levels are made of.
        norm: `"layer"` (ViTDet), `"batch"` or `"group"` after every convolution; None for convolutions with a bias.
    """

    model_type = "vertebra_simple_feature_pyramid"

    norm: str | None = "layer"

    def validate(self) -> None:
        """Check the norm, and that there is one source and a width. Raises ValueError."""
        super().validate()
        check_norm(self.norm)
        if len(self.in_features) != 1:
            raise ValueError(f"in_features={list(self.in_features)} must be one stage; all levels are made of it.")
        if self.channels is None:
            raise ValueError("channels=None is no width; a simple feature pyramid has one, such as channels=256.")


class SimpleFeaturePyramid(Neck):
    """Every level from the backbone's last selected map, by strided and transposed convolutions where the ratio of strides is a
    power of two (ViTDet's own for patches of 16), by exact-ratio bilinear resampling where it is not (patches of 14, 12, 7).
    """

    config_class = SimpleFeaturePyramidConfig
    config: SimpleFeaturePyramidConfig

    @classmethod
    def wire(cls, stages: Sequence[Stage], strides: Sequence[Any] | None) -> tuple[list[Any], list[str]]:
        """Any strides, of the last stage."""
        return [plain_stride(pair(stride)) for stride in strides or STRIDES], [stages[-1].name]

    def build(self, levels: Sequence[Stage]) -> None:
        """Resampling, a 1x1 and a 3x3 convolution for each level."""
        self.levels = nn.ModuleDict({stage.name: self._level(self.inputs[0], stage) for stage in levels})

    def _level(self, source: Stage, stage: Stage) -> nn.Sequential:
        norm = self.config.norm
        layers, width = _resample(source, stage, norm)
        return nn.Sequential(
            *layers,
            convolution(width, stage.channels, 1, norm),
            convolution(stage.channels, stage.channels, 3, norm),
        )

    def fuse(self, maps: Mapping[str, Tensor], levels: Sequence[Stage]) -> list[Tensor]:
        """Each level from the one map."""
        return [self.levels[stage.name](maps[self.inputs[0].name]) for stage in levels]


def _resample(source: Stage, target: Stage, norm: str | None) -> tuple[list[nn.Module], int]:
    """Layers that lead from the stride of one stage to that of another, and the channels they give."""
    ratio, width = ratio_of(source.stride, target.stride), source.channels
    up, down = whole_ratio(ratio), whole_ratio((1 / ratio[0], 1 / ratio[1]))
    if up == 1:
        return [], width
    if down is not None:
        return [nn.MaxPool2d(down, down, ceil_mode=True)], width
    if up is None or up & (up - 1):
        return [Resize(ratio)], width
    layers: list[nn.Module] = []
    while up > 1:
        if layers:
            layers += [] if norm is None else [NORMS[norm](width)]
            layers.append(nn.GELU())
        layers.append(nn.ConvTranspose2d(width, width := max(width // 2, 1), kernel_size=2, stride=2))
        up //= 2
    return layers, width
