"""Scaled dot-product attention over heads, with the weights where they are asked for."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    heads: int,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    weights: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Let every query take the mean of the values, weighted by how well it fits their keys.

    Args:
        queries: `(b, q, heads * d)`.
        keys: `(b, k, heads * d)`.
        values: `(b, k, heads * d)`.
        heads: How many heads share the channels.
        mask: Bool, broadcastable to `(b, heads, q, k)`, True where a query may attend to a key. A query with no key gets zeros.
        dropout: Probability with which a weight is dropped; 0 outside training.
        weights: Also return the weights, as they are after dropout.

    Returns:
        `(b, q, heads * d)`, and `(b, heads, q, k)` on request.
    """
    q, k, v = (split_heads(x, heads) for x in (queries, keys, values))
    context, shares = attend_heads(q, k, v, mask, dropout, weights)
    return join_heads(context), shares


def attend_heads(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    weights: bool = False,
    scale: float | None = None,
) -> tuple[Tensor, Tensor | None]:
    """`attend` for heads that are apart already.

    Args:
        q: `(b, heads, q, d)`.
        k: `(b, heads, k, d)`.
        v: `(b, heads, k, d)`.
        mask: As in `attend`, or floating point of the same dtype as `q`: added to the scores.
        dropout: As in `attend`.
        weights: As in `attend`.
        scale: Of the scores; `1 / sqrt(d)` when None.

    Returns:
        `(b, heads, q, d)`, and `(b, heads, q, k)` on request.
    """
    if not weights:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scale), None
    scores = q @ k.transpose(-2, -1) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is None:
        shares = scores.softmax(-1)
    elif mask.dtype == torch.bool:
        shares = scores.masked_fill(~mask, -torch.inf).softmax(-1).masked_fill(~mask, 0.0)
    else:
        shares = (scores + mask).softmax(-1)
    shares = F.dropout(shares, dropout)
    return shares @ v, shares


def split_heads(x: Tensor, heads: int) -> Tensor:
    """`(b, n, heads * d)` to `(b, heads, n, d)`."""
    return x.view(*x.shape[:-1], heads, x.shape[-1] // heads).transpose(1, 2)


def join_heads(context: Tensor) -> Tensor:
    """`(b, heads, n, d)` to `(b, n, heads * d)`.

    In a captured graph the cells are copied into that order: where they lie after attention is the engine's affair, and a view that
    torch's layout allows fails in another (ONNX).
    """
    joined = context.transpose(1, 2)
    if torch.compiler.is_compiling():
        joined = joined.clone(memory_format=torch.contiguous_format)
    return joined.flatten(2)
