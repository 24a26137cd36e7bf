"""A convolution over maps of several sizes equals resizing, concatenating and convolving; so do its gradients."""

import copy
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from oracle import close
from torch import Tensor, nn

from vertebra.heads.joined_convolution import JoinedConv2d, add_enlarged_convolutions, enlarged_convolutions


def resized_and_joined(conv: nn.Conv2d, maps: Sequence[Tensor]) -> Tensor:
    size = maps[0].shape[-2:]
    joined = torch.cat([F.interpolate(x, size, mode="bilinear") for x in maps], 1)
    return F.conv2d(joined, conv.weight, padding=conv.padding)


SIZES = [
    [(16, 24), (8, 12), (4, 6), (2, 3)],
    [(19, 23), (10, 12), (5, 6), (3, 3)],
    [(7, 9), (1, 1), (2, 2), (3, 3), (6, 6)],
    [(5, 4), (5, 4), (1, 3), (9, 2), (7, 7)],
    [(6, 6)],
]


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_equals_resizing_and_concatenating(sizes: list[tuple[int, int]], kernel: int) -> None:
    widths = [40 + index for index in range(len(sizes))]
    conv = JoinedConv2d(widths, 6, kernel).double()
    maps = [
        torch.randn(2, width, *size, dtype=torch.float64, requires_grad=True)
        for width, size in zip(widths, sizes, strict=True)
    ]
    expected = resized_and_joined(conv, maps)
    actual = conv(maps)
    close(actual, expected, tol=1e-12)
    direction = torch.randn_like(expected)
    inputs = [*maps, conv.weight]
    close(torch.autograd.grad(actual, inputs, direction), torch.autograd.grad(expected, inputs, direction), tol=1e-12)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_without_gradients_the_numbers_are_the_same(sizes: list[tuple[int, int]], kernel: int) -> None:
    torch.manual_seed(0)
    widths = [40 + index for index in range(len(sizes))]
    conv = JoinedConv2d(widths, 6, kernel)
    maps = [torch.randn(2, width, *size) for width, size in zip(widths, sizes, strict=True)]
    kept = [x.clone() for x in maps]
    with torch.no_grad():
        close(conv(maps), resized_and_joined(conv, maps), tol=1e-5)
        assert all(map(torch.equal, maps, kept))
        parts = list(zip(maps[1:], torch.split(conv.weight, widths, 1)[1:], strict=True))
        onto = torch.randn(2, 6, *sizes[0])
        expected = onto + enlarged_convolutions(parts, sizes[0]) if parts else onto
        close(add_enlarged_convolutions(onto.clone(), parts), expected, tol=1e-5)


def test_the_shortcut_is_taken_where_it_saves_and_only_there() -> None:
    assert JoinedConv2d([512, 512], 8, 3)._pays(torch.empty(1, 512, 64, 64, device="meta"), (128, 128))
    assert not JoinedConv2d([512, 512], 8, 3)._pays(torch.empty(1, 512, 128, 128, device="meta"), (128, 128))
    assert not JoinedConv2d([16, 16], 8, 3)._pays(torch.empty(1, 16, 64, 64, device="meta"), (128, 128))


def test_every_part_alone_and_in_any_precision() -> None:
    conv = JoinedConv2d([64, 64], 5, 3)
    x = torch.randn(3, 64, 6, 7)
    weight = conv.weight[:, :64]
    expected = F.conv2d(F.interpolate(x, (13, 15), mode="bilinear"), weight, padding=1)
    close(enlarged_convolutions([(x, weight)], (13, 15)), expected)
    maps = [torch.randn(1, 64, 16, 16), torch.randn(1, 64, 8, 8)]
    whole = conv(maps)
    half = copy.deepcopy(conv).to(torch.bfloat16)([x.to(torch.bfloat16) for x in maps])
    assert half.dtype == torch.bfloat16
    close(half.float(), whole, tol=0.02)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = conv(maps)
    assert cast.dtype == torch.bfloat16
    close(cast.float(), whole, tol=0.02)
