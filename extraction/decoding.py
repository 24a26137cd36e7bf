"""The bytes of an image file as values 0..255."""

from __future__ import annotations

import io

from PIL import Image, ImageOps
from torch import Tensor

from vertebra.image_processing.inputs import read_images


def decode_bytes(data: bytes, max_pixels: int, upright: bool = True) -> Tensor:
    """Decode the bytes of an image file to RGB, `(3, h, w)` values 0..255.

    Args:
        data: The whole file. Of animations the first frame counts.
        max_pixels: What the image may have.
        upright: Turn it as its EXIF orientation says.

    Raises:
        ValueError: it is no image, is not whole, or has more pixels. The cause says more.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            _refuse_large(picture, max_pixels)
            picture.load()
            return read_images(_upright(picture) if upright else picture, convert_rgb=True)[0]
    except Exception as error:  # PIL's parsers raise whatever they stumble over
        raise ValueError(f"The image cannot be decoded: {error or type(error).__name__}") from error


def _refuse_large(picture: Image.Image, max_pixels: int) -> None:
    pixels = picture.width * picture.height
    if pixels > max_pixels:
        raise ValueError(
            f"The image has {picture.width} x {picture.height} pixels, and max_pixels={max_pixels:,} are allowed."
        )


def _upright(picture: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # a broken EXIF block says nothing about the pixels
        return picture
