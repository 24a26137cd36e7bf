"""What Hiera is made of: patches with positions, attention in mask units, layers that pool."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vertebra.attention import attend_heads
from vertebra.backbones.layers import DropPath, Mlp, add, one_size
from vertebra.backbones.patches import Resize
from vertebra.linear import Linear, runs_plainly


class Layer(NamedTuple):
    """A layer of a Hiera.

    Args:
        width: Channels of what comes.
        out: Channels of what goes.
        pooled: How many cells become one.
        window: How many cells attend to each other; 0 for all.
    """

    width: int
    out: int
    pooled: int
    window: int


def pool(x: Tensor, dim: int, count: int) -> Tensor:
    """The maximum over each `count` cells that `unroll` put side by side along `dim`."""
    parts = x.view(*x.shape[:dim], count, -1, *x.shape[dim + 1 :])
    return (
        parts.amax(dim=dim) if runs_plainly(x) else parts.max(dim=dim).values
    )  # whose gradient goes to one cell alone


class HieraEmbeddings(nn.Module):
    """The stem: patches that overlap, each with its position added.

    Args:
        channels: Of the image.
        width: Channels of the stem.
        patch: Kernel, stride and padding of the convolution.
        grid: `(rows, columns)` that positions are for.
        std: Standard deviation of initial positions.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        patch: tuple[tuple[int, int], tuple[int, int], tuple[int, int]],
        grid: tuple[int, int],
        std: float,
    ) -> None:
        super().__init__()
        self.grid, self.std = grid, std
        kernel, stride, padding = patch
        self.patch_embeddings = nn.ModuleDict({"projection": nn.Conv2d(channels, width, kernel, stride, padding)})
        self.position_embeddings = nn.Parameter(torch.zeros(1, grid[0] * grid[1], width))
        self.resize = Resize()

    def reset_parameters(self) -> None:
        """Draw the positions."""
        nn.init.trunc_normal_(self.position_embeddings, std=self.std)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """`(b, c, h, w)` to `(b, rows, columns, width)`."""
        x = self.patch_embeddings["projection"](one_size(pixel_values)).permute(0, 2, 3, 1)
        return x + self.resize(self.position_embeddings.view(*self.grid, -1), x.shape[1], x.shape[2])


class HieraAttention(nn.Module):
    """Attention inside mask units or between all cells; queries may be pooled.

    Args:
        layer: Widths, pooling and window.
        heads: How many heads share the channels.
    """

    def __init__(self, layer: Layer, heads: int) -> None:
        super().__init__()
        self.layer, self.heads = layer, heads
        self.qkv = Linear(layer.width, 3 * layer.out)
        self.proj = Linear(layer.out, layer.out)

    def forward(self, x: Tensor, weights: bool) -> tuple[Tensor, Tensor | None]:
        """Unrolled cells `(b, n, c)` to `(b, n / pooled, c)`, and on request `(b, heads, windows, queries, keys)`."""
        batch, cells, _ = x.shape
        window = self.layer.window or cells
        parts = self.qkv(x).view(batch, window, cells // window, 3, self.heads, -1)
        q, k, v = parts.permute(3, 0, 2, 4, 1, 5).flatten(1, 2)  # (b * windows, heads, window, d) each
        if self.layer.pooled > 1:
            q = pool(q, 2, self.layer.pooled)
        context, shares = attend_heads(q, k, v, weights=weights)
        context = context.view(batch, -1, *context.shape[1:]).permute(0, 3, 1, 2, 4)  # (b, queries, windows, heads, d)
        if shares is not None:
            shares = shares.view(batch, -1, *shares.shape[1:]).transpose(1, 2)
        return self.proj(context.reshape(batch, -1, self.layer.out)), shares


class HieraBlock(nn.Module):
    """Attention and an MLP, each after a norm, each residual; the first of a stage may widen and pool.

    Args:
        layer: Widths, pooling and window.
        heads: Attention heads.
        hidden: Channels inside the MLP.
        act: Name of the activation.
        eps: Of the norms.
        drop_path: Probability that a sample is dropped.
    """

    def __init__(self, layer: Layer, heads: int, hidden: int, act: str, eps: float, drop_path: float) -> None:
        super().__init__()
        self.pooled = layer.pooled
        self.layernorm_before = nn.LayerNorm(layer.width, eps=eps)
        self.attn = HieraAttention(layer, heads)
        self.layernorm_after = nn.LayerNorm(layer.out, eps=eps)
        self.mlp = Mlp(layer.out, hidden, act)
        self.drop_path = DropPath(drop_path)
        self.proj = Linear(layer.width, layer.out) if layer.width != layer.out else None

    def forward(self, x: Tensor, weights: bool) -> tuple[Tensor, Tensor | None]:
        """Unrolled cells `(b, n, c)` to `(b, n / pooled, c)`, and the attention weights on request."""
        normed = self.layernorm_before(x)
        if self.proj is not None:
            x = self.proj(normed)
        if self.pooled > 1:
            x = pool(x, 1, self.pooled)
        mixed, shares = self.attn(normed, weights)
        x = add(x, self.drop_path(mixed))
        return add(x, self.drop_path(self.mlp(self.layernorm_after(x))), into=True), shares


class HieraPooler(nn.Module):
    """The mean of all cells, and a norm."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.layernorm = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, n, c)` to `(b, c)`."""
        return self.layernorm(x.mean(dim=1))
