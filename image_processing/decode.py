"""The bytes of an image file as values 0..255: the one place where files become pixels at scale."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vertebra.errors import did_you_mean, listing
from vertebra.image_processing.inputs import read_images
from vertebra.image_processing.threads import each

Pixels: TypeAlias = "np.ndarray[Any, Any]"
DECODERS = ("pillow", "fast")
"""What decodes image files."""
MAX_PIXELS = 2**27

END = b"\xff\xd9"
"""What a JPEG ends with."""
ORIENTATION = 0x0112
"""The EXIF tag."""
TURNS: dict[Any, tuple[bool, tuple[int, ...]]] = {
    2: (False, (2,)), 3: (False, (1, 2)), 4: (False, (1,)), 5: (True, ()), 6: (True, (2,)), 7: (True, (1, 2)), 8: (True, (1,)),
}  # fmt: skip
"""EXIF orientation to whether rows and columns of `(c, h, w)` change places, and which axes are flipped then."""


def decode_image(data: bytes, decoder: str = "pillow", *, upright: bool = True, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Decode the bytes of an image file to RGB, `(3, h, w)` uint8 values 0..255. Of animations the first frame counts.

    The values of a pixel lie side by side in memory, from where torch resizes 8-bit images fastest.

    Args:
        data: The whole file.
        decoder: `"pillow"`, or `"fast"`: libjpeg-turbo through simplejpeg for JPEG of 8 bits in grey or colour, Pillow for all
            else. Both give the same values where they are built with the same libjpeg (tests allow one level), and refuse files
            that end early. Beyond that `"fast"` refuses every JPEG that libjpeg has a complaint about, while Pillow lets damage
            in the middle of the data pass, with wrong colours from there on.
        upright: Turn the image as its EXIF orientation says (TIFF is turned by Pillow in any case).
        max_pixels: What the image may have by its header, which is read before memory is taken. Pillow's own
            `PIL.Image.MAX_IMAGE_PIXELS` holds too.

    Raises:
        ValueError: it is no image, is not whole, or has more pixels (the cause says more); or there is no such decoder.
        ImportError: `"fast"` without simplejpeg.
    """
    jpeg = load_decoder(decoder)
    try:
        file = io.BytesIO(data)
        with Image.open(file) as picture:
            _refuse_large(picture, max_pixels)
            is_jpeg = picture.format in ("JPEG", "MPO")
            if is_jpeg and data.find(END, file.tell()) < 0:  # Pillow would take zeros in place of what is missing
                raise OSError("image file is truncated: nothing marks its end")
            if jpeg is not None and is_jpeg and picture.mode in ("L", "RGB"):
                pixels = torch.from_numpy(jpeg(data, "RGB")).permute(2, 0, 1)  # (h, w, 3) in memory
            else:
                picture.load()
                pixels = read_images(picture, convert_rgb=True)[0]
            return _turned(pixels, _orientation(picture)) if upright else pixels
    except Exception as error:  # the parsers raise whatever they stumble over
        raise ValueError(f"The image cannot be decoded: {error or type(error).__name__}") from error


def decode_images(
    files: Iterable[bytes],
    decoder: str = "pillow",
    *,
    upright: bool = True,
    max_pixels: int = MAX_PIXELS,
    threads: int | None = None,
) -> list[Tensor]:
    """Decode the bytes of image files, several at once, to what a processor takes with `input_data_format="channels_first"`.

    Args:
        files: The whole files.
        decoder: As in `decode_image`, and so are `upright` and `max_pixels`.
        upright: See there.
        max_pixels: See there.
        threads: How many files are decoded at once; None for `torch.get_num_threads()`.

    Returns:
        `(3, h, w)` uint8 values 0..255 of each file, in order.

    Raises:
        ValueError: a file cannot be decoded; names it by its place, and says more as `decode_image` does.
        ImportError: `"fast"` without simplejpeg.
    """
    load_decoder(decoder)

    def decoded(numbered: tuple[int, bytes]) -> Tensor:
        index, data = numbered
        try:
            return decode_image(data, decoder, upright=upright, max_pixels=max_pixels)
        except ValueError as error:
            raise ValueError(f"files[{index}]: {error}") from error

    return each(decoded, enumerate(files), threads)


def check_decoder(decoder: str) -> None:
    """Raise ValueError where there is no such decoder."""
    if decoder not in DECODERS:
        raise ValueError(f"decoder={decoder!r} must be one of {listing(DECODERS)}.{did_you_mean(decoder, DECODERS)}")


def load_decoder(decoder: str) -> Callable[[bytes, str], Pixels] | None:
    """What decodes JPEG in place of Pillow, `(bytes, colours) -> (h, w, 3)`; None where nothing does.

    Raises:
        ValueError: there is no such decoder.
        ImportError: it is not installed.
    """
    check_decoder(decoder)
    if decoder == "pillow":
        return None
    try:
        import simplejpeg
    except ImportError as error:
        raise ImportError(
            "decoder='fast' needs simplejpeg: pip install 'vertebra[extract]'. decoder='pillow' needs nothing."
        ) from error
    return simplejpeg.decode_jpeg


def _refuse_large(picture: Image.Image, max_pixels: int) -> None:
    if picture.width * picture.height > max_pixels:
        raise ValueError(
            f"The image has {picture.width} x {picture.height} pixels, and max_pixels={max_pixels:,} are allowed."
        )


def _orientation(picture: Image.Image) -> Any:
    try:
        return picture.getexif().get(ORIENTATION)
    except Exception:  # a broken EXIF block says nothing about the pixels
        return None


def _turned(pixels: Tensor, orientation: Any) -> Tensor:
    swapped, flipped = TURNS.get(orientation, (False, ()))
    pixels = pixels.transpose(1, 2) if swapped else pixels
    return pixels.flip(flipped) if flipped else pixels
