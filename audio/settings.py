"""How the settings of feature extractors are read: what each may be, and the error where it is not."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import numpy as np

SIDES = ("right", "left")


def read_count(value: Any, name: str) -> int:
    """A whole number from 1, or ValueError."""
    if isinstance(value, Integral) and not isinstance(value, bool) and int(value) > 0:
        return int(value)
    raise ValueError(f"{name}={value!r} must be a whole number, from 1.")


def read_number(value: Any, name: str) -> float | None:
    """A number or None, or ValueError."""
    if value is None or (isinstance(value, Real) and not isinstance(value, bool)):
        return value if value is None else float(value)
    raise ValueError(f"{name}={value!r} must be a number.")


def read_bool(value: Any, name: str) -> bool:
    """True or False, or TypeError."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise TypeError(f"{name}={value!r} is a {type(value).__name__}; give True or False.")


def read_side(value: Any, name: str) -> str:
    """One of `SIDES`, or ValueError."""
    if value not in SIDES:
        raise ValueError(f"{name}={value!r} does not exist; it is 'right' or 'left'.")
    return str(value)


READERS: dict[str, Callable[[Any, str], Any]] = {
    **dict.fromkeys(("feature_size", "sampling_rate", "n_fft", "hop_length", "chunk_length"), read_count),
    **dict.fromkeys(("padding_value", "dither"), read_number),
    **dict.fromkeys(("return_attention_mask", "do_normalize"), read_bool),
    "padding_side": read_side,
}
"""Name of a setting to what reads it: `(value, name)` to the value that is kept."""
