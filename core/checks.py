"""Checks of arguments that models of all kinds take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

WRAPPING = "wrap it as torch.tensor(…)"


def check_tensors(given: Mapping[str, Any], advice: str = WRAPPING) -> None:
    """Check that arguments are tensors, or None.

    Args:
        given: The arguments by name.
        advice: What to do about one that is no tensor.

    Raises:
        TypeError: names the argument.
    """
    for name, value in given.items():
        if value is not None and not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(value).__name__}: {advice}.")
