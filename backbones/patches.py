"""How an image becomes tokens: patches, the tokens before them, and learned positions for images of any size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vertebra.backbones.layers import Tables
from vertebra.placing import Draw, Node, place, place_tensor


def two(value: int | Sequence[int]) -> tuple[int, int]:
    """`(height, width)` of what configurations give as one number or two."""
    height, width = (value, value) if isinstance(value, int) else value
    return height, width


def too_small(height: int, width: int, patch: tuple[int, int]) -> str:
    """Why an image of this size does not run."""
    return f"An image of {height}x{width} pixels holds no whole patch, which are {patch[0]}x{patch[1]}."


def axis_weights(source: int, target: int, mode: str, antialias: bool, like: Tensor) -> Tensor:
    """`(target, source)`: by how much each cell of a line counts in each cell of the line resized.

    torch resizes each axis by itself and linearly, so two of these are the whole of it, and they depend on sizes alone.
    """
    cells = torch.eye(source, device=like.device, dtype=torch.promote_types(like.dtype, torch.float32))
    resized = F.interpolate(cells[None, None], (target, source), mode=mode, align_corners=False, antialias=antialias)
    return resized[0, 0]


class Resize(nn.Module):
    """Resizes learned tables to other numbers of cells, as `torch.nn.functional.interpolate` does.

    The weights are computed once per size; what remains are two products of matrices, in float32 at least.

    Args:
        mode: `"bicubic"` or `"bilinear"`.
        antialias: Whether all cells count when a table becomes smaller.
    """

    def __init__(self, mode: str = "bicubic", antialias: bool = False) -> None:
        super().__init__()
        self.mode, self.antialias = mode, antialias
        self.tables = Tables()

    def forward(self, table: Tensor, rows: int, columns: int) -> Tensor:
        """`(h, w, c)` to `(rows, columns, c)`; a table of that size comes back as it is."""
        height, width, _ = table.shape
        if (height, width) == (rows, columns):
            return table
        down, across = self._weights(height, rows, table), self._weights(width, columns, table)
        wide = torch.tensordot(down, table.to(down.dtype), 1)  # (rows, w, c)
        return torch.matmul(across, wide).to(table.dtype)

    def _weights(self, source: int, target: int, like: Tensor) -> Tensor:
        def compute() -> Tensor:
            return axis_weights(source, target, self.mode, self.antialias, like)

        return self.tables.get((source, target, like.device, like.dtype), compute)

    def extra_repr(self) -> str:
        """Show the rule."""
        return f"{self.mode}, antialias={self.antialias}"


class Token(NamedTuple):
    """A learned token, or several: the name of the parameter, its shape on disk, and its initial values."""

    name: str
    shape: tuple[int, ...]
    draw: Draw = nn.init.zeros_


class Embeddings(Node):
    """Tokens of an image: learned ones first, then its patches row by row, each with its position added.

    Args:
        channels: Of the image.
        width: Channels of a token.
        patch: `(height, width)` of a patch; what is left of an image at the right and at the bottom is not seen.
        patches: Path of the projection.
        tokens: What stands before the patches, in order.
        positions: Path of the position table: a parameter `(1, n, width)`, or an `nn.Embedding` where it ends in `.weight`.
            None for none.
        grid: `(rows, columns)` of patches the table is for.
        extra: Rows of the table before those of patches; the first tokens have these, and what has no token is ignored.
        draw: Initial values of the table.
        mask: The token that hides patches in pre-training: kept with the weights, used by nothing.
        bias: Whether the projection has one.
        antialias: Of the table's resizing.
        dropout: On all tokens.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        patch: tuple[int, int],
        *,
        patches: str = "patch_embeddings.projection",
        tokens: Iterable[Token] = (),
        positions: str | None = "position_embeddings",
        grid: tuple[int, int] = (1, 1),
        extra: int = 1,
        draw: Draw = nn.init.zeros_,
        mask: Token | None = None,
        bias: bool = True,
        antialias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.patch, self.table_grid, self.extra = patch, grid, extra
        self.patches_path, self.positions_path = patches, positions
        self.token_names = []
        for name, shape, start in tokens:
            self.token_names.append(name)
            place_tensor(self, name, nn.Parameter(torch.zeros(shape)), start)
        if mask is not None:
            place_tensor(self, mask.name, torch.zeros(mask.shape), mask.draw)
        place(self, patches, nn.Conv2d(channels, width, patch, patch, bias=bias))
        if positions is not None:
            count = extra + grid[0] * grid[1]
            path, _, leaf = positions.rpartition(".")
            if leaf == "weight":
                place(self, path, nn.Embedding(count, width))
            else:
                place_tensor(self, positions, nn.Parameter(torch.zeros(1, count, width)), draw)
            self.resize = Resize(antialias=antialias)
        self.dropout = nn.Dropout(dropout)

    @property
    def prefix(self) -> int:
        """How many tokens stand before the patches."""
        return sum(token.numel() // token.shape[-1] for token in self._tokens())

    def _tokens(self) -> list[Tensor]:
        return [getattr(self, name) for name in self.token_names]

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """`(rows, columns)` of patches in an image."""
        return height // self.patch[0], width // self.patch[1]

    def positions(self, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """The position table for so many patches: `(extra, width)` and `(rows * columns, width)`."""
        table: Any = attrgetter(self.positions_path or "")(self)
        table = table.view(-1, table.shape[-1])
        cells = table[self.extra :].view(*self.table_grid, -1)
        return table[: self.extra], self.resize(cells, rows, columns).flatten(0, 1)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """`(b, c, h, w)` pixels to `(b, t, width)`: `prefix` tokens, then those of the patches."""
        x = attrgetter(self.patches_path)(self)(pixel_values)
        rows, columns = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        tokens = [token.view(-1, token.shape[-1]) for token in self._tokens()]
        before = torch.cat(tokens) if tokens else x.new_empty(0, x.shape[-1])
        if self.positions_path is not None:
            first, cells = self.positions(rows, columns)
            placed = min(before.shape[0], first.shape[0])
            before = torch.cat([before[:placed] + first[:placed], before[placed:]])
            x = x + cells
        if before.shape[0]:
            x = torch.cat([before.expand(x.shape[0], -1, -1), x], dim=1)
        return self.dropout(x)
