"""What Swin and Swin V2 have in common: patches, attention inside windows that shift, merging, blocks and stages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vertebra.activations import activation
from vertebra.attention import attend_heads, join_heads, split_heads
from vertebra.backbones.layers import DropPath, Tables, add, one_size, pad_to_multiple
from vertebra.backbones.patches import Resize
from vertebra.backbones.windows import MASKED, from_windows, shift_mask, to_windows, window_rows
from vertebra.linear import Linear, feed_forward, runs_plainly


class SwinPatchEmbeddings(nn.Module):
    """Cuts the image into patches and projects each; the image is zero-padded to whole patches."""

    def __init__(self, channels: int, width: int, patch: tuple[int, int]) -> None:
        super().__init__()
        self.patch = patch
        self.projection = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """`(b, c, h, w)` to `(b, h / patch, w / patch, width)`, rounded up."""
        pixel_values = one_size(pixel_values)
        down, right = -pixel_values.shape[2] % self.patch[0], -pixel_values.shape[3] % self.patch[1]
        if down or right:
            pixel_values = F.pad(pixel_values, (0, right, 0, down))
        return self.projection(pixel_values).permute(0, 2, 3, 1)


class SwinEmbeddings(nn.Module):
    """The stem: patches, a norm and, where there are any, absolute position embeddings.

    Args:
        channels: Of the image.
        width: Channels of the stem.
        patch: `(height, width)` of a patch.
        grid: `(rows, columns)` of patches that position embeddings are for; None for none.
        extra: Rows of that table before those of patches, which nothing uses.
        dropout: On the sum.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        patch: tuple[int, int],
        grid: tuple[int, int] | None = None,
        extra: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.grid, self.extra = grid, extra
        self.patch_embeddings = SwinPatchEmbeddings(channels, width, patch)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.position_embeddings: nn.Parameter | None = None
        if grid is not None:
            self.position_embeddings = nn.Parameter(torch.zeros(1, extra + grid[0] * grid[1], width))
            self.resize = Resize()

    def reset_parameters(self) -> None:
        """Position embeddings start at zero."""
        if self.position_embeddings is not None:
            nn.init.zeros_(self.position_embeddings)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """`(b, c, h, w)` to `(b, h / patch, w / patch, width)`."""
        x = self.norm(self.patch_embeddings(pixel_values))
        if self.position_embeddings is not None and self.grid is not None:
            table = self.position_embeddings[0, self.extra :].view(*self.grid, -1)
            x = x + self.resize(table, x.shape[1], x.shape[2])
        return self.dropout(x)


class WindowSelfAttention(nn.Module):
    """Attention inside windows. A family says how much scores are raised between cells, and how queries meet keys.

    Args:
        width: Channels.
        heads: How many heads share them.
        window: Side of a window in cells.
        qkv_bias: Whether queries, keys and values have a bias.
        key_bias: Whether keys have one.
        dropout: On attention weights.
    """

    def __init__(self, width: int, heads: int, window: int, qkv_bias: bool, key_bias: bool, dropout: float) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.query = Linear(width, width, bias=qkv_bias)
        self.key = Linear(width, width, bias=key_bias)
        self.value = Linear(width, width, bias=qkv_bias)
        self.dropout = nn.Dropout(dropout)
        self.tables = Tables()

    def bias(self) -> Tensor:
        """`(heads, n, n)`: what is added to the scores between the n cells of a window."""
        raise NotImplementedError(f"{type(self).__name__} must implement bias.")

    def meet(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, float | None]:
        """Queries and keys `(b, heads, n, d)` as they are multiplied, and the factor of the product (None: `1 / sqrt(d)`)."""
        return query, key, None

    def forward(self, windows: Tensor, mask: Tensor | None, weights: bool) -> tuple[Tensor, Tensor | None]:
        """`(b, n, c)` windows to the same; `mask` `(windows per image, n, n)` is added to the scores."""
        query, key, value = (
            split_heads(project(windows), self.heads) for project in (self.query, self.key, self.value)
        )
        bias = self.bias().unsqueeze(0)
        if mask is not None:
            images = windows.shape[0] // mask.shape[0]
            bias = (bias + mask.unsqueeze(1)).expand(images, -1, -1, -1, -1).flatten(0, 1)
        query, key, scale = self.meet(query, key)
        dropout = self.dropout.p if self.training else 0.0
        context, attention = attend_heads(query, key, value, bias.to(query.dtype), dropout, weights, scale)
        return join_heads(context), attention


class WindowAttention(nn.Module):
    """Attention inside windows, and its output projection."""

    def __init__(self, inside: WindowSelfAttention, width: int) -> None:
        super().__init__()
        self.self = inside
        self.output = nn.ModuleDict({"dense": Linear(width, width)})
        self.dropout = nn.Dropout(inside.dropout.p)

    def forward(self, windows: Tensor, mask: Tensor | None, weights: bool) -> tuple[Tensor, Tensor | None]:
        """`(b, n, c)` windows to the same, and the attention weights `(b, heads, n, n)` on request."""
        context, attention = self.self(windows, mask, weights)
        return self.dropout(self.output["dense"](context)), attention


