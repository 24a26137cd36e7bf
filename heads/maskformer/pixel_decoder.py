"""MaskFormer's pixel decoder: a feature pyramid network (Lin et al. 2017) whose finest map describes pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from vertebra.heads.initial import Draw, starting
from vertebra.heads.layouts import for_convolutions
from vertebra.heads.sums import add
from vertebra.winograd import SameConv2d


def _block(inputs: int, outputs: int) -> nn.Sequential:
    conv = SameConv2d(inputs, outputs, bias=False)
    return nn.Sequential(conv, nn.GroupNorm(32, outputs), nn.ReLU(inplace=True))


class FPNLayer(nn.Module):
    """Enlarges a map to the size of the next finer one of the backbone and joins the two.

    Args:
        width: Channels of the pyramid.
        lateral: Channels of the backbone's map.
    """

    def __init__(self, width: int, lateral: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.Conv2d(lateral, width, kernel_size=1, bias=False), nn.GroupNorm(32, width))
        self.block = _block(width, width)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """`(b, width, h', w')` and `(b, lateral, h, w)` to `(b, width, h, w)`."""
        lateral = self.proj(fine)
        return self.block(add(lateral, F.interpolate(coarse, size=lateral.shape[-2:], mode="nearest")))


class FPN(nn.Module):
    """The pyramid, from the coarsest map up.

    Args:
        channels: Channels of the backbone's maps, the finest first.
        width: Channels of the pyramid.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.stem = _block(channels[-1], width)
        self.layers = nn.ModuleList(FPNLayer(width, lateral) for lateral in reversed(channels[:-1]))

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps of the backbone, the finest first, to maps of the pyramid, the finest last; the coarsest has none."""
        state, states = self.stem(maps[-1]), []
        for layer, fine in zip(self.layers, reversed(maps[:-1]), strict=True):
            state = layer(state, fine)
            states.append(state)
        return tuple(states)


class MaskFormerPixelDecoder(nn.Module):
    """The pyramid, and the projection of its finest map to the channels in which masks are compared.

    Args:
        channels: Channels of the backbone's maps, the finest first.
        width: Channels of the pyramid.
        mask_width: Channels of the result.
        pyramid: How the pyramid's weights start.
        projection: How the projection's start.
    """

    def __init__(self, channels: Sequence[int], width: int, mask_width: int, pyramid: Draw, projection: Draw) -> None:
        super().__init__()
        self.fpn = starting(FPN(channels, width), pyramid)
        self.mask_projection = starting(SameConv2d(width, mask_width), projection)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Decode.

        Args:
            maps: `(b, c, h, w)` each, the finest first.

        Returns:
            `(b, mask_width, h, w)` at the size of the finest map, and the maps of the pyramid, the finest last.
        """
        states = self.fpn(for_convolutions(maps))
        return self.mask_projection(states[-1]), states
