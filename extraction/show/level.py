"""What one level of some images looks like: where its cells lie, norms and outliers, and vectors that fit into a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vertebra.extraction.shard_file import Size
from vertebra.stages import Stage

SIDE = 64
"""Cells along a side that a page shows; larger grids are pooled."""
LEAST_SIDE = 8
"""Grids are not pooled below this to make room for more directions."""
LEAST_DIRECTIONS = 8
WHOLE, ENOUGH = 0.9995, 0.99
"""Share of the squared length of the unit vectors that a page keeps where there is room, and that is worth coarser grids."""
DEVIATIONS = 6.0
"""How many robust standard deviations from the median a norm is an outlier."""
BINS = 48
LISTED = 1000
"""Outliers that are named, the furthest first."""
QUERIES = 64
"""Cells whose cosines to all others measure the error."""
REFINED = 16
"""Directions with the widest values have a second column, of what 8 bits leave of the first."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Norms:
    """Lengths of the cells of a level.

    Args:
        median: Of the finite ones.
        low: What is below is an outlier.
        high: What is above is an outlier.
        edges: `(least, largest)` of the finite ones: the range of the bins.
        counts: Cells in each of `BINS` bins of equal width.
        cells: How many there are.
        nonfinite: How many hold infinities or NaN.
        outliers: How many are outliers; those that are not finite count.
        listed: The furthest outliers as `(image, row, column, norm)`; None for the norm of one that is not finite.
    """

    median: float
    low: float
    high: float
    edges: tuple[float, float]
    counts: list[int]
    cells: int
    nonfinite: int
    outliers: int
    listed: list[tuple[int, int, int, float | None]]


def measure_norms(norms: Sequence[Tensor]) -> Norms:
    """Find the outliers among the norms of the cells of some images, one `(h, w)` tensor each.

    A norm is an outlier where it is further from the median than `DEVIATIONS` robust standard deviations, which are 1.4826
    times the median absolute deviation (a thousandth of the median at least: norms that all agree have no outliers by
    rounding).
    """
    flat = torch.cat([norm.flatten() for norm in norms])
    finite = flat[flat.isfinite()]
    middle = finite if len(finite) else torch.zeros(1)
    median = float(middle.median())
    spread = max(1.4826 * float((middle - median).abs().median()), 1e-3 * abs(median))
    low, high = median - DEVIATIONS * spread, median + DEVIATIONS * spread
    least, largest = float(middle.min()), float(middle.max())
    counts = torch.histc(finite, BINS, least, largest).int().tolist() if least < largest else [len(finite)]
    outside = ~((flat >= low) & (flat <= high))
    found: list[tuple[float, int, int, int, float | None]] = []
    for image, norm in enumerate(norms):
        for row, column in (~((norm >= low) & (norm <= high))).nonzero().tolist():
            value = float(norm[row, column])
            known = value if torch.isfinite(norm[row, column]) else None
            found.append((-abs(value - median) if known is not None else -torch.inf, image, row, column, known))
    return Norms(
        median=median,
        low=low,
        high=high,
        edges=(least, largest),
        counts=counts,
        cells=len(flat),
        nonfinite=len(flat) - len(finite),
        outliers=int(outside.sum()),
        listed=[entry[1:] for entry in sorted(found, key=lambda entry: entry[:4])[:LISTED]],
    )


@dataclass(frozen=True)
class Vectors:
    """Unit vectors of cells in columns of whole numbers, whose products are the cosines.

    Args:
        codes: `(n, k)` int8; a vector along a direction is the sum of `codes * steps` over the columns of that direction.
        steps: `(k,)`.
        axes: `(k,)`, which direction a column is of.
        block: Cells along each side that were averaged to one before.
        kept: Share of the squared length that the directions hold, 0..1.
        largest_error: The largest difference to the cosines of the averaged cells, found for `QUERIES` cells against all.
        mean_error: The mean difference.
    """

    codes: Tensor
    steps: Tensor
    axes: Tensor
    block: int
    kept: float
    largest_error: float
    mean_error: float


