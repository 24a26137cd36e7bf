"""How much a frozen backbone knows: one linear layer on its maps (the evaluation of Oquab et al. 2023, DINOv2)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vertebra.backbones.base import Backbone
from vertebra.heads.linear_probe.config import LinearProbeConfig
from vertebra.heads.norms import BatchNorm
from vertebra.heads.resampling import Ratio, ratio_of, stretch
from vertebra.heads.semantic import SemanticSegmenter


class LinearHead(nn.Module):
    """Batch norm and a 1x1 convolution over maps that are brought to the finest one's size and concatenated.

    Args:
        channels: Channels of each map.
        strides: Stride of each map.
        num_labels: Classes.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[Ratio], num_labels: int) -> None:
        super().__init__()
        self.finest = min(range(len(strides)), key=strides.__getitem__)
        self.ratios = [ratio_of(stride, strides[self.finest]) for stride in strides]
        self.batch_norm = BatchNorm(sum(channels))
        self.classifier = nn.Conv2d(sum(channels), num_labels, 1)

    def forward(self, feature_maps: Sequence[Tensor]) -> Tensor:
        """Maps `(b, channels[i], h_i, w_i)` to scores `(b, num_labels, h, w)` of the size of the finest."""
        size = (feature_maps[self.finest].shape[-2], feature_maps[self.finest].shape[-1])
        maps = [stretch(x, ratio, size) for x, ratio in zip(feature_maps, self.ratios, strict=True)]
        scores: Tensor = self.classifier(self.batch_norm(torch.cat(maps, 1)))
        return scores


class LinearProbeForSemanticSegmentation(SemanticSegmenter):
    """A class for every pixel, by one linear layer on the maps of a backbone that is frozen unless told otherwise.

    Args:
        config: The configuration.
        backbone: A built backbone, instead of the one that the configuration describes; it is frozen all the same.
    """

    config_class = LinearProbeConfig
    config: LinearProbeConfig

    def __init__(self, config: LinearProbeConfig, backbone: Backbone | None = None) -> None:
        super().__init__(config)
        self.backbone = self.compose(backbone)
        strides = [stage.stride for stage in self.backbone.output_stages]
        if not strides:
            raise ValueError(
                f"{type(self).__name__} reads the maps that are selected, and nothing is. Select stages of the backbone, such as "
                f"out_indices=(-1,)."
            )
        if self.config.freeze_backbone:
            self.backbone.freeze()
        self.decode_head = LinearHead(self.backbone.channels, strides, self.config.num_labels)
        self.logits_stride = min(strides)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # it has one

    def save_pretrained(self, save_directory: str | os.PathLike[str], **options: Any) -> None:
        """As for every model; the configuration says whether the backbone is frozen now."""
        self.config.freeze_backbone = not any(parameter.requires_grad for parameter in self.backbone.parameters())
        super().save_pretrained(save_directory, **options)
