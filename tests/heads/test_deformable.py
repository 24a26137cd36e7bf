"""Deformable attention: both ways of reading against a loop over points, gradients, padding, and transformers' module."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracle import close, perturb, same
from torch import Tensor
from transformers.models.mask2former import modeling_mask2former

from vertebra.heads.deformable import DeformableAttention, cell_anchors, read_maps, read_rows
from vertebra.heads.initial import draw_weights

SIZES = [(1, 1), (2, 5), (7, 3)]
CELLS = sum(height * width for height, width in SIZES)
HEADS, POINTS, DEPTH, QUERIES = 2, 4, 3, 11
THEIRS = modeling_mask2former.Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention
both_ways = pytest.mark.parametrize("read", [read_maps, read_rows])
Read = Callable[..., Tensor]


def inputs(batch: int = 2, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Values, places inside and outside of the maps, and weights."""
    shape = (batch, QUERIES, HEADS, len(SIZES) * POINTS)
    places = 8 * torch.rand(*shape, 2, dtype=dtype) - 1.5
    return torch.randn(batch, CELLS, HEADS, DEPTH, dtype=dtype), places, torch.rand(shape, dtype=dtype)


def by_hand(values: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    batch = values.shape[0]
    total = torch.zeros(batch, QUERIES, HEADS, DEPTH, dtype=values.dtype)
    starts = [0, 1, 11]
    for index in torch.cartesian_prod(*(torch.arange(n) for n in weights.shape)).tolist():
        image, query, head, point = index
        level = point // POINTS
        height, width = SIZES[level]
        x, y = (places[image, query, head, point] - 0.5).tolist()
        for row in (math.floor(y), math.floor(y) + 1):
            for column in (math.floor(x), math.floor(x) + 1):
                if 0 <= row < height and 0 <= column < width:
                    share = (1 - abs(y - row)) * (1 - abs(x - column)) * weights[image, query, head, point]
                    total[image, query, head] += share * values[image, starts[level] + row * width + column, head]
    return total.flatten(2)


@both_ways
def test_points_are_read_bilinearly(read: Read) -> None:
    values, places, weights = inputs()
    # corners, centres and edges of cells, and far away
    places[0, 0, 0, :8, 0] = torch.tensor([0.0, 0.5, 1.0, 1.5, 5.0, 5.5, -1e9, 1e9])
    places[0, 0, 0, :8, 1] = torch.tensor([0.0, 0.5, 2.0, -0.5, 2.5, 1.0, 0.5, 0.5])
    close(read(values, SIZES, places, weights), by_hand(values, places, weights), 1e-9)


def test_both_ways_have_the_same_gradients() -> None:
    gradients = []
    for read in (read_maps, read_rows):
        torch.manual_seed(0)
        leaves = [each.requires_grad_() for each in inputs()]
        out = read(leaves[0], SIZES, *leaves[1:])
        (out * torch.randn(out.shape, dtype=out.dtype)).sum().backward()
        gradients.append([leaf.grad for leaf in leaves])
    close(*gradients, tol=1e-9)


@both_ways
def test_gradients_are_those_of_the_values(read: Read) -> None:
    values, places, weights = (each[:1] for each in inputs())
    places = 0.3 + torch.rand_like(places) * 3.17  # nowhere at an edge, where there is no gradient
    leaves = [each.clone().requires_grad_() for each in (values, places, weights)]
    assert torch.autograd.gradcheck(lambda v, p, w: read(v, SIZES, p, w), leaves, eps=1e-7, atol=1e-5, fast_mode=True)


@both_ways
def test_a_place_that_is_nan_spoils_no_other(read: Read) -> None:
    values, places, weights = inputs(1)
    expected = read(values, SIZES, places, weights)
    places[0, 3, 1, 2] = torch.nan
    actual = read(values, SIZES, places, weights)
    for query in range(QUERIES):
        for head, (here, there) in enumerate(
            zip(*(each[0, query].view(HEADS, DEPTH) for each in (actual, expected)), strict=True)
        ):
            if (query, head) == (3, 1):
                assert not here.isfinite().any()
            else:
                same(here, there)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@both_ways
def test_half_precision(read: Read, dtype: torch.dtype) -> None:
    values, places, weights = inputs(dtype=torch.float32)
    values, weights = values.to(dtype), weights.to(dtype)
    actual = read(values, SIZES, places, weights)
    assert actual.dtype == dtype
    close(actual.float(), read(values.float(), SIZES, places, weights.float()), 0.02)


@both_ways
def test_as_transformers_reads(read: Read) -> None:
    values, places, weights = inputs(dtype=torch.float32)
    shape = (*places.shape[:3], len(SIZES), POINTS)
    wide = torch.tensor([[width, height] for height, width in SIZES])[:, None]
    expected = modeling_mask2former.multi_scale_deformable_attention(
        values, SIZES, places.view(*shape, 2) / wide, weights.view(shape)
    )
    close(read(values, SIZES, places, weights), expected, 1e-5)


def pair(width: int = 16) -> tuple[DeformableAttention, Any]:
    """The same weights here and in transformers."""
    theirs = perturb(THEIRS(width, HEADS, len(SIZES), POINTS)).double().eval()
    ours = DeformableAttention(width, HEADS, len(SIZES), POINTS).double()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def extents(*fractions: float) -> Tensor:
    """`(b, levels, 2)` rows and columns of images that fill so much of the width."""
    full = torch.tensor(SIZES, dtype=torch.float64)
    return torch.stack([full * torch.tensor([1.0, fraction]) for fraction in fractions])


@pytest.mark.parametrize("fractions", [(1.0, 1.0), (1.0, 0.4)])
def test_the_module_of_transformers(fractions: tuple[float, float]) -> None:
    ours, theirs = pair()
    x, positions = torch.randn(2, CELLS, 16, dtype=torch.float64), torch.randn(1, CELLS, 16, dtype=torch.float64)
    ratios = torch.ones(2, len(SIZES), 2, dtype=torch.float64)
    ratios[..., 0] = torch.tensor(fractions)[:, None]
    references = modeling_mask2former.Mask2FormerPixelDecoderEncoderOnly.get_reference_points(SIZES, ratios, "cpu")
    padding = torch.rand(2, CELLS) < 0.3
    expected, _ = theirs(
        hidden_states=x,
        attention_mask=padding,
        encoder_hidden_states=x,
        position_embeddings=positions,
        reference_points=references,
        spatial_shapes_list=SIZES,
    )
    anchors = cell_anchors(SIZES, extents(*fractions), HEADS, POINTS)
    close(ours(x + positions, x, anchors, SIZES, padding.unsqueeze(-1)), expected, 1e-6)


def test_anchors_are_at_the_same_share_of_the_image() -> None:
    sizes = [(2, 3), (4, 6), (8, 12)]
    anchors = cell_anchors(sizes, torch.tensor([sizes], dtype=torch.float64), 1, 1).view(-1, 3, 2)
    assert anchors[0].tolist() == [[0.5, 0.5], [1.0, 1.0], [2.0, 2.0]]
    assert anchors[-1].tolist() == [[2.875, 1.875], [5.75, 3.75], [11.5, 7.5]]
    # padded below and to the right, an image's cells have the anchors that they have without padding
    padded = [(3, 5), (7, 9), (16, 16)]
    inside = cell_anchors(padded, torch.tensor([sizes], dtype=torch.float64), 1, 1).view(-1, 3, 2)
    parts = inside.split([height * width for height, width in padded])
    cropped = [
        part.view(*size, 3, 2)[:height, :width].reshape(-1, 3, 2)
        for part, size, (height, width) in zip(parts, padded, sizes, strict=True)
    ]
    close(torch.cat(cropped), anchors, 1e-12)


def test_padding_is_never_read() -> None:
    ours, _ = pair()
    x = torch.randn(2, CELLS, 16, dtype=torch.float64)
    padding = torch.rand(2, CELLS, 1) < 0.5
    anchors = cell_anchors(SIZES, extents(1.0), HEADS, POINTS)
    other = torch.where(padding, torch.randn_like(x), x)
    same(ours(x, other, anchors, SIZES, padding), ours(x, x, anchors, SIZES, padding))
    assert not torch.equal(ours(x, other, anchors, SIZES), ours(x, x, anchors, SIZES))


def test_at_first_heads_look_into_directions_and_all_points_weigh_the_same() -> None:
    attention = DeformableAttention(32, 8, 3, 4)
    for module in attention.modules():
        if not draw_weights(module) and hasattr(module, "reset_parameters"):
            module.reset_parameters()
    offsets = attention.sampling_offsets.bias.view(8, 3, 4, 2)
    assert offsets[0].tolist() == [[[1, 0], [2, 0], [3, 0], [4, 0]]] * 3
    close(offsets[1, 0], torch.tensor([[1.0, 1], [2, 2], [3, 3], [4, 4]]), 1e-6)
    close(offsets[4, 2, :, 0], torch.tensor([-1.0, -2, -3, -4]), 1e-6)
    zeros = (attention.sampling_offsets.weight, attention.attention_weights.weight, attention.attention_weights.bias)
    assert not any(each.any() for each in zeros)


def test_heads_share_the_channels() -> None:
    with pytest.raises(ValueError, match="3 attention heads cannot share 16 channels equally"):
        DeformableAttention(16, 3, 1, 4)
