"""Which of many maps is the strongest at each pixel of a larger image, band by band.

Upsampled all at once, 150 maps of 2048 x 2048 pixels are 2.5 GB. Here a few rows of one map are there at a time, and where a look
at the low resolution shows that a map is the strongest nowhere in a band, it is not upsampled there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from vertebra.image_processing.post_inputs import Size
from vertebra.image_processing.upsampling import Band, bands

_TOGETHER = 8
"""Maps that are widened together."""


class Contenders(NamedTuple):
    """Which of `k` maps may be the strongest at some pixel, and which may reach a level: bool `(k,)` each."""

    strongest: Tensor
    reaching: Tensor


def strongest(
    maps: Tensor,
    size: Size,
    weights: Tensor | None = None,
    level: float | None = None,
    values: Callable[[Tensor], Tensor] | None = None,
    kind: torch.dtype = torch.int32,
) -> tuple[Tensor, Tensor]:
    """Find the strongest of upsampled maps at each pixel.

    Args:
        maps: `(q, h, w)`.
        size: `(height, width)` to upsample to, bilinearly.
        weights: `(k,)` factors from 0 on, applied after upsampling.
        level: Also count the pixels where a map reaches it.
        values: Makes of some rows of the maps `(q, m, w)` what is upsampled and compared, `(k, m, w)`, all finite; None takes
            them as they are.
        kind: The dtype of the result.

    Returns:
        The index of the largest map at each pixel, the first of equals: `(height, width)`; and at how many pixels each map is at
        least `level`: int64 `(k,)`, 0 without a level.
    """
    winner = torch.empty(size, dtype=kind, device=maps.device)
    reached = torch.zeros(1, dtype=torch.int64, device=maps.device)
    for band in bands(maps, size):
        rows = maps[:, band.rows]
        leader, count = _in_band(band, values(rows) if values else rows, weights, level)
        winner[band.pixels] = leader
        reached = reached + count
    return winner, reached


def _in_band(band: Band, rows: Tensor, weights: Tensor | None, level: float | None) -> tuple[Tensor, Tensor]:
    """The index of the strongest of `(k, m, w)` rows at each pixel of a band, as floats; and how often each reaches a level."""
    wins, reaches = (flags.tolist() for flags in contenders(rows, weights, level))
    reached = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    leader = torch.full(band.size, float(wins.index(True)), dtype=torch.float32, device=rows.device)
    best = torch.full(band.size, -torch.inf, dtype=rows.dtype, device=rows.device)
    races = sum(wins) > 1
    needed = [index for index in range(len(rows)) if (wins[index] and races) or reaches[index]]
    for start in range(0, len(needed), _TOGETHER):
        chosen = needed[start : start + _TOGETHER]
        for index, plane in zip(chosen, band.enlarge(rows[chosen]), strict=True):
            if weights is not None:
                plane.mul_(weights[index])
            if wins[index] and races:
                higher = torch.maximum(best, plane)
                # Indices rise, so the larger of two is the later one. Comparing in place stays in floats: no masks, which take
                # ten times as long.
                torch.maximum(leader, best.lt_(plane).float().mul_(index), out=leader)
                best = higher
            if level is not None and reaches[index]:
                reached[index] = plane.ge_(level).count_nonzero()
    return leader, reached


def contenders(maps: Tensor, weights: Tensor | None = None, level: float | None = None) -> Contenders:
    """Tell which of `(k, h, w)` maps may be the strongest at some pixel when upsampled bilinearly, and which may reach a level.

    A value between four cells lies between their least and their largest. So a map is out where, around every cell, its largest
    is below the least of some other map.
    """
    maps = maps if weights is None else maps * weights[:, None, None]
    low, high = maps.aminmax()
    slack = 16 * torch.finfo(maps.dtype).eps * torch.maximum(-low, high)  # the kernel rounds
    floor = _around(maps, torch.minimum).amax(0) - slack
    tops = _around(maps, torch.maximum)
    highest = tops.amax((1, 2))
    reaching = torch.zeros_like(highest, dtype=torch.bool) if level is None else highest >= level - slack
    return Contenders((tops - floor).amax((1, 2)) >= 0, reaching)


def _around(maps: Tensor, extreme: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The extreme of every 2 x 2 cells of `(k, h, w)`; of fewer where there are fewer."""
    rows = extreme(maps[:, :-1], maps[:, 1:]) if maps.shape[1] > 1 else maps
    return extreme(rows[:, :, :-1], rows[:, :, 1:]) if maps.shape[2] > 1 else rows
