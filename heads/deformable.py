"""Multi-scale deformable attention (Zhu et al. 2021): each query reads a few points of every level, near its own place.

Levels lie one after the other in one sequence of cells, each row by row. Positions are counted in cells of the level they lie on,
continuously: cell `i` covers `[i, i + 1)`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vertebra.heads.initial import starting, xavier
from vertebra.heads.matcher import full_precision
from vertebra.linear import Linear, runs_plainly

Sizes = Sequence[tuple[int, int]]
"""`(height, width)` of each level, in cells."""


class DeformableAttention(nn.Module):
    """Attention to points that the query itself chooses, around an anchor on every level.

    Args:
        width: Channels of queries, values and the result.
        heads: How many heads share them.
        levels: How many maps there are.
        points: Points that a head reads of each level.

    Raises:
        ValueError: the heads cannot share the channels equally.
    """

    def __init__(self, width: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} attention heads cannot share {width} channels equally.")
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = SamplingOffsets(width, heads, levels, points)
        self.attention_weights = starting(Linear(width, heads * levels * points), nn.init.zeros_)
        self.value_proj = starting(Linear(width, width), xavier(1.0))
        self.output_proj = starting(Linear(width, width), xavier(1.0))

    def forward(
        self, queries: Tensor, values: Tensor, anchors: Tensor, sizes: Sizes, padding: Tensor | None = None
    ) -> Tensor:
        """Attend.

        Args:
            queries: `(b, q, width)`.
            values: `(b, cells, width)`.
            anchors: As `cell_anchors` gives them: `(b, q, heads * levels * points * 2)`, or of 1 image.
            sizes: Of the levels that `values` holds.
            padding: `(b, cells, 1)`, True where a cell belongs to no image; it reads as 0.

        Returns:
            `(b, q, width)`.
        """
        values = self.value_proj(values)
        if padding is not None:
            values = values.masked_fill(padding, 0.0)
        shape = (*queries.shape[:2], self.heads, self.levels * self.points)
        places = (self.sampling_offsets(queries) + anchors).view(*shape, 2)
        weights = _softmax(self.attention_weights(queries).view(shape))
        values = values.view(*values.shape[:2], self.heads, -1)
        on_cpu = values.device.type == "cpu" and not torch.compiler.is_exporting()
        return self.output_proj((read_rows if on_cpu else read_maps)(values, sizes, places, weights))

    def extra_repr(self) -> str:
        """Show the numbers."""
        return f"heads={self.heads}, levels={self.levels}, points={self.points}"


class SamplingOffsets(Linear):
    """From a query to `(x, y)` offsets `(heads, levels, points, 2)`; at first each head looks into a direction of its own."""

    def __init__(self, width: int, heads: int, levels: int, points: int) -> None:
        self.shape = (heads, levels, points)
        super().__init__(width, heads * levels * points * 2)

    def reset_parameters(self) -> None:
        """Point `k` lies `k + 1` cells away, to the edge of a square, whatever the query."""
        heads, levels, points = self.shape
        angles = torch.arange(heads, dtype=torch.float32) * (2 * math.pi / heads)
        directions = torch.stack((angles.cos(), angles.sin()), -1)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, points + 1, dtype=torch.float32)
        offsets = directions[:, None, None] * steps[:, None]  # (heads, 1, points, 2)
        with torch.no_grad():
            self.weight.zero_()
            self.bias.copy_(offsets.expand(heads, levels, points, 2).flatten())


def _softmax(x: Tensor) -> Tensor:
    """`x.softmax(-1)`, which takes long over rows of a few values."""
    if not runs_plainly(x):
        return x.softmax(-1)
    powers = (x - x.amax(-1, keepdim=True)).exp_()
    return powers.div_(powers.sum(-1, keepdim=True))


def cell_anchors(sizes: Sizes, extents: Tensor, heads: int, points: int) -> Tensor:
    """Where the cells of all levels lie on each level, by their share of the image, repeated for every head and point.

    Args:
        sizes: Of the levels.
        extents: `(b, levels, 2)` rows and columns that an image fills of each level; floating-point.
        heads: Of the attention.
        points: Of each head and level.

    Returns:
        `(b, cells, heads * levels * points * 2)`, `(x, y)` in cells.
    """
    extents = extents.flip(-1)
    levels = []
    for index, (height, width) in enumerate(sizes):
        y = torch.arange(height, dtype=extents.dtype, device=extents.device) + 0.5
        x = torch.arange(width, dtype=extents.dtype, device=extents.device) + 0.5
        centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).view(-1, 1, 2)
        levels.append(centres * (extents / extents[:, index, None]).unsqueeze(1))
    anchors = torch.cat(levels, 1)[:, :, None, :, None]  # (b, cells, 1, levels, 1, 2)
    return anchors.expand(-1, -1, heads, -1, points, -1).flatten(2)


def read_maps(values: Tensor, sizes: Sizes, places: Tensor, weights: Tensor) -> Tensor:
    """Sum up what points read, bilinearly, each with its weight; outside a map there are zeros.

    Args:
        values: `(b, cells, heads, d)`.
        sizes: Of the levels.
        places: `(b, q, heads, levels * points, 2)`, `(x, y)` in cells.
        weights: `(b, q, heads, levels * points)`.

    Returns:
        `(b, q, heads * d)`.
    """
    batch, _, heads, depth = values.shape
    queries, points = places.shape[1], places.shape[3] // len(sizes)
    maps = full_precision(values).permute(0, 2, 3, 1).flatten(0, 1)  # (b * heads, d, cells)
    places = places.transpose(1, 2).reshape(batch * heads, queries, len(sizes), points, 2)
    weights = weights.transpose(1, 2).reshape(batch * heads, 1, queries, len(sizes), points).to(maps.dtype)
    total = maps.new_zeros(())
    for index, (level, (height, width)) in enumerate(zip(_levels(maps, sizes, dim=2), sizes, strict=True)):
        grid = places[:, :, index] * places.new_tensor([2 / width, 2 / height]) - 1
        read = F.grid_sample(level.view(-1, depth, height, width), grid.to(maps.dtype), align_corners=False)
        total = total + (read * weights[..., index, :]).sum(-1)  # (b * heads, d, q)
    return total.view(batch, heads * depth, queries).transpose(1, 2).to(values.dtype)


def _levels(x: Tensor, sizes: Sizes, dim: int) -> Sequence[Tensor]:
    return torch.split(x, [height * width for height, width in sizes], dim)


def read_rows(values: Tensor, sizes: Sizes, places: Tensor, weights: Tensor) -> Tensor:
    """`read_maps` as a weighted sum of rows of a table, which CPUs do many times faster than sampling maps."""
    batch, _, heads, depth = values.shape
    table = _bordered(values, sizes)
    columns = _columns(sizes, heads, places.shape[3] // len(sizes))
    # from here on (b, q, heads * levels * points), or what broadcasts to it
    places, weights = places.flatten(2, 3), weights.flatten(2)
    last = columns[:2].to(places.dtype)
    x, y = (torch.minimum((places[..., axis] + 0.5).clamp(min=0.0), last[axis]) for axis in (0, 1))
    left, top = torch.minimum(x.detach().floor(), last[0] - 1), torch.minimum(y.detach().floor(), last[1] - 1)
    lower = weights * (y - top)
    upper = weights - lower
    upper_right, lower_right = upper * (x - left), lower * (x - left)
    shares = (upper - upper_right, upper_right, lower - lower_right, lower_right)

    stride, start = columns[2], columns[3]
    image = torch.arange(batch, dtype=torch.int32).view(-1, 1, 1) * (table.shape[0] // batch)
    # a place that is NaN is at no row, and its share makes the sum NaN
    corner = top.nan_to_num(0.0).int() * stride + left.nan_to_num(0.0).int() + (start + image)
    rows = (corner, corner + 1, corner + stride, corner + (stride + 1))

    def bags(corners: Sequence[Tensor]) -> Tensor:
        by_head = [each.view(-1, places.shape[2] // heads) for each in corners]  # (b * q * heads, levels * points)
        return torch.stack(by_head, 1).flatten(1)

    read = F.embedding_bag(bags(rows), table, per_sample_weights=bags(shares).to(table.dtype), mode="sum")
    return read.view(batch, -1, heads * depth)


def _bordered(values: Tensor, sizes: Sizes) -> Tensor:
    """The rows of all cells with a border of zeros around each level, so that no corner of a point needs a condition.

    Head by head, so that the map one head reads stays in the cache: `(b * heads * bordered cells, d)`.
    """
    batch, _, heads, depth = values.shape
    bordered = [
        F.pad(level.view(batch, height, width, heads, depth), (0, 0, 0, 0, 1, 1, 1, 1)).flatten(1, 2)
        for level, (height, width) in zip(_levels(values, sizes, dim=1), sizes, strict=True)
    ]
    return torch.cat(bordered, 1).transpose(1, 2).flatten(0, 2)


def _columns(sizes: Sizes, heads: int, points: int) -> Tensor:
    """What a point of each head and level needs to know, `(4, heads * levels * points)` int32.

    Its level's last bordered column and row, how many rows of the table one line of cells is, and the level's first row.
    """
    cells = [(height + 2) * (width + 2) for height, width in sizes]
    facts = [
        (width + 1, height + 1, width + 2, head * sum(cells) + sum(cells[:level]))
        for head in range(heads)
        for level, (height, width) in enumerate(sizes)
    ]
    return torch.tensor(facts, dtype=torch.int32).T.repeat_interleave(points, dim=1)
