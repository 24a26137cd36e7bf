"""Growing maps to another size: bilinearly, all at once or band by band, and by nearest pixels.

Bilinear values are those of one `interpolate` of all maps, to the bit, so that ties fall the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vertebra.image_processing.post_inputs import Size

_PIXELS = 1 << 18
"""Pixels of a band: a few float32 planes of so many stay in the cache."""


def upsample(maps: Tensor, size: Size) -> Tensor:
    """Resize `(k, h, w)` maps bilinearly to `(k, *size)`."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    return _interpolate(maps, size)


@dataclass(frozen=True)
class Taps:
    """Between which two rows of a map each row of pixels lies, and how much it has of either.

    Args:
        above, below: int64 `(n,)`, indices of rows.
        near, far: float32 `(n, 1)`, the shares of the row above and of the row below.
    """

    above: Tensor
    below: Tensor
    near: Tensor
    far: Tensor

    def part(self, pixels: slice, first: int) -> Taps:
        """Those of some rows of pixels, in maps that begin with the row `first`."""
        return Taps(self.above[pixels] - first, self.below[pixels] - first, self.near[pixels], self.far[pixels])


@dataclass(frozen=True)
class Band:
    """Some rows of pixels of a larger image, and the rows of the maps they are made of.

    Args:
        rows: Of the maps.
        pixels: Of the image.
        size: `(n, width)` of the band.
        taps: Counted from the first of `rows`; None leaves it to `interpolate`, and then the band is the whole image.
    """

    rows: slice
    pixels: slice
    size: Size
    taps: Taps | None = None

    def enlarge(self, maps: Tensor) -> Iterator[Tensor]:
        """Yield each of `(k, h, w)` maps of these rows as a new tensor `(n, width)`."""
        if (taps := self.taps) is None:
            yield from (_interpolate(plane[None], self.size)[0] for plane in maps)
            return
        wide = maps if maps.shape[2] == self.size[1] else F.interpolate(maps, size=self.size[1], mode="linear")
        for plane in wide:
            below = plane.index_select(0, taps.below).mul_(taps.far)
            yield below.addcmul_(plane.index_select(0, taps.above), taps.near)  # rounded once, as the kernel does it


def bands(maps: Tensor, size: Size) -> list[Band]:
    """Cut an image of `size` into bands for `(k, h, w)` maps that grow to it.

    Torch's kernel works on whole images and gathers four cells for each pixel. In a band every row of cells is widened once and
    pixels are made of two rows, which takes a fifth of the time. Where the kernel rounds otherwise (other devices and dtypes),
    there is one band, and the kernel.
    """
    height, width = size
    (had, across), whole = maps.shape[-2:], Band(slice(0, maps.shape[-2]), slice(0, height), size)
    if maps.dtype != torch.float32 or maps.device.type != "cpu":
        return [whole]
    taps = _taps(had, height)
    if not _rounds_alike(taps, had, height):
        return [whole]
    most = max(1, _PIXELS // max(width, across * had // height))
    count = -(-height // -(-height // most))  # as many bands as it takes, of about the same height
    found = []
    for top in range(0, height, count):
        pixels = slice(top, min(top + count, height))
        rows = slice(int(taps.above[top]), int(taps.below[pixels.stop - 1]) + 1)
        found.append(Band(rows, pixels, (pixels.stop - top, width), taps.part(pixels, rows.start)))
    return found


def _taps(had: int, has: int) -> Taps:
    """The taps of `has` rows of pixels in `had` rows of cells; centres as `interpolate(align_corners=False)` places them."""
    ratio = torch.tensor(had, dtype=torch.float32) / torch.tensor(has, dtype=torch.float32)
    centres = (ratio.double() * (torch.arange(has) + 0.5) - 0.5).float().clamp_(min=0)
    above = centres.long().clamp_(max=had - 1)
    far = (centres - above).clamp_(max=1) if had != has else torch.zeros(has)
    return Taps(above, (above + 1).clamp_(max=had - 1), (1 - far)[:, None], far[:, None])


def _rounds_alike(taps: Taps, had: int, has: int) -> bool:
    """Whether a band of all pixels is `interpolate`'s to the bit, seen on a narrow map of the same height."""
    sample = torch.arange(had * 16.0).sin_().view(1, had, 16)
    (ours,) = Band(slice(0, had), slice(0, has), (has, 23), taps).enlarge(sample)
    return torch.equal(ours, _interpolate(sample, (has, 23))[0])


def _interpolate(maps: Tensor, size: Size) -> Tensor:
    return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


class Nearest:
    """Growing from one size to another by nearest pixels, as `interpolate(mode="nearest")` does it.

    Args:
        shape: `(h, w)` of the maps.
        size: `(height, width)` they grow (or shrink) to.
        device: Of the maps.
    """

    def __init__(self, shape: Size, size: Size, device: torch.device) -> None:
        self.size = size
        self.rows, self.columns = (_taken(had, has, device) for had, has in zip(shape, size, strict=True))
        self._weights = [
            torch.bincount(taken, minlength=had).double()
            for taken, had in zip((self.rows, self.columns), shape, strict=True)
        ]

    def enlarge(self, grid: Tensor) -> Tensor:
        """Return `(h, w)` as `(height, width)`, in the same dtype."""
        return grid.index_select(0, self.rows).index_select(1, self.columns)

    def area(self, mask: Tensor) -> int:
        """Return how many pixels a bool mask `(h, w)` has when enlarged."""
        down, across = self._weights
        return int(down @ mask.double() @ across)


def _taken(had: int, has: int, device: torch.device) -> Tensor:
    """Which of `had` pixels each of `has` pixels is."""
    pixels = torch.arange(had, dtype=torch.float32, device=device).view(1, 1, had, 1)
    return F.interpolate(pixels, size=(has, 1), mode="nearest").flatten().long()
