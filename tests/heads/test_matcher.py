"""Matching: costs against loops over pairs and pixels and against transformers, assignments against all permutations."""

import itertools
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.mask2former import modeling_mask2former as mask2former
from transformers.models.maskformer import modeling_maskformer as maskformer

from vertebra.heads.matcher import (
    assign,
    assign_all,
    batched_bce_cost,
    batched_dice_cost,
    batched_focal_cost,
    class_cost,
)

COSTS = {
    batched_dice_cost: maskformer.pair_wise_dice_loss,
    batched_focal_cost: maskformer.pair_wise_sigmoid_focal_loss,
    batched_bce_cost: mask2former.pair_wise_sigmoid_cross_entropy_loss,
}
NAN, INF = math.nan, math.inf


def example(queries: int = 4, labels: int = 3, pixels: int = 11) -> tuple[torch.Tensor, torch.Tensor]:
    logits = 3 * torch.randn(queries, pixels, dtype=torch.float64)
    return logits, (torch.rand(labels, pixels) > 0.6).double()


def pair_by_pair(cost: object, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The definitions, one pair and one pixel at a time."""
    result = torch.zeros(len(logits), len(targets), dtype=torch.float64)
    for q, n in itertools.product(range(len(logits)), range(len(targets))):
        p = [1 / (1 + math.exp(-x)) for x in logits[q].tolist()]
        t = targets[n].tolist()
        right = [a if b else 1 - a for a, b in zip(p, t, strict=True)]
        if cost is batched_dice_cost:
            overlap = sum(a * b for a, b in zip(p, t, strict=True))
            result[q, n] = 1 - (2 * overlap + 1) / (sum(p) + sum(t) + 1)
        elif cost is batched_bce_cost:
            result[q, n] = -sum(map(math.log, right)) / len(p)
        else:
            alpha = [0.25 if b else 0.75 for b in t]
            terms = [-a * (1 - r) ** 2 * math.log(r) for a, r in zip(alpha, right, strict=True)]
            result[q, n] = sum(terms) / len(p)
    return result


@pytest.mark.parametrize("cost", COSTS, ids=lambda cost: cost.__name__)
def test_costs(cost) -> None:
    logits, targets = example()
    actual = cost(logits, targets)
    torch.testing.assert_close(actual, pair_by_pair(cost, logits, targets), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(actual, COSTS[cost](logits, targets), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("cost", COSTS, ids=lambda cost: cost.__name__)
def test_costs_of_sure_and_half_precision_logits(cost) -> None:
    logits, targets = torch.tensor([[-1000.0, 1000.0, 0.0]]), torch.tensor([[True, True, False]])
    assert cost(logits, targets).isfinite().all()
    assert cost(logits, targets[:0]).shape == (1, 0)
    logits, targets = example(pixels=500)
    halves = logits.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        actual = cost(halves, targets.bool())
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, cost(halves.double(), targets).float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cost", COSTS, ids=lambda cost: cost.__name__)
def test_no_tensor_of_queries_times_labels_times_pixels(cost) -> None:
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                self.numel = max(self.numel, result.numel())
            return result

    logits, targets = example(queries=30, labels=20, pixels=1000)
    with Largest() as largest:
        cost(logits, targets)
    assert largest.numel == 30 * 1000


def test_class_cost() -> None:
    logits = torch.randn(5, 4, dtype=torch.float64)
    actual = class_cost(logits, torch.tensor([2, 0, 2]))
    for q, (n, label) in itertools.product(range(5), enumerate((2, 0, 2))):
        row = logits[q].exp()
        assert actual[q, n].item() == pytest.approx(-(row[label] / row.sum()).item(), abs=1e-12)
    assert class_cost(logits.bfloat16(), torch.tensor([1])).dtype == torch.float32


@pytest.mark.parametrize(("queries", "labels"), [(1, 1), (3, 3), (5, 2), (2, 5), (4, 4)])
def test_assign_against_all_permutations(queries: int, labels: int) -> None:
    for _ in range(5):
        cost = torch.randn(queries, labels)
        rows, columns = assign(cost)
        assert rows.dtype == columns.dtype == torch.int64
        assert len(rows) == len(columns) == min(queries, labels)
        assert rows.tolist() == sorted(set(rows.tolist()))
        assert len(set(columns.tolist())) == len(columns)
        small, large = (cost, labels) if queries <= labels else (cost.T, queries)
        best = min(
            sum(small[i, j].item() for i, j in enumerate(chosen))
            for chosen in itertools.permutations(range(large), len(small))
        )
        assert cost[rows, columns].sum().item() == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("shape", [(4, 0), (0, 3), (0, 0)])
def test_nothing_to_assign(shape: tuple[int, int]) -> None:
    for indices in assign(torch.zeros(shape)):
        assert indices.dtype == torch.int64
        assert indices.shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_costs_that_are_not_finite_come_last(dtype: torch.dtype) -> None:
    cost = torch.tensor([[NAN, 5.0], [1.0, INF], [-INF, 2.0]], dtype=dtype)
    rows, columns = assign(cost)
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(1, 0), (2, 1)]
    # one of two must be taken: the total of the others still counts
    rows, columns = assign(torch.tensor([[NAN, 1.0], [NAN, 3.0]], dtype=dtype))
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 1), (1, 0)]
    assert sorted(assign(torch.full((3, 3), NAN, dtype=dtype))[1].tolist()) == [0, 1, 2]
    large = torch.tensor([[3e38, 1.0], [NAN, 2.0]], dtype=dtype)
    assert assign(large)[1].tolist() == [0, 1]


def test_many_at_once_equal_one_by_one() -> None:
    costs = [torch.randn(shape) for shape in ((5, 2), (3, 0), (2, 4), (6, 6))]
    assert assign_all([]) == []
    for cost, (rows, columns) in zip(costs, assign_all(costs), strict=True):
        alone = assign(cost)
        assert torch.equal(rows, alone[0])
        assert torch.equal(columns, alone[1])
