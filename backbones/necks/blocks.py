"""What necks are built of: convolutions with a norm, and resampling by exact ratio."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import torch.nn.functional as F
from torch import Tensor, nn

from vertebra.errors import did_you_mean, listing

Ratio = tuple[Fraction, Fraction]


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of `(b, c, h, w)` maps."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Norm each cell."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm of 32 groups (Wu and He 2018), of fewer where 32 do not divide the channels."""
    return nn.GroupNorm(math.gcd(32, channels), channels)


NORMS: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm2d, "group": group_norm, "layer": ChannelNorm}


def check_norm(name: str | None) -> None:
    """Raise a ValueError where no norm is called `name`."""
    if name is not None and name not in NORMS:
        raise ValueError(
            f"norm={name!r} is not known.{did_you_mean(name, NORMS)} It is one of {listing(NORMS)}, or None."
        )


def convolution(inputs: int, outputs: int, kernel: int = 1, norm: str | None = None, stride: int = 1) -> nn.Sequential:
    """A convolution with "same" padding for odd kernels, and its norm; it has a bias where no norm follows."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=norm is None)
    return nn.Sequential(conv) if norm is None else nn.Sequential(conv, NORMS[norm](outputs))


class Resize(nn.Module):
    """Resampling by an exact ratio: the cells of the result are exactly `1 / ratio` cells of the input wide.

    A ratio taken from rounded sizes moves cells (37 cells of 14 pixels are 16.19 cells of 32, not 16). Bilinear; a map that becomes
    smaller is averaged by whole cells first. The result covers the input, so its size is rounded up; beyond the edge the
    outermost cells are repeated.

    Args:
        ratio: Cells of the result per cell of the input, `(vertical, horizontal)`.
    """

    def __init__(self, ratio: Ratio) -> None:
        super().__init__()
        self.ratio = [(each.numerator, each.denominator) for each in ratio]
        whole = [max(1, each.denominator // each.numerator) for each in ratio]
        rest = [each * pooled for each, pooled in zip(ratio, whole, strict=True)]
        self.pool = nn.AvgPool2d((whole[0], whole[1]), ceil_mode=True) if max(whole) > 1 else None
        self.scale = None if rest == [1, 1] else (float(rest[0]), float(rest[1]))
        # enough cells that interpolate, which computes with floats and rounds down, never gives one too few
        self.spare = [0 if each.denominator == 1 else math.ceil(2 / each) for each in rest]

    def forward(self, x: Tensor) -> Tensor:
        """`(b, c, h, w)` to `(b, c, ceil(h * ratio), ceil(w * ratio))`."""
        height, width = (-(-cells * up // down) for cells, (up, down) in zip(x.shape[-2:], self.ratio, strict=True))
        if self.pool is not None:
            x = self.pool(x)
        if any(self.spare):
            x = F.pad(x, (0, self.spare[1], 0, self.spare[0]), mode="replicate")
        if self.scale is not None:
            x = F.interpolate(x, scale_factor=self.scale, mode="bilinear", recompute_scale_factor=False)
        return x[..., :height, :width]

    def extra_repr(self) -> str:
        """Show the ratio."""
        return "ratio=" + "x".join(f"{up}/{down}" for up, down in self.ratio)


def nearest(x: Tensor, ratio: Ratio, size: tuple[int, int]) -> Tensor:
    """Enlarge a map by an exact ratio, each cell by the nearest one, and fit it to `size`.

    A ratio taken from the sizes moves cells wherever a backbone rounds down (41 cells over 83). What is beyond `size` is cropped;
    where cells are missing the outermost ones are repeated.

    Args:
        x: `(b, c, h, w)`.
        ratio: Cells of the result per cell of `x`, `(vertical, horizontal)`.
        size: `(height, width)` of the result, in cells.
    """
    if ratio[0] != 1 or ratio[1] != 1:
        whole = all(each.denominator == 1 for each in ratio)
        scale, mode = (float(ratio[0]), float(ratio[1])), "nearest" if whole else "nearest-exact"
        x = F.interpolate(x, scale_factor=scale, mode=mode, recompute_scale_factor=False)
    rows, columns = (max(0, wanted - cells) for wanted, cells in zip(size, x.shape[-2:], strict=True))
    if rows or columns:
        x = F.pad(x, (0, columns, 0, rows), mode="replicate")
    return x[..., : size[0], : size[1]]


def whole_ratio(ratio: Ratio) -> int | None:
    """The ratio as a whole number where it is one, the same in both directions."""
    return int(ratio[0]) if ratio[0] == ratio[1] and ratio[0].denominator == 1 else None


def ratio_of(source: tuple[Fraction, Fraction], target: tuple[Fraction, Fraction]) -> Ratio:
    """Cells of stride `target` per cell of stride `source`."""
    return source[0] / target[0], source[1] / target[1]