class SwinBlock(nn.Module):
    """Attention inside windows, then an MLP; both residual.

    Args:
        inside: The attention.
        width: Channels.
        shift: By how many cells windows are shifted.
        hidden: Channels inside the MLP.
        act: Name of the activation.
        eps: Of the norms.
        dropout: On the MLP's output.
        drop_path: Probability that a sample is dropped.
        post_norm: Whether the norms stand after attention and MLP instead of before.
        masked: Added to the scores between cells that only the shift brought together.
    """

    def __init__(
        self,
        inside: WindowSelfAttention,
        width: int,
        shift: int,
        hidden: int,
        *,
        act: str,
        eps: float,
        dropout: float,
        drop_path: float,
        post_norm: bool = False,
        masked: float = MASKED,
    ) -> None:
        super().__init__()
        self.window, self.shift, self.post_norm, self.masked = inside.window, shift, post_norm, masked
        self.layernorm_before = nn.LayerNorm(width, eps=eps)
        self.attention = WindowAttention(inside, width)
        self.drop_path = DropPath(drop_path)
        self.layernorm_after = nn.LayerNorm(width, eps=eps)
        self.intermediate = nn.ModuleDict({"dense": Linear(width, hidden)})
        self.act = activation(act)
        self.output = nn.ModuleDict({"dense": Linear(hidden, width)})
        self.dropout = nn.Dropout(dropout)
        self.tables = Tables()

    def forward(self, x: Tensor, always_shift: bool, weights: bool) -> tuple[Tensor, Tensor | None]:
        """`(b, h, w, c)` to the same; a map no larger than a window is shifted only with `always_shift`."""
        shift = self.shift if always_shift or min(x.shape[1], x.shape[2]) > self.window else 0
        y, attention = self._mix(x if self.post_norm else self.layernorm_before(x), shift, weights)
        x = add(x, self.drop_path(self.layernorm_before(y) if self.post_norm else y))
        y = self._mlp(x if self.post_norm else self.layernorm_after(x))
        return add(x, self.drop_path(self.layernorm_after(y) if self.post_norm else y), into=True), attention

    def _mix(self, x: Tensor, shift: int, weights: bool) -> tuple[Tensor, Tensor | None]:
        """Attention inside the windows of a map."""
        height, width = x.shape[1], x.shape[2]
        padded = pad_to_multiple(x, (self.window, self.window))
        mask = self._mask(padded.shape[1], padded.shape[2], shift, x)
        windows, attention = self.attention(self._cut(padded, shift), mask, weights)
        return self._join(windows, padded, shift)[:, :height, :width], attention

    def _cut(self, x: Tensor, shift: int) -> Tensor:
        """The shifted windows `(b * windows, n, c)` of a map; in one copy where no gradient has to come back."""
        if runs_plainly(x):
            return (
                x.reshape(-1, x.shape[-1]).index_select(0, self._rows(x, shift)).view(-1, self.window**2, x.shape[-1])
            )
        return to_windows(x.roll((-shift, -shift), dims=(1, 2)) if shift else x, self.window)

    def _join(self, windows: Tensor, like: Tensor, shift: int) -> Tensor:
        """The map of the shape of `like` whose windows they are."""
        if runs_plainly(windows):
            return windows.reshape(-1, windows.shape[-1]).index_select(0, self._places(like, shift)).view(like.shape)
        x = from_windows(windows, self.window, like.shape[1], like.shape[2])
        return x.roll((shift, shift), dims=(1, 2)) if shift else x

    def _rows(self, x: Tensor, shift: int) -> Tensor:
        batch, height, width, _ = x.shape
        key = ("rows", batch, height, width, shift, x.device)
        return self.tables.get(key, lambda: window_rows(batch, height, width, self.window, shift, x.device))

    def _places(self, x: Tensor, shift: int) -> Tensor:
        key = ("places", *x.shape[:3], shift, x.device)
        return self.tables.get(key, lambda: self._rows(x, shift).argsort())

    def _mlp(self, x: Tensor) -> Tensor:
        first: Any = self.intermediate["dense"]
        second: Any = self.output["dense"]
        return self.dropout(feed_forward(x, first, self.act, second))

    def _mask(self, rows: int, columns: int, shift: int, like: Tensor) -> Tensor | None:
        if not shift:
            return None
        key = (rows, columns, shift, like.device, like.dtype)
        return self.tables.get(key, lambda: shift_mask(rows, columns, self.window, shift, like, self.masked))


class SwinPatchMerging(nn.Module):
    """Joins 2x2 cells to one of twice the channels; an odd map is zero-padded. The norm stands before or after the projection."""

    def __init__(self, width: int, post_norm: bool = False) -> None:
        super().__init__()
        self.post_norm = post_norm
        self.norm = nn.LayerNorm((2 if post_norm else 4) * width)
        self.reduction = Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, h, w, c)` to `(b, h / 2, w / 2, 2 * c)`, rounded up."""
        x = pad_to_multiple(x, (2, 2))
        batch, height, width, channels = x.shape
        x = x.view(batch, height // 2, 2, width // 2, 2, channels)
        x = x.permute(0, 1, 3, 4, 2, 5).reshape(batch, height // 2, width // 2, 4 * channels)  # columns, then rows
        return self.norm(self.reduction(x)) if self.post_norm else self.reduction(self.norm(x))


class SwinStage(nn.Module):
    """Blocks of one width, and the merging that leads to the next stage where one follows."""

    def __init__(self, blocks: Iterable[SwinBlock], downsample: SwinPatchMerging | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor, always_shift: bool, weights: bool) -> tuple[Tensor, Tensor | None]:
        """Run the blocks; returns the state before merging and the last block's attention weights on request."""
        attention = None
        for block in self.blocks:
            x, attention = block(x, always_shift, weights)
        return x, attention
