"""Attention over heads against torch's own module, with and without weights."""

import pytest
import torch
from oracle import close
from torch import nn

from vertebra.attention import attend


def arguments(masked: bool) -> tuple[torch.Tensor, ...]:
    q, k, v = torch.randn(2, 5, 12), torch.randn(2, 7, 12), torch.randn(2, 7, 12)
    mask = (torch.rand(2, 1, 5, 7) < 0.6) if masked else None
    if mask is not None:
        mask[..., 0] = True
    return tuple(None if x is None else x.double() if x.is_floating_point() else x for x in (q, k, v, mask))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("heads", [1, 3])
def test_equals_torch(masked: bool, heads: int) -> None:
    q, k, v, mask = arguments(masked)
    module = nn.MultiheadAttention(12, heads, bias=False, batch_first=True).double()
    with torch.no_grad():
        module.in_proj_weight.copy_(torch.eye(12).repeat(3, 1))
        module.out_proj.weight.copy_(torch.eye(12))
    blocked = None if mask is None else ~mask.expand(2, heads, 5, 7).flatten(0, 1)
    context, shares = module(q, k, v, attn_mask=blocked, average_attn_weights=False)
    ours, weights = attend(q, k, v, heads, mask, weights=True)
    close(ours, context, 1e-12)
    close(weights, shares, 1e-12)
    fused, none = attend(q, k, v, heads, mask)
    assert none is None
    close(fused, context, 1e-12)


@pytest.mark.parametrize("weights", [False, True])
def test_a_query_without_keys_gets_zeros_and_a_gradient(weights: bool) -> None:
    q, k, v, mask = arguments(True)
    mask[0, :, 2] = False
    for tensor in (q, k, v):
        tensor.requires_grad_(True)
    context, shares = attend(q, k, v, 3, mask, weights=weights)
    assert context[0, 2].abs().max() == 0
    assert shares is None or shares[0, :, 2].abs().max() == 0
    context.square().sum().backward()
    assert all(torch.isfinite(tensor.grad).all() for tensor in (q, k, v))
    assert q.grad[0, 2].abs().max() == 0


def test_dropout_drops_weights() -> None:
    q, k, v, _ = arguments(False)
    _, shares = attend(q, k, v, 3, dropout=0.5, weights=True)
    _, whole = attend(q, k, v, 3, weights=True)
    dropped = shares == 0
    assert 0.3 < dropped.double().mean() < 0.7
    close(shares[~dropped], 2 * whole[~dropped], 1e-12)


def test_no_batch_and_views() -> None:
    packed = torch.randn(2, 5, 36)
    q, k, v = packed.chunk(3, -1)
    close(attend(q, k, v, 3)[0], attend(q.clone(), k.clone(), v.clone(), 3)[0])
    assert attend(q[:0], k[:0], v[:0], 3)[0].shape == (0, 5, 12)
