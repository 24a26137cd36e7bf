"""Embeddings of more or fewer tokens."""

from __future__ import annotations

from numbers import Integral
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from vertebra.linear import Linear

SPREAD = 1e-9**0.5
"""How far new tokens start from the mean of the old ones, as a part of those's own spread: so near, and yet each its own."""
Table = TypeVar("Table", nn.Embedding, nn.Linear)


class Resizing(NamedTuple):
    """To how many tokens, and how new ones start.

    Args:
        tokens: How many there will be.
        mean: Whether new ones start near the mean of the old ones.
        std: Standard deviation of new ones otherwise.
    """

    tokens: int
    mean: bool
    std: float

    @classmethod
    def plan(cls, present: int, asked: int | None, multiple: int | None, mean: bool, std: float) -> Resizing:
        """Read the arguments of `resize_token_embeddings`.

        Raises:
            ValueError: no whole number, or one below 1.
        """
        count = present if asked is None else asked
        for name, value in (("new_num_tokens", count), ("pad_to_multiple_of", 1 if multiple is None else multiple)):
            if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < 1:
                raise ValueError(f"{name}={value!r} must be a whole number of at least 1, e.g. len(tokenizer).")
        if multiple is not None:
            count += -count % multiple
        return cls(int(count), mean, std)


def resized(table: Table, resizing: Resizing) -> Table:
    """A table of tokens with others at its end, or without those at its end; of the same dtype, on the same device."""
    weight = _rows(table.weight, resizing)
    made: nn.Module
    if isinstance(table, nn.Embedding):
        made = nn.Embedding(resizing.tokens, weight.shape[1], padding_idx=table.padding_idx, device="meta")
    else:
        made = Linear(weight.shape[1], resizing.tokens, bias=table.bias is not None, device="meta")
        if table.bias is not None:
            made.bias = _rows(table.bias, resizing._replace(std=0.0))
    made.weight = weight
    return made.train(table.training)  # type: ignore[return-value]


def _rows(old: Tensor, resizing: Resizing) -> nn.Parameter:
    kept = old.detach()[: resizing.tokens]
    more = resizing.tokens - kept.shape[0]
    if more:
        drawn = torch.randn(more, *kept.shape[1:], dtype=torch.float32).to(kept.device)
        exact = kept.float()
        if resizing.mean:
            drawn = exact.mean(0) + SPREAD * exact.std(0, correction=0) * drawn
        else:
            drawn = resizing.std * drawn
        kept = torch.cat([kept, drawn.to(kept.dtype)])
    return nn.Parameter(kept.clone(), requires_grad=old.requires_grad)
