"""Convolutions with what follows them, against torch's own one after the other."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from vertebra.convolution import channels_last, convolve, rectified
from vertebra.linear import Linear, feed_forward

CONVS = {
    "plain": {"kernel_size": 3, "padding": 1},
    "pointwise": {"kernel_size": 1},
    "strided": {"kernel_size": 3, "padding": 1, "stride": 2},
    "uneven": {"kernel_size": (3, 5), "padding": (1, 2), "stride": (2, 1)},
    "dilated": {"kernel_size": 3, "padding": 2, "dilation": 2},
    "grouped": {"kernel_size": 3, "padding": 1, "groups": 4},
    "depthwise": {"kernel_size": 7, "padding": 3, "groups": 8},
    "padded by reflection": {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    "same": {"kernel_size": 3, "padding": "same"},
}
ACTS: list[nn.Module | None] = [None, nn.ReLU(), nn.GELU(), nn.GELU("tanh"), nn.SiLU()]


def norm(kind: str, width: int = 8) -> nn.Module | None:
    if kind == "none":
        return None
    if kind == "group":
        return nn.GroupNorm(2, width)
    made = nn.BatchNorm2d(width, affine=kind != "bare", eps=1e-3)
    made.running_mean.normal_()
    made.running_var.uniform_(0.5, 2.0)
    if made.affine:
        nn.init.normal_(made.weight)
        nn.init.normal_(made.bias)
    return made.train(kind == "training")


def in_turn(x: Tensor, conv: nn.Module, after: nn.Module | None, act: nn.Module | None, onto: Tensor | None) -> Tensor:
    y = conv(x) if after is None else after(conv(x))
    y = y if onto is None else y + onto
    return y if act is None else act(y)


@pytest.mark.parametrize("side", [5, 24])
@pytest.mark.parametrize("act", ACTS, ids=str)
@pytest.mark.parametrize("kind", ["none", "batch", "bare", "group"])
@pytest.mark.parametrize("shape", CONVS)
def test_equals_one_after_the_other(shape: str, kind: str, act: nn.Module | None, side: int) -> None:
    torch.manual_seed(0)
    conv, after = nn.Conv2d(8, 8, **CONVS[shape], bias=kind != "batch"), norm(kind)
    x = torch.randn(2, 8, side, side)
    with torch.no_grad():
        onto = torch.randn_like(conv(x))
        for other in (None, onto):
            expected = in_turn(x, conv, after, act, other)
            kept = None if other is None else other.clone()
            found = convolve(x, conv, after, act, other)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
            assert kept is None or torch.equal(other, kept)


def test_gradients_and_training_are_torchs_own() -> None:
    torch.manual_seed(0)
    conv, after, act = nn.Conv2d(8, 8, 3, padding=1), norm("training"), nn.ReLU()
    x, onto = torch.randn(2, 8, 24, 24, requires_grad=True), torch.randn(2, 8, 24, 24)
    twin = copy.deepcopy(after)
    convolve(x, conv, after, act, onto).square().sum().backward()
    found, x.grad = x.grad, None
    in_turn(x, conv, twin, act, onto).square().sum().backward()
    torch.testing.assert_close(found, x.grad)
    assert torch.equal(after.running_mean, twin.running_mean)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_listeners_hear_what_they_would(part: int) -> None:
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 8, 3, padding=1), norm("batch"), nn.ReLU()]
    x, heard = torch.randn(1, 3, 32, 32), []
    parts[part].register_forward_hook(lambda module, inputs, output: heard.append(output.clone()))
    with torch.no_grad():
        convolve(x, *parts)
        assert len(heard) == 1
        for module in parts[: part + 1]:
            x = module(x)
    assert torch.equal(heard[0], heard[1])


def test_new_weights_are_used_at_once() -> None:
    torch.manual_seed(0)
    conv, after = nn.Conv2d(3, 8, 3, padding=1), norm("batch")
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        convolve(x, conv, after)
        conv.weight.data.mul_(2)
        after.running_var.data.add_(1)
        torch.testing.assert_close(convolve(x, conv, after), after(conv(x)), rtol=1e-5, atol=1e-5)


def test_channels_last_where_it_is_plain() -> None:
    x, weight = torch.randn(2, 3, 32, 32), nn.Parameter(torch.randn(4, 3, 3, 3))
    assert channels_last(x, weight).is_contiguous()  # its gradient is wanted
    with torch.no_grad():
        assert channels_last(x, weight).is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(channels_last(x, weight), x)
        assert channels_last(x.double(), weight).is_contiguous()
        assert channels_last(x[:, :, :4, :4]).stride() == x[:, :, :4, :4].stride()  # too few cells


def test_rectifies_in_place_only_where_nobody_minds() -> None:
    x = torch.tensor([-1.0, 2.0])
    assert rectified(x, nn.ReLU()) is x
    assert x.tolist() == [0.0, 2.0]
    kept = torch.tensor([-1.0, 2.0], requires_grad=True)
    assert rectified(kept, nn.ReLU()).tolist() == [0.0, 2.0]
    assert kept.tolist() == [-1.0, 2.0]
    heard, act = [], nn.ReLU()
    act.register_forward_hook(lambda module, inputs, output: heard.append(inputs[0].clone()))
    rectified(torch.tensor([-1.0]), act)
    assert heard[0].item() == -1.0


@pytest.mark.parametrize("act", [nn.ReLU(), nn.GELU(), nn.SiLU()])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_shows(bad: float, act: nn.Module) -> None:
    """An image that is not a number must be found by its maps; other images are not touched."""
    conv, after, first, second = nn.Conv2d(8, 8, 3, padding=1), norm("full"), Linear(8, 16), Linear(16, 8)
    x = torch.randn(2, 8, 24, 24)
    x[0, 3, 5, 5] = bad
    with torch.no_grad():
        found, expected = convolve(x, conv, after, act), in_turn(x, conv, after, act, None)
        rows = x.permute(0, 2, 3, 1)
        fed, plain = feed_forward(rows, first, act, second), second(act(first(rows)))
    for mine, its in ((found, expected), (fed, plain)):
        torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-5, equal_nan=True)
        assert not mine[0].isfinite().all()
        assert mine[1].isfinite().all()
