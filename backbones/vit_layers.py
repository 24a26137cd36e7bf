"""The layer of a plain vision transformer (Dosovitskiy et al. 2020), for every family that spells it its own way."""

from __future__ import annotations

from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vertebra.attention import attend_heads, join_heads, split_heads
from vertebra.backbones.layers import DropPath, add
from vertebra.linear import Linear, feed_forward
from vertebra.placing import Node, place, place_tensor


class Spelling(NamedTuple):
    """Where the parts of a layer stand in a family's files: paths below the layer.

    Args:
        norm1: The norm before attention.
        qkv: The projections to queries, keys and values: three, or one that is all of them in this order.
        out: The projection of what attention gives.
        norm2: The norm before the perceptron.
        mlp: The perceptron's layers: inner and outer. A gated one has the gate's before them, or one inner layer that is the
            gate's and its own in this order.
        scales: Factors per channel of what attention and the perceptron give, `(width,)` each; none where it is empty.
    """

    norm1: str
    qkv: tuple[str, ...]
    out: str
    norm2: str
    mlp: tuple[str, ...]
    scales: tuple[str, ...] = ()


class Layout(NamedTuple):
    """How the tokens of a state lie, and what follows from that for attention.

    Args:
        prefix: Tokens that no patch belongs to; they come first.
        rows: Of patches, which follow row by row.
        columns: Of patches.
        rotation: Cosines and sines, `(t, d)` each for the `d` channels of a head: queries and keys are rotated by them.
        bias: Added to the scores of every layer, broadcastable to `(b, heads, t, t)`.
        pairs: Row of a layer's own table for each pair of tokens, `(t * t,)`.
    """

    prefix: int
    rows: int
    columns: int
    rotation: tuple[Tensor, Tensor] | None = None
    bias: Tensor | None = None
    pairs: Tensor | None = None


class Block(Node):
    """Tokens attend to each other, then pass a perceptron; each is residual with a norm before it.

    Families with positions inside attention extend `score_bias` or `attend`.

    Args:
        spelling: Where the parts are.
        width: Channels.
        heads: Attention heads.
        hidden: Channels inside the perceptron.
        act: The perceptron's activation; of the gate, where it has one.
        qkv_bias: Whether queries, keys and values have a bias; one answer, or three. A joint projection takes the first.
        out_bias: Whether attention's output has one.
        mlp_bias: Whether the perceptron's layers have one.
        gated: Whether the perceptron's inner channels are multiplied by gates.
        scale: Initial value of the factors, where `spelling` has some.
        eps: Of the norms.
        dropout: Of what attention and the perceptron give.
        attention_dropout: Of attention weights.
        drop_path: Probability that a sample skips a branch.
    """

    def __init__(
        self,
        spelling: Spelling,
        width: int,
        heads: int,
        hidden: int,
        act: nn.Module,
        *,
        qkv_bias: bool | tuple[bool, bool, bool] = True,
        out_bias: bool = True,
        mlp_bias: bool = True,
        gated: bool = False,
        scale: float = 1.0,
        eps: float = 1e-6,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.spelling, self.heads, self.gated, self.attention_dropout = spelling, heads, gated, attention_dropout
        place(self, spelling.norm1, nn.LayerNorm(width, eps=eps))
        biases = (qkv_bias,) * 3 if isinstance(qkv_bias, bool) else qkv_bias
        for path, bias in zip(spelling.qkv, biases, strict=False):
            place(self, path, Linear(width, 3 * width // len(spelling.qkv), bias=bias))
        place(self, spelling.out, Linear(width, width, bias=out_bias))
        place(self, spelling.norm2, nn.LayerNorm(width, eps=eps))
        *inner, outer = spelling.mlp
        for path in inner:
            place(self, path, Linear(width, hidden * (1 + gated) // len(inner), bias=mlp_bias))
        place(self, outer, Linear(hidden, width, bias=mlp_bias))
        for path in spelling.scales:
            place_tensor(self, path, nn.Parameter(torch.empty(width)), partial(nn.init.constant_, val=scale))
        self.act = act
        self.dropout = nn.Dropout(dropout)
        self.drop_path = DropPath(drop_path)

    def part(self, path: str) -> Any:
        """What stands at a path of the spelling."""
        return attrgetter(path)(self)

    def forward(self, x: Tensor, layout: Layout, weights: bool = False) -> tuple[Tensor, Tensor | None]:
        """Run the layer.

        Args:
            x: `(b, t, width)`.
            layout: How the tokens lie.
            weights: Also return the attention weights.

        Returns:
            `(b, t, width)`, and `(b, heads, t, t)` on request.
        """
        first, second = map(self.part, self.spelling.scales) if self.spelling.scales else (None, None)
        mixed, attention = self.attend(self.part(self.spelling.norm1)(x), layout, weights)
        x = add(x, self.drop_path(self.dropout(mixed)), first)
        fed = self.feed_forward(self.part(self.spelling.norm2)(x))
        return add(x, self.drop_path(self.dropout(fed)), second, into=True), attention

    def attend(self, x: Tensor, layout: Layout, weights: bool) -> tuple[Tensor, Tensor | None]:
        """Attention on normed tokens `(b, t, width)`, its projection included."""
        q, k, v = (split_heads(part, self.heads) for part in self.project(x))
        if layout.rotation is not None:
            q, k = rotate(q, *layout.rotation), rotate(k, *layout.rotation)
        bias = self.score_bias(q, layout)
        dropout = self.attention_dropout if self.training else 0.0
        context, shares = attend_heads(q, k, v, None if bias is None else bias.to(q.dtype), dropout, weights)
        return self.part(self.spelling.out)(join_heads(context)), shares

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values, `(b, t, width)` each."""
        parts = [self.part(path)(x) for path in self.spelling.qkv]
        return parts[0].chunk(3, dim=-1) if len(parts) == 1 else tuple(parts)

    def score_bias(self, queries: Tensor, layout: Layout) -> Tensor | None:
        """What is added to the scores, broadcastable to `(b, heads, t, t)`; `queries` are `(b, heads, t, d)`."""
        return layout.bias

    def feed_forward(self, x: Tensor) -> Tensor:
        """The perceptron on normed tokens."""
        *inner, outer = map(self.part, self.spelling.mlp)
        if not self.gated:
            return feed_forward(x, inner[0], self.act, outer)
        gate, value = inner[0](x).chunk(2, dim=-1) if len(inner) == 1 else (part(x) for part in inner)
        return outer(self.act(gate) * value)

    def extra_repr(self) -> str:
        """Show heads and dropout of attention."""
        return f"heads={self.heads}, attention_dropout={self.attention_dropout}, gated={self.gated}"


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn channel `i` and channel `d / 2 + i` of `(b, heads, t, d)` as a pair, by angles `(t, d)`."""
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat([-second, first], dim=-1) * sines
