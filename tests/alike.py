"""Answers of pipelines, compared: keys and their order, lists, texts and types as they are; numbers to a tolerance."""

from typing import Any

import numpy as np
import pytest
from oracle import close
from torch import Tensor

TOL = 1e-5


def alike(actual: Any, expected: Any) -> None:
    """Assert that two answers are the same; NumPy's numbers there are plain ones here."""
    if isinstance(expected, dict):
        assert list(actual) == list(expected)
        for name in expected:
            alike(actual[name], expected[name])
    elif isinstance(expected, list):
        assert type(actual) is list
        assert len(actual) == len(expected)
        for pair in zip(actual, expected, strict=True):
            alike(*pair)
    elif isinstance(expected, (float, np.floating)):
        assert type(actual) is float
        assert actual == pytest.approx(float(expected), abs=TOL, rel=TOL)
    elif isinstance(expected, Tensor):
        close(actual, expected)
    else:
        assert type(actual) is type(expected)
        assert actual == expected
