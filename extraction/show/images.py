"""Small pictures of images as a backbone got them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vertebra.auto.preparers import preparer_class
from vertebra.extraction.images import MEMORY, ImageRef, read_uri
from vertebra.extraction.pictures import to_image
from vertebra.extraction.runtime import reason
from vertebra.extraction.shard_file import Size
from vertebra.image_processing.base import BaseImageProcessor
from vertebra.image_processing.decode import decode_image
from vertebra.image_processing.processor_files import processor_type

SIDE, LEAST_SIDE, QUALITY = 384, 96, 82
FULL = 48
"""Pictures that are shown as large as that; of more, each is smaller."""


class Viewer:
    """Shows images as the backbone got them: upright or not, resized, cropped and padded, but not normalised.

    Args:
        meaning: The facts of a store.
        count: How many pictures there will be.
    """

    def __init__(self, meaning: Mapping[str, Any], count: int) -> None:
        self.side = max(LEAST_SIDE, int(SIDE * min(1.0, (FULL / max(count, 1)) ** 0.5)))
        self.settings: Mapping[str, Any] = meaning["preprocessing"]
        self.upright = bool(meaning["upright"])

    def picture(self, id_: str, uri: str, original: Size, size: Size) -> tuple[str | None, str]:
        """A JPEG as a `data:` address, or None and why there is none.

        Args:
            id_: What the image is called, for the reason.
            uri: Where it lies.
            original: `(height, width)` that it had.
            size: `(height, width)` in pixels at which it was processed.
        """
        if uri == MEMORY:
            return None, "It was given in memory, so there is no file to show."
        try:
            pixels = decode_image(read_uri(uri), upright=self.upright)
            if tuple(pixels.shape[1:]) != tuple(original):
                raise ValueError(f"It was changed: it had {_text(original)} pixels, and has {_text(pixels.shape[1:])}.")
            seen = self._seen(pixels)
            if tuple(seen.shape[1:]) != tuple(size):
                raise ValueError(f"It was processed at {_text(size)} pixels, and comes out at {_text(seen.shape[1:])}.")
        except (OSError, ValueError, TypeError, ImportError, MemoryError) as error:  # the page says why
            return None, reason(error, ImageRef(id_, uri))
        return _data_uri(seen, self.side), ""

    @cached_property
    def _processor(self) -> BaseImageProcessor:
        found: type[BaseImageProcessor] = preparer_class("image_processor", processor_type(self.settings)[0])
        return found.from_dict(self.settings)

    def _seen(self, pixels: Tensor) -> Tensor:
        """What the backbone gets of `(3, h, w)` values 0..255, before it is normalised: `(3, h, w)` values 0..1."""
        steps = {"do_normalize": False, "do_rescale": True, "rescale_factor": 1 / 255}
        batch = self._processor(pixels, input_data_format="channels_first", return_tensors="pt", **steps)
        seen: Tensor = batch["pixel_values"][0]
        return (seen[:3] if len(seen) >= 3 else seen[:1]).clamp(0, 1)


def _data_uri(colours: Tensor, side: int) -> str:
    picture = to_image(colours)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def _text(size: Size | torch.Size) -> str:
    return f"{size[0]} x {size[1]}"