def pack(maps: Sequence[Tensor], room: int, extra: int = 0) -> Vectors:
    """Bring the cells of `(c, h, w)` maps into `room` bytes, of which each takes `extra` for something else.

    Grids beyond `SIDE` are averaged over blocks. Then as many directions are kept as hold nearly all of the vectors; where
    there is no room for them, blocks grow until there is.

    Raises:
        ValueError: there is not even room for a few directions of coarse grids.
    """
    longest = max(max(level.shape[1:]) for level in maps)
    block = -(-longest // SIDE)
    while True:
        cells = unit(torch.cat([cells_of(pooled(level, block)) for level in maps]))
        held, directions = _directions(cells)
        possible = min(max(room // len(cells) - REFINED - extra, 0), len(held))
        wanted = min(int((held < WHOLE).sum()) + 1, len(held))
        smallest = -(-longest // block) <= LEAST_SIDE
        if possible >= wanted or smallest or (possible and held[possible - 1] >= ENOUGH):
            break
        block += 1
    count = min(wanted, possible)
    if count < min(LEAST_DIRECTIONS, wanted):
        raise ValueError("there is no room for so many cells")
    return _coded(cells, cells @ directions[:, :count], block, float(held[count - 1]))


def _coded(cells: Tensor, vectors: Tensor, block: int, kept: float) -> Vectors:
    codes, steps = _rounded(vectors)
    wide = steps.topk(min(REFINED, len(steps))).indices
    finer, finer_steps = _rounded((vectors - codes * steps)[:, wide])
    decoded = (codes * steps).index_add(1, wide, finer * finer_steps)
    queries = torch.linspace(0, len(cells) - 1, min(QUERIES, len(cells))).long()
    error = (decoded[queries] @ decoded.T - cells[queries] @ cells.T).abs()
    return Vectors(
        codes=torch.cat([codes, finer], 1).to(torch.int8),
        steps=torch.cat([steps, finer_steps]),
        axes=torch.cat([torch.arange(len(steps)), wide]),
        block=block,
        kept=kept,
        largest_error=float(error.max()),
        mean_error=float(error.mean()),
    )


def _rounded(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers within -127..127, `(n, d)`, and what one of them is in each column, `(d,)`."""
    steps = vectors.abs().amax(0) / 127
    steps = torch.where(steps > 0, steps, 1.0)
    return (vectors / steps).round(), steps


def _directions(cells: Tensor) -> tuple[Tensor, Tensor]:
    """The directions that hold most of `(n, c)` vectors, `(c, d)`, and the share of the squared lengths up to each, `(d,)`."""
    if len(cells) <= cells.shape[1]:
        _, scales, right = torch.linalg.svd(cells, full_matrices=False)
        squares, directions = scales.double() ** 2, right.T
    else:
        squares, directions = torch.linalg.eigh((cells.T @ cells).double())
        squares, directions = squares.flip(0).clamp(min=0), directions.flip(1).float()
    return squares.cumsum(0) / squares.sum().clamp(min=1e-12), directions


def pooled(level: Tensor, block: int) -> Tensor:
    """Average blocks of a `(c, h, w)` map; those at the bottom and right edge may be smaller."""
    if block == 1:
        return level
    return F.avg_pool2d(level[None], block, ceil_mode=True, count_include_pad=False)[0]


def cells_of(level: Tensor) -> Tensor:
    """The cells of a `(c, h, w)` map, row by row, `(h * w, c)`."""
    return level.flatten(1).T


def unit(cells: Tensor) -> Tensor:
    """`(n, c)` cells of length 1; those of length 0, and those that are not finite, are all 0."""
    return F.normalize(torch.where(cells.isfinite().all(1, keepdim=True), cells, 0.0), dim=1)


def box(stage: Stage | None, grid: Size, block: int, size: Size) -> Box:
    """Where the cells of a map lie on its image: left, top, width and height as shares of the image's.

    Args:
        stage: The level's; None where one cell stands for the whole image.
        grid: `(rows, columns)` of the stored map.
        block: Cells along each side that are averaged to one; the last may reach beyond the image.
        size: `(height, width)` of the image in pixels.
    """
    spans = []
    for axis in (1, 0):
        cells = -(-grid[axis] // block) * block
        if stage is None or stage.offset is None:
            spans.append((0.0, cells / grid[axis]))
        else:
            hop = stage.stride[axis]
            spans.append((float((stage.offset[axis] - hop / 2) / size[axis]), float(cells * hop / size[axis])))
    (left, width), (top, height) = spans
    return left, top, width, height
