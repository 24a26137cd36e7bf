"""Attention and DETR's decoder layer against torch's own modules."""

import pytest
import torch
from oracle import close, perturb
from torch import nn

from vertebra.heads.attention import DetrDecoderLayer, MultiHeadAttention


def pair(width: int = 24, heads: int = 4) -> tuple[MultiHeadAttention, nn.MultiheadAttention]:
    ours = perturb(MultiHeadAttention(width, heads)).double()
    theirs = nn.MultiheadAttention(width, heads, batch_first=True).double()
    copy_attention(ours, theirs)
    return ours, theirs


@torch.no_grad()
def copy_attention(ours: MultiHeadAttention, theirs: nn.MultiheadAttention) -> None:
    projections = (ours.q_proj, ours.k_proj, ours.v_proj)
    theirs.in_proj_weight.copy_(torch.cat([each.weight for each in projections]))
    theirs.in_proj_bias.copy_(torch.cat([each.bias for each in projections]))
    theirs.out_proj.load_state_dict(ours.out_proj.state_dict())


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_against_torch(weights: bool, masked: bool) -> None:
    ours, theirs = pair()
    q, k, v = (torch.randn(2, n, 24, dtype=torch.float64) for n in (5, 7, 7))
    real = torch.tensor([[True] * 7, [True] * 3 + [False] * 4])
    mask = real[:, None, None] if masked else None
    actual, attention = ours(q, k, v, mask, weights)
    expected, average = theirs(q, k, v, key_padding_mask=~real if masked else None, average_attn_weights=False)
    close(actual, expected, tol=1e-12)
    if weights:
        close(attention, average, tol=1e-12)
    else:
        assert attention is None


@pytest.mark.parametrize("act", ["relu", "gelu"])
def test_layer_against_torch(act: str) -> None:
    ours = perturb(DetrDecoderLayer(16, 2, 40, act=act)).double()
    theirs = nn.TransformerDecoderLayer(16, 2, 40, dropout=0.0, activation=act, batch_first=True).double()
    copy_attention(ours.self_attn, theirs.self_attn)
    copy_attention(ours.encoder_attn, theirs.multihead_attn)
    for mine, other in (
        (ours.fc1, theirs.linear1),
        (ours.fc2, theirs.linear2),
        (ours.self_attn_layer_norm, theirs.norm1),
        (ours.encoder_attn_layer_norm, theirs.norm2),
        (ours.final_layer_norm, theirs.norm3),
    ):
        other.load_state_dict(mine.state_dict())
    x, memory = torch.randn(2, 5, 16, dtype=torch.float64), torch.randn(2, 7, 16, dtype=torch.float64)
    actual, attention = ours(x, torch.zeros_like(x), memory, memory)
    assert attention is None
    close(actual, theirs(x, memory), tol=1e-12)


def test_positions_are_added_to_queries_and_keys_alone() -> None:
    layer = perturb(DetrDecoderLayer(16, 2, 40)).eval()
    x, positions, memory = (torch.randn(1, n, 16) for n in (5, 5, 7))
    calls = []
    for attention in (layer.self_attn, layer.encoder_attn):
        attention.register_forward_pre_hook(lambda module, args: calls.append(args))
    layer(x, positions, memory + 1, memory)
    (q, k, v, *_), (asking, keys, values, *_) = calls
    close((q, k, v), (x + positions, x + positions, x))
    close((keys, values), (memory + 1, memory))
    after = layer.self_attn_layer_norm(x + layer.self_attn(x + positions, x + positions, x)[0])
    close(asking, after + positions)


def test_each_dropout_acts_in_training_alone() -> None:
    x, memory = torch.randn(1, 5, 16), torch.randn(1, 7, 16)
    for name in ("dropout", "attention_dropout", "activation_dropout"):
        layer = DetrDecoderLayer(16, 2, 40, **{name: 0.5})
        train = [layer(x, x, memory, memory)[0] for _ in range(2)]
        assert not torch.equal(*train), name
        layer.eval()
        close(*(layer(x, x, memory, memory)[0] for _ in range(2)), tol=0.0)
    layer = DetrDecoderLayer(16, 2, 40, attention_dropout=0.5)
    dropped = layer(x, x, memory, memory, weights=True)[1]
    assert (dropped == 0).any()


def test_heads_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match="5 attention heads cannot share 16 channels equally"):
        MultiHeadAttention(16, 5)
