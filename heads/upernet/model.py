"""UperNet: a pooled context of the last map, added top-down to the finer ones (Xiao et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vertebra.backbones.base import Backbone
from vertebra.heads.joined_convolution import JoinedConv2d
from vertebra.heads.layouts import for_convolutions
from vertebra.heads.norms import BatchNorm
from vertebra.heads.semantic import SemanticSegmenter, semantic_loss
from vertebra.heads.sums import add
from vertebra.heads.upernet.config import UperNetConfig
from vertebra.winograd import SameConv2d

AUXILIARY_MAP = 2
"""Index of the map that the auxiliary head reads."""


class ConvModule(nn.Module):
    """Convolution, batch norm, ReLU; "same" padding.

    Args:
        inputs: Channels of the input; of each map, where several are joined.
        outputs: Channels of the output.
        kernel: Side of the kernel.
    """

    def __init__(self, inputs: int | Sequence[int], outputs: int, kernel: int = 1) -> None:
        super().__init__()
        self.conv = (
            SameConv2d(inputs, outputs, kernel, bias=False)
            if isinstance(inputs, int)
            else JoinedConv2d(inputs, outputs, kernel)
        )
        self.batch_norm = BatchNorm(outputs)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor | Sequence[Tensor]) -> Tensor:
        """`(b, inputs, h, w)`, or several maps of which the first has this size, to `(b, outputs, h, w)`."""
        state: Tensor = self.activation(self.batch_norm.overwrite(self.conv(x)))
        return state


class UperNetHead(nn.Module):
    """Pyramid pooling of the last map, sums from the top down, and one convolution over all levels.

    Args:
        channels: Channels of the maps, finest first.
        width: Channels inside.
        pool_scales: Sides of the grids the last map is pooled to.
        num_labels: Classes.
    """

    def __init__(self, channels: Sequence[int], width: int, pool_scales: Sequence[int], num_labels: int) -> None:
        super().__init__()
        *fine, last = channels
        self.classifier = nn.Conv2d(width, num_labels, 1)
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(scale), ConvModule(last, width)) for scale in pool_scales
        )
        self.bottleneck = ConvModule([last, *(width for _ in pool_scales)], width, 3)
        self.lateral_convs = nn.ModuleList(ConvModule(inputs, width) for inputs in fine)
        self.fpn_convs = nn.ModuleList(ConvModule(width, width, 3) for _ in fine)
        self.fpn_bottleneck = ConvModule([width for _ in channels], width, 3)

    def forward(self, feature_maps: Sequence[Tensor]) -> Tensor:
        """Maps `(b, channels[i], h_i, w_i)` to scores `(b, num_labels, h_0, w_0)`."""
        *fine, last = for_convolutions(feature_maps)
        state = self.bottleneck([last, *(pooling(last) for pooling in self.psp_modules)])
        levels = [state]
        for x, lateral, output in zip(fine[::-1], self.lateral_convs[::-1], self.fpn_convs[::-1], strict=True):
            x = lateral(x)
            state = add(x, F.interpolate(state, x.shape[-2:], mode="bilinear"))
            levels.append(output(state))
        scores: Tensor = self.classifier(self.fpn_bottleneck(levels[::-1]))
        return scores.contiguous()


class UperNetFCNHead(nn.Module):
    """The auxiliary head: convolutions over one map.

    Args:
        inputs: Channels of the map.
        width: Channels inside.
        depth: Convolutions.
        concat_input: Whether one more reads the map beside their result.
        num_labels: Classes.
    """

    def __init__(self, inputs: int, width: int, depth: int, concat_input: bool, num_labels: int) -> None:
        super().__init__()
        widths = [inputs, *(width for _ in range(depth))]
        self.convs = nn.Sequential(*(ConvModule(a, b, 3) for a, b in pairwise(widths)))
        self.conv_cat = ConvModule(inputs + widths[-1], width, 3) if concat_input else None
        self.classifier = nn.Conv2d(width if concat_input else widths[-1], num_labels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, inputs, h, w)` to scores `(b, num_labels, h, w)`."""
        state: Tensor = self.convs(x)
        if self.conv_cat is not None:
            state = self.conv_cat(torch.cat([x, state], 1))
        scores: Tensor = self.classifier(state)
        return scores


class UperNetForSemanticSegmentation(SemanticSegmenter):
    """UperNet: a class for every pixel, from a pyramid of maps.

    Args:
        config: The configuration.
        backbone: A built backbone, instead of the one that the configuration describes.
    """

    config_class = UperNetConfig
    config: UperNetConfig

    def __init__(self, config: UperNetConfig, backbone: Backbone | None = None) -> None:
        super().__init__(config)
        config = self.config
        self.backbone = self.compose(backbone)
        channels = self.backbone.channels
        self.decode_head = UperNetHead(channels, config.hidden_size, config.pool_scales, config.num_labels)
        self.auxiliary_head = self._auxiliary_head(channels) if config.use_auxiliary_head else None
        self.post_init()

    def _auxiliary_head(self, channels: Sequence[int]) -> UperNetFCNHead:
        config, inputs = self.config, channels[AUXILIARY_MAP]
        if config.auxiliary_in_channels not in (None, inputs):
            raise ValueError(
                f"auxiliary_in_channels={config.auxiliary_in_channels}, and the auxiliary head reads the third map, which has "
                f"{inputs} channels (of {channels}). Leave it None: the backbone says how many there are."
            )
        width, depth = config.auxiliary_channels, config.auxiliary_num_convs
        return UperNetFCNHead(inputs, width, depth, config.auxiliary_concat_input, config.num_labels)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def loss(self, logits: Tensor, labels: Tensor, feature_maps: Sequence[Tensor]) -> Tensor:
        """Cross entropy, and a share of the auxiliary head's."""
        loss = super().loss(logits, labels, feature_maps)
        if self.auxiliary_head is None:
            return loss
        auxiliary = self.auxiliary_head(feature_maps[AUXILIARY_MAP])
        return loss + self.config.auxiliary_loss_weight * semantic_loss(auxiliary, labels, self.ignore_index)
