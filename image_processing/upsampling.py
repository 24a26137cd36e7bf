"""Which of many maps is the strongest at each pixel of a larger image, one map at a time.

Upsampled all at once, 150 maps of 2048 x 2048 pixels are 2.5 GB. Here at most one is there at a time, and maps that a look at
the low resolution shows to be strongest nowhere are not upsampled at all. Values are those of one `interpolate` of all maps,
to the bit, so ties fall the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from vertebra.image_processing.post_inputs import Size


def upsample(maps: Tensor, size: Size) -> Tensor:
    """Resize `(k, h, w)` maps bilinearly to `(k, *size)`."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


def strongest(
    maps: Tensor, size: Size, weights: Tensor | None = None, level: float | None = None
) -> tuple[Tensor, Tensor]:
    """Find the strongest of upsampled maps at each pixel.

    Args:
        maps: `(k, h, w)`, all finite.
        size: `(height, width)` to upsample to, bilinearly.
        weights: `(k,)` factors from 0 on, applied after upsampling.
        level: Also count the pixels where a map reaches it.

    Returns:
        The index of the largest map at each pixel, the first of equals: int32 `(height, width)`; and at how many pixels each
        map is at least `level`: int64 `(k,)`, 0 without a level and for maps that are strongest nowhere.
    """
    running = contenders(maps, weights)
    # Ranks rise, so the larger of two ranks is the later one: no masked writes, which are ten times slower.
    rank_type = next(kind for kind in (torch.uint8, torch.int16, torch.int32) if len(running) <= torch.iinfo(kind).max)
    leader = torch.zeros(size, dtype=rank_type, device=maps.device)
    better = torch.empty(size, dtype=torch.bool, device=maps.device)
    best, scaled = (torch.empty(size, dtype=maps.dtype, device=maps.device) for _ in range(2))
    reached = torch.zeros(len(maps), dtype=torch.int64, device=maps.device)
    for rank, index in enumerate(running):
        plane = upsample(maps[index : index + 1], size)[0]
        if weights is not None:
            plane = torch.mul(plane, weights[index], out=scaled)
        if level is not None:
            reached[index] = torch.ge(plane, level, out=better).count_nonzero()
        if rank == 0:
            best.copy_(plane)
            continue
        torch.gt(plane, best, out=better)
        torch.maximum(best, plane, out=best)
        torch.maximum(leader, better.to(rank_type).mul_(rank), out=leader)
    indices = torch.tensor(running, dtype=torch.int32, device=maps.device)
    return indices.index_select(0, leader.flatten().int()).view(size), reached


def contenders(maps: Tensor, weights: Tensor | None = None) -> list[int]:
    """Return the indices of `(k, h, w)` maps that may be the strongest at some pixel when upsampled bilinearly.

    A value between four cells lies between their least and their largest. So a map is out where, around every cell, its largest
    is below the least of some other map.
    """

    def planes() -> Iterator[Tensor]:
        return (plane if weights is None else plane * weights[index] for index, plane in enumerate(maps))

    low, high = maps.aminmax()
    largest = torch.maximum(-low, high) * (1 if weights is None else weights.max())
    slack = 16 * torch.finfo(maps.dtype).eps * largest  # the kernel rounds
    floor = reduce(torch.maximum, (_around(plane, torch.minimum) for plane in planes())) - slack
    return [index for index, plane in enumerate(planes()) if bool((_around(plane, torch.maximum) >= floor).any())]


def _around(plane: Tensor, extreme: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The extreme of each cell of `(h, w)` and of its neighbours to the right, below, and both; borders are repeated."""
    rows = extreme(plane, torch.cat([plane[1:], plane[-1:]]))
    return extreme(rows, torch.cat([rows[:, 1:], rows[:, -1:]], dim=1))


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
