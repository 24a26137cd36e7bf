"""Sampling at points: against bilinear interpolation by hand, and the points that transformers draws from the same seed."""

import math

import pytest
import torch
import transformers
from mask2former_cases import HEAD, backbones
from oracle import close, same

from vertebra.heads.points import random_points, sample_points, uncertain_points


def by_hand(plane: torch.Tensor, x: float, y: float) -> float:
    """The value of a map `(h, w)` at a point, outside of which there are zeros."""
    height, width = plane.shape
    x, y = x * width - 0.5, y * height - 0.5
    total = 0.0
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < height and 0 <= column < width:
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * plane[row, column].item()
    return total


def test_sampling_is_bilinear() -> None:
    maps, points = torch.randn(2, 3, 4, 7, dtype=torch.float64), torch.rand(2, 9, 2, dtype=torch.float64)
    points[0, :4] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.5, 0.125], [0.5 / 7, 1.0]])
    expected = [
        [[by_hand(m, *p.tolist()) for p in image] for m in planes] for planes, image in zip(maps, points, strict=True)
    ]
    close(sample_points(maps, points), torch.tensor(expected, dtype=torch.float64), 1e-12)


def test_the_same_points_fit_maps_of_any_size() -> None:
    gradient = torch.linspace(0.5 / 64, 1 - 0.5 / 64, 64).expand(1, 1, 32, -1)
    points = 0.1 + 0.8 * torch.rand(1, 50, 2)
    close(sample_points(gradient, points)[0, 0], points[0, :, 0], 1e-5)
    coarse = torch.nn.functional.interpolate(gradient, size=(8, 16), mode="area")
    close(sample_points(coarse, points)[0, 0], points[0, :, 0], 1e-5)


@pytest.mark.parametrize("shape", [(0, 1, 5, 6), (1, 0, 5, 6)])
def test_nothing_to_sample(shape: tuple[int, ...]) -> None:
    maps = torch.zeros(shape, requires_grad=True)
    sampled = sample_points(maps, random_points(shape[0], 4, maps))
    assert sampled.shape == (*shape[:2], 4)
    sampled.sum().backward()
    assert maps.grad is not None
    assert uncertain_points(torch.zeros(0, 5, 6), 8, 3.0, 0.75).shape == (0, 8, 2)


def test_half_precision_is_compared_in_full() -> None:
    maps, points = torch.randn(1, 2, 5, 6, dtype=torch.bfloat16), torch.rand(1, 40, 2)
    same(sample_points(maps, points), sample_points(maps.float(), points))
    assert random_points(1, 2, maps).dtype == torch.float32
    assert uncertain_points(maps[0], 8, 3.0, 0.75).dtype == torch.float32


def ordered(points: torch.Tensor) -> torch.Tensor:
    """Points sorted along each mask, since their order says nothing."""
    return torch.stack([image[image[:, 0].argsort()] for image in points])


@pytest.mark.parametrize(("oversample", "importance"), [(3.0, 0.75), (1.5, 1.0), (2.5, 0.0), (1.0, 0.33)])
def test_the_points_of_transformers(oversample: float, importance: float) -> None:
    logits = torch.randn(5, 12, 9)
    config = transformers.Mask2FormerConfig(backbone_config=backbones()["resnet"], **HEAD)
    criterion = transformers.models.mask2former.modeling_mask2former.Mask2FormerLoss(config, {})
    torch.manual_seed(3)
    expected = criterion.sample_points_using_uncertainty(
        logits[:, None], criterion.calculate_uncertainty, 40, oversample, importance
    )
    state = torch.get_rng_state()
    torch.manual_seed(3)
    actual = uncertain_points(logits, 40, oversample, importance)
    same(torch.get_rng_state().long(), state.long())
    same(ordered(actual), ordered(expected))


def test_uncertain_points_are_near_the_edge() -> None:
    x = torch.linspace(-8, 8, 65)
    logits = x.expand(2, 33, -1)
    points = uncertain_points(logits, 200, 3.0, 0.75)
    assert points.min() >= 0
    assert points.max() <= 1
    assert sample_points(logits[:, None], points[:, :150]).abs().max() < 2.2  # a quarter of all, of 600 points drawn
    assert sample_points(logits[:, None], points[:, 150:]).abs().max() > 4
