"""Bipartite matching of queries to labels: what each pair costs, and the pairs of least total cost.

The costs are those of MaskFormer and Mask2Former (Cheng et al. 2021, 2022). They are computed in float32 at least, also
under autocast, and as products of matrices: nothing of size queries x labels x pixels is made.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Pairs = tuple[Tensor, Tensor]
"""Indices of queries and of the labels they are matched to, two int64 tensors of one length."""


def full_precision(x: Tensor) -> Tensor:
    """`x` in float32, or in float64 where it is that already."""
    return x if x.dtype == torch.float64 else x.float()


def class_cost(logits: Tensor, labels: Tensor) -> Tensor:
    """Minus the probability of each label.

    Args:
        logits: `(q, c + 1)` scores before softmax, the null class last.
        labels: `(n,)` classes, int64.

    Returns:
        `(q, n)`, from -1 to 0.
    """
    return -full_precision(logits).softmax(-1)[:, labels]


def batched_dice_cost(logits: Tensor, targets: Tensor) -> Tensor:
    """One minus the smoothed dice coefficient of every query with every label.

    Args:
        logits: `(q, p)` scores before sigmoid, at p pixels or points.
        targets: `(n, p)`, from 0 to 1.

    Returns:
        `(q, n)`, from 0 to 1.
    """
    with torch.autocast(logits.device.type, enabled=False):
        probabilities = full_precision(logits).sigmoid()
        targets = targets.to(probabilities.dtype)
        sums = probabilities.sum(-1)[:, None] + targets.sum(-1)
        return 1 - (2 * probabilities @ targets.T + 1) / (sums + 1)


def batched_bce_cost(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross entropy of every query with every label, averaged over the pixels; shapes as in `batched_dice_cost`."""
    with torch.autocast(logits.device.type, enabled=False):
        logits = full_precision(logits)
        return _average(-F.logsigmoid(logits), -F.logsigmoid(-logits), targets)


def batched_focal_cost(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss (Lin et al. 2017) of every query with every label, averaged over the pixels.

    Args:
        logits: `(q, p)` scores before sigmoid.
        targets: `(n, p)`, from 0 to 1.
        alpha: Weight of pixels inside; those outside weigh `1 - alpha`.
        gamma: Exponent with which pixels that are right already weigh less.

    Returns:
        `(q, n)`, 0 or more.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = full_precision(logits)
        probabilities = logits.sigmoid()
        inside = -alpha * (1 - probabilities) ** gamma * F.logsigmoid(logits)
        outside = (alpha - 1) * probabilities**gamma * F.logsigmoid(-logits)
        return _average(inside, outside, targets)


def _average(inside: Tensor, outside: Tensor, targets: Tensor) -> Tensor:
    """Mean over the pixels of what a pixel costs `(q, p)` if it lies inside a label, and if outside."""
    targets = targets.to(inside.dtype)
    return (inside @ targets.T + outside @ (1 - targets).T) / inside.shape[1]


def assign(cost: Tensor) -> Pairs:
    """Match queries to labels, one to one, at the least total cost (Hungarian method, SciPy's).

    Args:
        cost: `(q, n)`. A pair whose cost is not finite is chosen only where nothing else is left.

    Returns:
        Queries and their labels, `min(q, n)` each, on the device of `cost`, in the order of the queries.
    """
    return assign_all([cost])[0]


def assign_all(costs: Sequence[Tensor]) -> list[Pairs]:
    """`assign` for many matrices, which cross from their device to the CPU together."""
    if not costs:
        return []
    device = costs[0].device
    flat = torch.cat([cost.detach().flatten() for cost in costs]).cpu().double().numpy()
    parts = np.split(flat, np.cumsum([cost.numel() for cost in costs])[:-1])
    return [_solve(part.reshape(cost.shape), device) for part, cost in zip(parts, costs, strict=True)]


def _solve(cost: np.ndarray, device: torch.device) -> Pairs:  # type: ignore[type-arg]
    from scipy.optimize import linear_sum_assignment  # a third of a second, which inference need not wait for

    finite = np.isfinite(cost)
    if not finite.all():
        largest = np.abs(cost[finite]).max(initial=1.0)
        cost = np.where(
            finite, cost, 1 + 2 * min(cost.shape) * largest
        )  # more than any choice among the others can save
    queries, labels = linear_sum_assignment(cost)
    return torch.as_tensor(queries, device=device), torch.as_tensor(labels, device=device)
