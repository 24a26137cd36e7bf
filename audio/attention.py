"""Multi-head attention with the names of speech models, and the memory of what a decoder has seen."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vertebra.attention import attend
from vertebra.linear import Linear


class MultiHeadAttention(nn.Module):
    """Attention with separate projections of queries, keys and values.

    Args:
        width: Channels.
        heads: How many heads share them.
        dropout: Probability with which an attention weight is dropped while training.
        key_bias: Whether keys have a bias.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0, key_bias: bool = True) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.k_proj = Linear(width, width, bias=key_bias)
        self.v_proj = Linear(width, width)
        self.q_proj = Linear(width, width)
        self.out_proj = Linear(width, width)

    def keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Project `(b, n, width)` to keys and values of that shape."""
        return self.k_proj(x), self.v_proj(x)

    def forward(
        self,
        x: Tensor,
        known: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
        weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            x: `(b, q, width)`, what asks.
            known: Keys and values `(b, k, width)`; those of `x` itself when None.
            mask: Bool, broadcastable to `(b, heads, q, k)`, True where a query may attend to a key.
            weights: Also return the attention weights.

        Returns:
            `(b, q, width)`, and `(b, heads, q, k)` on request.
        """
        keys, values = self.keys_and_values(x) if known is None else known
        dropout = self.dropout if self.training else 0.0
        context, shares = attend(self.q_proj(x), keys, values, self.heads, mask, dropout, weights)
        return self.out_proj(context), shares

    def extra_repr(self) -> str:
        """Show heads and dropout."""
        return f"heads={self.heads}, dropout={self.dropout}"


class Seen(NamedTuple):
    """What one layer of a decoder keeps: keys and values `(b, n, width)` of the tokens so far, and of the encoder's states.

    The latter two are None in a decoder that runs without an encoder.
    """

    keys: Tensor
    values: Tensor
    memory_keys: Tensor | None = None
    memory_values: Tensor | None = None

    @property
    def length(self) -> int:
        """How many tokens there were."""
        return self.keys.shape[1]

    def rows(self, kept: Tensor) -> Seen:
        """The same for the texts numbered `kept` alone."""
        return Seen(*(None if tensor is None else tensor.index_select(0, kept) for tensor in self))  # type: ignore[arg-type]


def extended(past: Seen | None, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of the tokens so far, with those of new tokens after them."""
    if past is None:
        return keys, values
    return torch.cat([past.keys, keys], dim=1), torch.cat([past.values, values], dim=1)
