"""The layers of text encoders in BERT's manner (Devlin et al. 2018), for every family that spells them its own way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vertebra.activations import activation
from vertebra.attention import attend
from vertebra.linear import Linear
from vertebra.placing import place


class Spelling(NamedTuple):
    """Where the parts of a layer stand in a family's files: paths below the layer."""

    query: str
    key: str
    value: str
    context: str
    context_norm: str
    inner: str
    outer: str
    outer_norm: str


class EncoderLayer(nn.Module):
    """Tokens attend to each other, then pass a perceptron; each is residual with a norm after it.

    Args:
        spelling: Where the parts are.
        width: Channels.
        heads: Attention heads.
        head_width: Channels of each head.
        hidden: Channels inside the perceptron.
        act: The perceptron's activation.
        context_dropout: Of what attention gives.
        outer_dropout: Of what the perceptron gives.
        attention_dropout: Of attention weights.
        eps: Of the norms.
    """

    def __init__(
        self,
        spelling: Spelling,
        width: int,
        heads: int,
        head_width: int,
        hidden: int,
        act: nn.Module,
        context_dropout: float = 0.0,
        outer_dropout: float = 0.0,
        attention_dropout: float = 0.0,
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        self.spelling, self.heads, self.attention_dropout = spelling, heads, attention_dropout
        inside = heads * head_width
        for path, part in zip(
            spelling,
            (
                *(Linear(width, inside) for _ in range(3)),
                Linear(inside, width),
                nn.LayerNorm(width, eps=eps),
                Linear(width, hidden),
                Linear(hidden, width),
                nn.LayerNorm(width, eps=eps),
            ),
            strict=True,
        ):
            place(self, path, part)
        self.act = act
        self.context_dropout = nn.Dropout(context_dropout)
        self.outer_dropout = nn.Dropout(outer_dropout)

    def parts(self) -> tuple[Any, ...]:
        """The parts, in the order of `Spelling`."""
        return attrgetter(*self.spelling)(self)

    def forward(self, x: Tensor, mask: Tensor | None = None, weights: bool = False) -> tuple[Tensor, Tensor | None]:
        """Run the layer.

        Args:
            x: `(b, n, width)`.
            mask: Bool, broadcastable to `(b, heads, n, n)`, True where a token may attend to another.
            weights: Also return the attention weights.

        Returns:
            `(b, n, width)`, and `(b, heads, n, n)` on request.
        """
        query, key, value, context, context_norm, inner, outer, outer_norm = self.parts()
        dropout = self.attention_dropout if self.training else 0.0
        mixed, attention = attend(query(x), key(x), value(x), self.heads, mask, dropout, weights)
        x = context_norm(x + self.context_dropout(context(mixed)))
        return outer_norm(x + self.outer_dropout(outer(self.act(inner(x))))), attention

    def keep_heads(self, kept: Sequence[int]) -> None:
        """Leave out all heads but those at the places `kept` among the present ones."""
        query, key, value, context, *_ = self.parts()
        channels = torch.arange(query.out_features, device=query.weight.device).view(self.heads, -1)
        channels = channels[list(kept)].flatten()
        for path, part in zip(self.spelling[:3], (query, key, value), strict=True):
            place(self, path, narrowed(part, 0, channels))
        place(self, self.spelling.context, narrowed(context, 1, channels))
        self.heads = len(kept)

    def extra_repr(self) -> str:
        """Show heads and dropout of attention."""
        return f"heads={self.heads}, attention_dropout={self.attention_dropout}"


def narrowed(linear: nn.Linear, axis: int, channels: Tensor) -> nn.Linear:
    """A linear layer with a part of another's outputs (`axis` 0) or inputs (`axis` 1)."""
    weight = linear.weight.detach().index_select(axis, channels)
    made = Linear(weight.shape[1], weight.shape[0], bias=linear.bias is not None, device="meta")
    made.weight = nn.Parameter(weight, requires_grad=linear.weight.requires_grad)
    if linear.bias is not None:
        bias = linear.bias.detach()
        bias = bias.index_select(0, channels) if axis == 0 else bias.clone()
        made.bias = nn.Parameter(bias, requires_grad=linear.bias.requires_grad)
    return made.train(linear.training)


class Encoder(nn.Module):
    """Layers one after the other, under the name `layer`."""

    def __init__(self, layers: Iterable[EncoderLayer]) -> None:
        super().__init__()
        self.layer = nn.ModuleList(layers)

    def forward(
        self, x: Tensor, mask: Tensor | None, keep_states: bool, weights: bool
    ) -> tuple[Tensor, tuple[Tensor, ...] | None, tuple[Any, ...] | None]:
        """Run the layers.

        Returns:
            The last state; on request all states, from `x` on; on request the attention weights of all layers.
        """
        states, attentions = [x] if keep_states else [], []
        for layer in self.layer:
            x, attention = layer(x, mask, weights)
            if keep_states:  # else their memory is the next layer's
                states.append(x)
            attentions.append(attention)
        return x, tuple(states) if keep_states else None, tuple(attentions) if weights else None


class Embeddings(nn.Module):
    """What a token is at first: its word, its place and its kind, summed and normed.

    Args:
        words: How many tokens there are.
        width: Channels.
        positions: The most tokens a text may have.
        kinds: How many kinds of token (of the first or the second sentence); 0 for none.
        padding: The token whose word is not trained, or None.
        dropout: While training.
        eps: Of the norm.
        sinusoidal: Whether places start as sines and cosines.
    """

    def __init__(
        self,
        words: int,
        width: int,
        positions: int,
        kinds: int = 0,
        padding: int | None = None,
        dropout: float = 0.0,
        eps: float = 1e-12,
        sinusoidal: bool = False,
    ) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(words, width, padding_idx=padding)
        self.position_embeddings = Waves(positions, width) if sinusoidal else nn.Embedding(positions, width)
        self.kinds = kinds
        if kinds:
            self.token_type_embeddings = nn.Embedding(kinds, width)
        self.LayerNorm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, words: Tensor, positions: Tensor, kinds: Tensor | None = None) -> Tensor:
        """Embed.

        Args:
            words: `(b, n)` tokens, or `(b, n, width)` vectors in place of them.
            positions: `(n)`, `(1, n)` or `(b, n)` places.
            kinds: `(b, n)`; all of the first kind when None.

        Returns:
            `(b, n, width)`.
        """
        x = words if words.is_floating_point() else self.word_embeddings(words)
        if self.kinds:
            x = x + self.token_type_embeddings(torch.zeros_like(positions) if kinds is None else kinds)
        x = x + self.position_embeddings(positions)
        return self.dropout(self.LayerNorm(x))


class Waves(nn.Embedding):
    """Places that start as sines and cosines of ten thousand's powers (Vaswani et al. 2017) and are trained from there."""

    def reset_parameters(self) -> None:
        """Fill the table."""
        count, width = self.weight.shape
        places = torch.arange(count, dtype=torch.float64)[:, None]
        angle = places / 10000 ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
        with torch.no_grad():
            self.weight[:, 0::2] = angle.sin().to(self.weight)
            self.weight[:, 1::2] = angle.cos()[:, : width // 2].to(self.weight)


class Pooler(nn.Module):
    """The first token's state, through a linear layer and a tanh."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = Linear(width, width)
        self.activation = activation("tanh")

    def forward(self, states: Tensor) -> Tensor:
        """`(b, n, width)` to `(b, width)`."""
        return self.activation(self.dense(states[:, 0]))
