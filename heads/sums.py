"""Sums into memory that is there already, where nobody differentiates them: a large new tensor costs more than the adding."""

from __future__ import annotations

from torch import Tensor

from vertebra.linear import runs_plainly


def add(x: Tensor, more: Tensor) -> Tensor:
    """`x + more`, in the memory of `x` where no gradients are kept: `x` is not to be used afterwards."""
    return x.add_(more) if runs_plainly(x, more) else x + more
