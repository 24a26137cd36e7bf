"""Enlarging maps by the exact ratio of strides, and fitting them to a size."""

from __future__ import annotations

from fractions import Fraction

import torch.nn.functional as F
from torch import Tensor

Ratio = tuple[Fraction, Fraction]
Size = tuple[int, int]


def fit(x: Tensor, size: Size) -> Tensor:
    """Crop `(b, c, h, w)` to `size` at the bottom and right; where cells are missing the outermost ones are repeated."""
    down, right = (max(0, wanted - cells) for wanted, cells in zip(size, x.shape[-2:], strict=True))
    if down or right:
        x = F.pad(x, (0, right, 0, down), mode="replicate")
    return x[..., : size[0], : size[1]]


def stretch(x: Tensor, ratio: Ratio, size: Size) -> Tensor:
    """Enlarge `(b, c, h, w)` maps bilinearly, then `fit` them to `size`.

    A ratio taken from the sizes moves cells wherever a backbone rounds: 19 cells of 4 pixels cover a little more than 75.

    Args:
        x: The maps.
        ratio: Cells of the result per cell of `x`, `(vertical, horizontal)`; at least 1.
        size: `(height, width)` of the result, in cells.
    """
    if ratio[0] != 1 or ratio[1] != 1:
        scale = (float(ratio[0]), float(ratio[1]))
        x = F.interpolate(x, scale_factor=scale, mode="bilinear", recompute_scale_factor=False)
    return fit(x, size)


def ratio_of(source: Ratio, target: Ratio) -> Ratio:
    """Cells of stride `target` per cell of stride `source`."""
    return source[0] / target[0], source[1] / target[1]
