"""Seeded images: noise, which is hard on filters, and a smooth picture with some grain, which is like a photo."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def noise() -> Callable[..., np.ndarray]:
    """A maker of `(height, width, channels)` uint8 noise; the same for the same shape."""

    def make(height: int, width: int, channels: int = 3) -> np.ndarray:
        rng = np.random.default_rng(height * 10_000 + width)
        return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)

    return make


@pytest.fixture
def photo() -> Callable[[int, int], Image.Image]:
    def make(height: int, width: int) -> Image.Image:
        rng = np.random.default_rng(height * 10_000 + width)
        y, x = np.mgrid[0:height, 0:width]
        colours = [127 + 120 * np.sin(x / 9 + y / 17), 127 + 100 * np.cos(y / 5), x * 255 / max(1, width - 1)]
        grainy = np.stack(colours, -1) + rng.normal(0, 12, (height, width, 3))
        return Image.fromarray(grainy.clip(0, 255).astype("uint8"))

    return make
