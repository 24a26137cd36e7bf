"""Photo-like JPEG files of one size, cut out of the photos that come with scikit-image."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from PIL import Image
from skimage import data

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")


@cache
def jpegs(count: int, width: int = 640, height: int = 480, quality: int = 90) -> tuple[bytes, ...]:
    """`count` files, each another cut-out; 64 kB in the mean at the defaults."""
    photos = [Image.fromarray(getattr(data, name)()) for name in PHOTOS]
    draw = np.random.default_rng(0)
    return tuple(_cut_out(photos[index % len(photos)], width, height, quality, draw) for index in range(count))


def _cut_out(photo: Image.Image, width: int, height: int, quality: int, draw: np.random.Generator) -> bytes:
    share = draw.uniform(0.6, 1)
    wide, high = int(photo.width * share), int(photo.height * share)
    left, top = int(draw.integers(photo.width - wide + 1)), int(draw.integers(photo.height - high + 1))
    cut = photo.crop((left, top, left + wide, top + high)).resize((width, height), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    cut.save(file, "JPEG", quality=quality)
    return file.getvalue()
