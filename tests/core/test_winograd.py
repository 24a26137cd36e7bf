"""Winograd's convolution equals the sum that it stands for, at every edge, and is taken where nobody asks for gradients only."""

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vertebra import winograd
from vertebra.winograd import SameConv2d, convolve


def exact(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    sums = F.conv2d(x.double(), weight.double(), None if bias is None else bias.double(), padding=1)
    return sums.to(x.dtype)


def apart(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("size", [(8, 12), (9, 13), (10, 6), (7, 3), (1, 1), (4, 31)], ids=str)
@pytest.mark.parametrize("channels", [(5, 3), (3, 8)], ids=str)
def test_equals_the_plain_sum(size: tuple[int, int], channels: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, channels[0], *size)
    weight, bias = torch.randn(channels[1], channels[0], 3, 3), torch.randn(channels[1])
    for like in (x, x.contiguous(memory_format=torch.channels_last)):
        actual = winograd.winograd(like, weight, bias)
        assert apart(actual, exact(x, weight, bias)) < 5e-6
        assert actual.is_contiguous(memory_format=torch.channels_last)
    assert apart(winograd.winograd(x, weight), exact(x, weight)) < 5e-6


def test_pieces_leave_no_seam() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 6, 37, 22), torch.randn(7, 6, 3, 3)
    whole = winograd.winograd(x, weight)
    for piece in (
        1,
        36 * 6 * 4 * 3,
        36 * 6 * 7 * 4,
        36 * 6 * 6 * 4 * 3,
    ):  # 7, 3, 1 and 1 parts of filters; 1, 1, 1 and 2 rows
        with mock.patch.object(winograd, "PIECE", piece):
            assert apart(winograd.winograd(x, weight), whole) < 1e-6


def test_rounding_stays_small_over_many_channels() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(1, 512, 24, 24).relu_(), torch.randn(64, 512, 3, 3)
    assert apart(winograd.winograd(x, weight), exact(x, weight)) < 5e-6


@pytest.fixture
def taken() -> mock.Mock:
    with mock.patch.object(winograd, "winograd", wraps=winograd.winograd) as way:
        yield way


def test_is_taken_for_large_maps_of_many_channels(taken: mock.Mock) -> None:
    torch.manual_seed(0)
    conv = SameConv2d(192, 192).requires_grad_(False)
    x = torch.randn(1, 192, 46, 46)
    assert apart(conv(x), exact(x, conv.weight, conv.bias)) < 5e-6
    assert taken.call_count == 1
    conv(x[..., :40])
    convolve(x, torch.randn(192, 192, 1, 1))
    convolve(x, torch.randn(8, 192, 3, 3))
    conv.double()(x.double())
    assert taken.call_count == 1


def test_gradients_graphs_and_autocast_take_the_ordinary_way(taken: mock.Mock) -> None:
    torch.manual_seed(0)
    conv, x = SameConv2d(192, 192, bias=False), torch.randn(1, 192, 46, 46)
    conv(x).sum().backward()
    assert conv.weight.grad is not None
    torch.export.export(conv, (x,))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert conv(x).dtype == torch.bfloat16
    convolve(x.to("meta"), torch.empty(192, 192, 3, 3, device="meta"))
    assert taken.call_count == 0
    with torch.inference_mode():
        conv(x)
    assert taken.call_count == 1
