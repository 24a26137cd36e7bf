"""Dilation: a bound on the stride of maps. Strides beyond it become holes between the taps of later convolutions.

The rule is the one of the à-trous algorithm: every tap of every convolution keeps its place on the image. So a dilated map,
taken at every second (fourth, …) cell, is the map without dilation, to the last border cell, and all weights fit. For
ResNets it is torchvision's `replace_stride_with_dilation` and timm's `output_stride`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vertebra.errors import listing
from vertebra.stages import Stage, stride_text

OUTPUT_STRIDES = (8, 16, 32)
WITHOUT = (
    "What works instead: a neck that resamples maps, pyramid(name, strides=(8,)); or a backbone that dilates: "
    "microsoft/resnet-50, or timm's ResNet, ResNetV2, RegNet, ConvNeXt, EfficientNet and CspNet among others."
)
"""What to do where there is no dilated form."""


def check_output_stride(output_stride: Any, no_dilation: str | None) -> None:
    """Check the bound a configuration asks for; `no_dilation` is why its family has no dilated form, if it has none.

    Raises:
        ValueError: the bound is none of `OUTPUT_STRIDES`, or lies below what the family can do.
    """
    if output_stride is None:
        return
    if isinstance(output_stride, bool) or output_stride not in OUTPUT_STRIDES:
        raise ValueError(
            f"output_stride={output_stride!r} must be one of {listing(OUTPUT_STRIDES)}, the largest stride that maps may have; or "
            f"None for the strides of the architecture."
        )
    if no_dilation is not None and output_stride < max(OUTPUT_STRIDES):
        raise impossible(output_stride, no_dilation)


def impossible(output_stride: int, no_dilation: str) -> ValueError:
    """The error for a bound that cannot be had: why, and what works instead."""
    return ValueError(f"output_stride={output_stride} is not possible here: {no_dilation} {WITHOUT}")


def capped(stages: Iterable[Stage], output_stride: int | None, no_dilation: str | None) -> list[Stage]:
    """The stages with no stride beyond `output_stride`; the first cell of each stays where it is.

    Raises:
        ValueError: the first stage is coarser than that, or any is in a family with `no_dilation`.
    """
    stages = list(stages)
    if output_stride is None or all(max(stage.stride) <= output_stride for stage in stages):
        return stages
    if no_dilation is not None:
        raise impossible(output_stride, no_dilation)
    if max(stages[0].stride) > output_stride:
        raise ValueError(
            f"output_stride={output_stride} is finer than {stages[0].name!r}, the first stage, which has stride "
            f"{stride_text(stages[0].stride)} already; dilation only replaces strides between stages. {WITHOUT}"
        )
    bound = Fraction(output_stride)
    return [replace(stage, stride=(min(stage.stride[0], bound), min(stage.stride[1], bound))) for stage in stages]


def dilate(stages: Iterable[nn.Module], strides: Iterable[int], output_stride: int | None, start: int) -> None:
    """Turn the strides of freshly built stages into dilation, in place, from where they would exceed `output_stride`.

    In a stage, what has its stride sees the map of the stage before, and every other convolution or pooling the stage's own
    map; a stage with a convolution over several cells before its stride does not fit and is dilated by hand. Parameters
    and their names stay as they are.

    Args:
        stages: Modules of the stages, in order, built with their strides.
        strides: Stride of each relative to the one before.
        output_stride: Largest stride allowed; None changes nothing.
        start: Stride of the map that enters the first stage.
    """
    reached, spread = start, 1
    for stage, stride in zip(stages, strides, strict=False):
        if output_stride is None or (spread == 1 and reached * stride <= output_stride):
            reached *= stride
            continue
        before, spread = spread, spread * stride
        for parent in list(stage.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Conv2d):
                    _dilate_convolution(child, before if child.stride != (1, 1) else spread)
                elif isinstance(child, nn.AvgPool2d):
                    setattr(parent, name, DilatedAvgPool(child, before))


def _dilate_convolution(layer: nn.Conv2d, spread: int) -> None:
    """Give a convolution stride 1 and holes, in place; padding keeps the first tap where it is, and the size of the map."""
    padding = [int(pad) for pad in layer.padding]
    extra = [(size - 1 - 2 * pad) * spread for size, pad in zip(layer.kernel_size, padding, strict=True)]
    layer.stride, layer.dilation = (1, 1), (spread, spread)
    layer.padding = (padding[0] * spread, padding[1] * spread)
    if any(extra):  # an even kernel reaches further down and right than up and left
        layer.register_forward_pre_hook(PadBehind(*extra))


class PadBehind:
    """Pads the map that a layer is about to see with zeros at the bottom and right.

    Args:
        rows: Rows to add.
        columns: Columns to add.
    """

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """`(b, c, h, w)` to `(b, c, h + rows, w + columns)`."""
        return (F.pad(inputs[0], (0, self.columns, 0, self.rows)),)


class DilatedAvgPool(nn.Module):
    """A mean over windows that do not overlap and may end outside the map, with stride 1 and holes between their cells.

    Args:
        pool: The pooling to replace; without padding. What lies outside the map does not count.
        spread: Distance between neighbouring cells of a window.
    """

    def __init__(self, pool: nn.AvgPool2d, spread: int) -> None:
        super().__init__()
        size = pool.kernel_size
        self.kernel, self.spread = (size, size) if isinstance(size, int) else (size[0], size[1]), spread

    def forward(self, x: Tensor) -> Tensor:
        """`(b, c, h, w)` to the same."""
        return self._sum(x) / self._sum(torch.ones_like(x[:1, :1]))

    def _sum(self, x: Tensor) -> Tensor:
        (height, width), (rows, columns), spread = x.shape[-2:], self.kernel, self.spread
        x = F.pad(x, (0, (columns - 1) * spread, 0, (rows - 1) * spread))
        places = ((row * spread, column * spread) for row in range(rows) for column in range(columns))
        return torch.stack([x[..., top : top + height, left : left + width] for top, left in places]).sum(0)
