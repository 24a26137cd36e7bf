"""What PVT v2 and SegFormer are made of: patches that overlap, attention to a reduced map, and MLPs that convolve."""

from __future__ import annotations

from operator import attrgetter
from typing import Any, NamedTuple

from torch import Tensor, nn

from vertebra.activations import activation
from vertebra.attention import attend
from vertebra.backbones.layers import DropPath, add
from vertebra.convolution import channels_last, convolve
from vertebra.linear import Linear, in_pieces, runs_plainly, unwatched
from vertebra.placing import Node, place

POOLED = 7
"""Side of the map that linear attention attends to, whatever the image."""


class Spelling(NamedTuple):
    """Paths of the attention's parts below its own."""

    query: str
    key: str
    value: str
    reduction: str
    norm: str
    out: str


class OverlappingPatches(nn.Module):
    """A convolution whose windows overlap, and a norm.

    Args:
        channels: Of the map that comes.
        width: Channels of the map that goes.
        kernel: `(height, width)` of a window; the map is padded by half of it.
        stride: `(vertical, horizontal)` step.
        eps: Of the norm.
    """

    def __init__(self, channels: int, width: int, kernel: tuple[int, int], stride: tuple[int, int], eps: float) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, kernel, stride, padding=(kernel[0] // 2, kernel[1] // 2))
        self.layer_norm = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, c, h, w)` to `(b, rows, columns, width)`."""
        return self.layer_norm(self.proj(channels_last(x, self.proj.weight)).permute(0, 2, 3, 1))


class ReducedAttention(Node):
    """Every cell of a map attends to all of the map made smaller.

    Args:
        spelling: Where the parts stand.
        width: Channels.
        heads: How many heads share them.
        reduction: Side of the squares that become one cell to attend to.
        pooled: Linear attention: the map is averaged to 7x7 cells instead.
        qkv_bias: Whether queries, keys and values have a bias.
        eps: Of the norm.
        dropout: On the output.
        attention_dropout: On attention weights.
    """

    def __init__(
        self,
        spelling: Spelling,
        width: int,
        heads: int,
        reduction: int,
        *,
        pooled: bool,
        qkv_bias: bool,
        eps: float,
        dropout: float,
        attention_dropout: float,
    ) -> None:
        super().__init__()
        self.spelling, self.heads, self.attention_dropout = spelling, heads, attention_dropout
        for path in (spelling.query, spelling.key, spelling.value):
            place(self, path, Linear(width, width, bias=qkv_bias))
        self.pool: nn.Module = nn.AdaptiveAvgPool2d(POOLED) if pooled else nn.Identity()
        self.act: nn.Module = nn.GELU() if pooled else nn.Identity()
        self.reduces = pooled or reduction > 1
        if self.reduces:
            side = 1 if pooled else reduction
            place(self, spelling.reduction, nn.Conv2d(width, width, side, side))
            place(self, spelling.norm, nn.LayerNorm(width, eps=eps))
        place(self, spelling.out, Linear(width, width))
        self.dropout = nn.Dropout(dropout)

    def _part(self, path: str) -> Any:
        return attrgetter(path)(self)

    def forward(self, x: Tensor, weights: bool) -> tuple[Tensor, Tensor | None]:
        """`(b, h, w, c)` to the same, and on request the weights `(b, heads, h * w, cells attended to)`."""
        spelling = self.spelling
        seen = self._reduced(x).flatten(1, 2)
        query = self._part(spelling.query)(x.flatten(1, 2))
        key, value = self._part(spelling.key)(seen), self._part(spelling.value)(seen)
        dropout = self.attention_dropout if self.training else 0.0
        context, shares = attend(query, key, value, self.heads, dropout=dropout, weights=weights)
        return self.dropout(self._part(spelling.out)(context)).view(x.shape), shares

    def _reduced(self, x: Tensor) -> Tensor:
        """The map that is attended to: `(b, h, w, c)` to `(b, rows, columns, c)`."""
        if not self.reduces:
            return x
        smaller = self._part(self.spelling.reduction)(self.pool(x.permute(0, 3, 1, 2)))
        return self.act(self._part(self.spelling.norm)(smaller.permute(0, 2, 3, 1)))


class MixMlp(nn.Module):
    """An MLP with a depthwise convolution inside, by which cells know where they are.

    Args:
        width: Channels of input and output.
        hidden: Channels between.
        act: Name of the activation.
        dropout: After the activation and at the end.
        rectify: Whether what enters the convolution is rectified.
    """

    def __init__(self, width: int, hidden: int, act: str, dropout: float, rectify: bool = False) -> None:
        super().__init__()
        self.dense1 = Linear(width, hidden)
        self.rectify: nn.Module = nn.ReLU() if rectify else nn.Identity()
        self.dwconv = nn.ModuleDict({"dwconv": nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)})
        self.act = activation(act)
        self.dense2 = Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, h, w, c)` to the same."""
        if not (runs_plainly(x, *self.parameters()) and unwatched(*self.modules())):
            return self._run(x)
        return in_pieces(self._run, x, x[0, ..., 0].numel() * self.dense1.out_features)

    def _run(self, x: Tensor) -> Tensor:
        x = self.rectify(self.dense1(x)).permute(0, 3, 1, 2)
        conv: Any = self.dwconv["dwconv"]
        x = convolve(x, conv, act=self.act).permute(0, 2, 3, 1)
        return self.dropout(self.dense2(self.dropout(x)))


class PyramidBlock(nn.Module):
    """Attention to a reduced map and an MLP that convolves; each after a norm, each residual."""

    def __init__(self, attention: ReducedAttention, mlp: MixMlp, width: int, eps: float, drop_path: float) -> None:
        super().__init__()
        self.layer_norm_1 = nn.LayerNorm(width, eps=eps)
        self.attention = attention
        self.drop_path = DropPath(drop_path)
        self.layer_norm_2 = nn.LayerNorm(width, eps=eps)
        self.mlp = mlp

    def forward(self, x: Tensor, weights: bool) -> tuple[Tensor, Tensor | None]:
        """`(b, h, w, c)` to the same, and the attention weights on request."""
        mixed, shares = self.attention(self.layer_norm_1(x), weights)
        x = add(x, self.drop_path(mixed))
        return add(x, self.drop_path(self.mlp(self.layer_norm_2(x))), into=True), shares
