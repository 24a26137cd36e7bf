"""Every level of a feature pyramid, brought to the finest one's size in steps of two and summed (Kirillov et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vertebra.auto.pyramid import PREFIX, pyramid
from vertebra.backbones.base import Backbone
from vertebra.heads.fpn_segmentation.config import FPNSegmentationConfig
from vertebra.heads.resampling import Ratio, fit, ratio_of
from vertebra.heads.semantic import SemanticSegmenter
from vertebra.stages import pair, stride_text


class FPNHead(nn.Module):
    """The semantic branch of Panoptic FPN: convolution, group norm, ReLU and doubling, as often as a level needs it.

    Works on the maps of anything, `FPNHead(channels=[256] * 4, strides=(4, 8, 16, 32), num_labels=21)(feature_maps)`.

    Args:
        channels: Channels of each map.
        strides: Stride of each map, in pixels of the image; each the finest one's times a power of two.
        num_labels: Classes.
        hidden_size: Channels inside.

    Raises:
        ValueError: a stride that doubling does not reach.
    """

    def __init__(
        self, channels: Sequence[int], strides: Iterable[Any], num_labels: int, hidden_size: int = 128
    ) -> None:
        super().__init__()
        exact = [pair(stride) for stride in strides]
        if len(exact) != len(channels):
            raise ValueError(
                f"channels={list(channels)} and strides={list(map(stride_text, exact))} must have one entry for each map."
            )
        self.finest = exact.index(min(exact))
        steps = [_doublings(stride, exact[self.finest]) for stride in exact]
        self.levels = nn.ModuleList(
            _level(inputs, hidden_size, count) for inputs, count in zip(channels, steps, strict=True)
        )
        self.classifier = nn.Conv2d(hidden_size, num_labels, 1)

    def forward(self, feature_maps: Sequence[Tensor]) -> Tensor:
        """Maps `(b, channels[i], h_i, w_i)` to scores `(b, num_labels, h, w)` of the size of the finest."""
        size = (feature_maps[self.finest].shape[-2], feature_maps[self.finest].shape[-1])
        maps = [fit(level(x), size) for level, x in zip(self.levels, feature_maps, strict=True)]
        scores: Tensor = self.classifier(torch.stack(maps).sum(0))
        return scores


def _doublings(stride: Ratio, finest: Ratio) -> int:
    down, right = ratio_of(stride, finest)
    count = math.log2(down)
    if down != right or count != int(count):
        raise ValueError(
            f"Stride {stride_text(stride)} is not the finest one, {stride_text(finest)}, times a power of two, and FPNHead doubles "
            f"maps. pyramid(backbone, strides=(4, 8, 16, 32)) makes such maps of any backbone."
        )
    return int(count)


def _level(inputs: int, width: int, doublings: int) -> nn.Sequential:
    """One block at least, and a doubling after each where there are any."""
    layers: list[nn.Module] = []
    for number in range(max(doublings, 1)):
        layers += [
            nn.Conv2d(inputs if number == 0 else width, width, 3, padding=1, bias=False),
            nn.GroupNorm(math.gcd(32, width), width),
            nn.ReLU(inplace=True),
        ]
        if doublings:
            layers.append(nn.Upsample(scale_factor=2, mode="bilinear"))
    return nn.Sequential(*layers)


class FPNForSemanticSegmentation(SemanticSegmenter):
    """A class for every pixel, from a feature pyramid over any backbone.

    Args:
        config: The configuration.
        backbone: A built backbone or neck, instead of the one that the configuration describes.
    """

    config_class = FPNSegmentationConfig
    config: FPNSegmentationConfig

    def __init__(self, config: FPNSegmentationConfig, backbone: Backbone | None = None) -> None:
        super().__init__(config)
        self.backbone = self._with_neck(self.compose(backbone))
        config, stages = self.config, self.backbone.output_stages
        self.decode_head = FPNHead(
            self.backbone.channels, [stage.stride for stage in stages], config.num_labels, config.hidden_size
        )
        self.logits_stride = min(stage.stride for stage in stages)
        self.post_init()

    def _with_neck(self, encoder: Backbone) -> Backbone:
        config = self.config
        if config.neck is None or encoder.config.model_type.startswith(PREFIX):
            return encoder
        return self.hold(pyramid(encoder, config.needed_strides or (), config.pyramid_channels, config.neck))

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Conv2d) and module.bias is None:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # it has one
