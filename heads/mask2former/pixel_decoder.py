"""Mask2Former's pixel decoder: deformable attention among the coarser maps, then a pyramid up to the masks' stride."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vertebra.backbones.layers import Tables
from vertebra.heads.deformable import DeformableAttention, Sizes, cell_anchors
from vertebra.heads.initial import Draw, starting
from vertebra.heads.layouts import for_convolutions
from vertebra.heads.mask2former.config import LEVELS
from vertebra.heads.positions import SinePositions
from vertebra.heads.sums import add
from vertebra.linear import Linear, feed_forward
from vertebra.winograd import SameConv2d

POINTS = 4


class DeformableLayer(nn.Module):
    """Cells of all levels attend to points near their own place, then pass an MLP; each is residual with a norm after it.

    Args:
        width: Channels.
        heads: Attention heads.
        hidden: Channels inside the MLP.
        dropout: Of each branch, and inside the MLP.
        mlp: How the MLP's weights start.
    """

    def __init__(self, width: int, heads: int, hidden: int, dropout: float, mlp: Draw) -> None:
        super().__init__()
        self.self_attn = DeformableAttention(width, heads, LEVELS, POINTS)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = starting(Linear(width, hidden), mlp)
        self.act = nn.ReLU(inplace=True)
        self.fc2 = starting(Linear(hidden, width), mlp)
        self.final_layer_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, positions: Tensor, anchors: Tensor, sizes: Sizes, padding: Tensor | None) -> Tensor:
        """`(b, cells, width)` to the same; the other arguments as in `DeformableAttention`."""
        mixed = self.self_attn(x + positions, x, anchors, sizes, padding)
        x = self.self_attn_layer_norm(add(self.dropout(mixed), x))
        mixed = feed_forward(x, self.fc1, self.act, self.fc2, self.dropout)
        return self.final_layer_norm(add(self.dropout(mixed), x))


class DeformableEncoder(nn.Module):
    """Layers of deformable attention among the cells of all levels.

    Args:
        depth: How many layers.
        width: Channels.
        heads: Attention heads.
        hidden: Channels inside the MLPs.
        dropout: Of each branch, and inside the MLPs.
        mlp: How the MLPs' weights start.
    """

    def __init__(self, depth: int, width: int, heads: int, hidden: int, dropout: float, mlp: Draw) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DeformableLayer(width, heads, hidden, dropout, mlp) for _ in range(depth))
        self.heads = heads
        self.tables = Tables(limit=4)  # large ones: megabytes

    def forward(self, x: Tensor, positions: Tensor, sizes: Sizes, real: Sequence[Tensor] | None = None) -> Tensor:
        """Run the layers.

        Args:
            x: `(b, cells, width)`, level after level.
            positions: `(b, cells, width)`, or of 1 image.
            sizes: Of the levels.
            real: `(b, h, w)` of each level, True where a cell belongs to the image. A cell looks for its place on another level by
                its share of the image, padding left out, and reads 0 from padding.

        Returns:
            As `x`.
        """
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        padding = None
        if real is None:
            anchors = self.tables.get(
                (*sizes, x.device, dtype),
                lambda: cell_anchors(sizes, torch.tensor([sizes], dtype=dtype, device=x.device), self.heads, POINTS),
            )
        else:
            padding = ~torch.cat([level.flatten(1) for level in real], 1).unsqueeze(-1)
            extents = [torch.stack((level.any(2).sum(1), level.any(1).sum(1)), -1) for level in real]
            anchors = cell_anchors(sizes, torch.stack(extents, 1).to(dtype), self.heads, POINTS)
        for layer in self.layers:
            x = layer(x, positions, anchors, sizes, padding)
        return x


class Pixels(NamedTuple):
    """What the pixel decoder gives: the maps of the encoder's levels, the coarsest first, and the map that masks are made of."""

    levels: tuple[Tensor, ...]
    masks: Tensor


class Mask2FormerPixelDecoder(nn.Module):
    """Projections, the deformable encoder over the last maps, and a pyramid over the first ones.

    Args:
        channels: Of the backbone's maps, the finest first.
        width: Channels inside.
        mask_width: Channels of the map that masks are made of.
        fpn_levels: How many of the first maps the pyramid joins.
        depth: Layers of the encoder.
        heads: Attention heads.
        hidden: Channels inside the encoder's MLPs.
        dropout: Of the encoder.
        start: How convolutions and MLPs start.
    """

    def __init__(
        self,
        channels: Sequence[int],
        width: int,
        mask_width: int,
        fpn_levels: int,
        depth: int,
        heads: int,
        hidden: int,
        dropout: float,
        start: Draw,
    ) -> None:
        super().__init__()
        self.fpn_levels = fpn_levels
        self.position_embedding = SinePositions(width)
        self.level_embed = nn.Parameter(torch.empty(LEVELS, width))
        self.input_projections = nn.ModuleList(
            nn.Sequential(starting(nn.Conv2d(inputs, width, 1), start), nn.GroupNorm(32, width))
            for inputs in reversed(channels[-LEVELS:])
        )
        self.encoder = DeformableEncoder(depth, width, heads, hidden, dropout, start)
        self.mask_projection = starting(nn.Conv2d(width, mask_width, 1), start)
        for number, inputs in enumerate(channels[:fpn_levels], 1):
            lateral = nn.Sequential(nn.Conv2d(inputs, width, 1, bias=False), nn.GroupNorm(32, width))
            smooth = nn.Sequential(SameConv2d(width, width, bias=False), nn.GroupNorm(32, width), nn.ReLU(inplace=True))
            self.add_module(f"adapter_{number}", starting(lateral, start))
            self.add_module(f"layer_{number}", starting(smooth, start))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the embeddings of the levels."""
        nn.init.normal_(self.level_embed)

    def forward(self, maps: Sequence[Tensor], real: Sequence[Tensor] | None = None) -> Pixels:
        """Decode.

        Args:
            maps: `(b, c, h, w)` of the backbone, the finest first.
            real: For each of the last maps, the coarsest first, `(b, h, w)`, True where a cell belongs to the image.
        """
        maps = for_convolutions(maps)
        coarse = maps[: -LEVELS - 1 : -1]
        levels = [project(x) for project, x in zip(self.input_projections, coarse, strict=True)]
        positions = [
            self.position_embedding(x, None if real is None else real[index]).flatten(2).transpose(1, 2)
            + self.level_embed[index]
            for index, x in enumerate(levels)
        ]
        sizes = [(x.shape[2], x.shape[3]) for x in levels]
        cells = torch.cat([x.flatten(2).transpose(1, 2) for x in levels], 1)
        cells = self.encoder(cells, torch.cat(positions, 1), sizes, real)
        parts = torch.split(cells, [height * width for height, width in sizes], 1)
        # in one memory format with the maps: convolutions and enlargements of mixed ones copy them
        levels = [_as_map(part, x) for part, x in zip(parts, levels, strict=True)]
        top = levels[-1]
        for number in range(self.fpn_levels, 0, -1):
            lateral = self.get_submodule(f"adapter_{number}")(maps[number - 1])
            top = add(lateral, F.interpolate(top, size=lateral.shape[-2:], mode="bilinear", align_corners=False))
            top = self.get_submodule(f"layer_{number}")(top)
        return Pixels(tuple(levels), self.mask_projection(top))


def _as_map(cells: Tensor, like: Tensor) -> Tensor:
    """`(b, h * w, c)` as a map `(b, c, h, w)` in the memory format of `like`."""
    if like.is_contiguous():
        return cells.mT.contiguous().view(like.shape)
    return (
        cells.view(-1, *like.shape[2:], like.shape[1]).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    )
