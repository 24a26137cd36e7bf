"""What is written into memory that is there: the same numbers, and only where nobody asks for gradients."""

import pytest
import torch
from oracle import close

from vertebra.heads.deformable import _softmax
from vertebra.heads.layouts import for_convolutions
from vertebra.heads.norms import BatchNorm
from vertebra.heads.sums import add


def test_sums_take_the_memory_of_the_first_without_gradients_only() -> None:
    torch.manual_seed(0)
    x, more = torch.randn(2, 3), torch.randn(2, 3)
    expected = x + more
    assert torch.equal(add(x.clone().requires_grad_(), more), expected)
    assert torch.equal(add(x.clone(), more.clone().requires_grad_()), expected)
    kept = x.double()
    assert torch.equal(add(kept, more.double()), x.double() + more.double())
    assert torch.equal(kept, x.double())
    with torch.no_grad():
        total = add(x, more)
    assert total is x
    assert torch.equal(total, expected)


@pytest.fixture
def norm() -> BatchNorm:
    torch.manual_seed(0)
    norm = BatchNorm(4, eps=1e-3).eval()
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            tensor.normal_()
        norm.running_var.uniform_(0.1, 3.0)
    return norm


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_a_norm_overwrites_without_gradients_only(norm: BatchNorm, layout: torch.memory_format) -> None:
    x = torch.randn(2, 4, 5, 6).contiguous(memory_format=layout)
    kept, expected = x.clone(), norm(x)
    assert torch.equal(norm.overwrite(x), expected)
    assert torch.equal(x, kept)
    with torch.no_grad():
        normed = norm.overwrite(x)
    assert normed is x
    close(normed, expected, tol=1e-6)


def test_a_norm_in_training_counts_as_ever(norm: BatchNorm) -> None:
    norm.train()
    x = torch.randn(2, 4, 5, 6)
    kept, before = x.clone(), norm.running_mean.clone()
    with torch.no_grad():
        norm.overwrite(x)
    assert torch.equal(x, kept)
    assert not torch.equal(norm.running_mean, before)


def test_maps_change_their_format_without_gradients_only() -> None:
    maps = [torch.randn(1, 3, 4, 5), torch.randn(1, 2, 2, 3)]
    for x, kept in zip(for_convolutions(maps), maps, strict=True):
        assert torch.equal(x, kept)
        assert x.is_contiguous(memory_format=torch.channels_last)
    learning = [maps[0].clone().requires_grad_(), maps[1]]
    assert all(x is kept for x, kept in zip(for_convolutions(learning), learning, strict=True))


def test_shares_of_points_are_a_softmax_of_any_size() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 7, 8, 12) * torch.tensor([1.0, 30.0, 1000.0]).view(3, 1, 1, 1)
    kept = logits.clone()
    close(_softmax(logits), logits.double().softmax(-1).float(), tol=1e-6)
    assert torch.equal(logits, kept)
    assert torch.equal(_softmax(logits.requires_grad_()), logits.softmax(-1))
