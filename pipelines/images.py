"""What the pipelines of images share: how an image becomes a row of a batch."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from vertebra.pipelines.addresses import fetched, is_address
from vertebra.pipelines.base import Pipeline


class ImagePipeline(Pipeline):
    """Base of pipelines whose items are images: a path, a PIL image, an array or tensor of one image, the bytes of a file."""

    needs: ClassVar[tuple[str, ...]] = ("image_processor",)
    an_item = "an image (a path, a PIL image, an array)"
    workers = 1

    def is_item(self, inputs: Any) -> bool:
        """One image: also an array or a tensor of up to three axes."""
        if isinstance(inputs, (np.ndarray, torch.Tensor)):
            return inputs.ndim < 4
        return isinstance(inputs, Image.Image) or super().is_item(inputs)

    def opened(self, image: Any, allow_urls: bool, timeout: float | None) -> Any:
        """An image as image processors take it; what stands at an address is fetched."""
        if is_address(image):
            image = fetched(image, allow_urls, timeout)
        if isinstance(image, (str, Path)) and Path(image).is_dir():
            raise IsADirectoryError(
                f"{str(image)!r} is a folder; give the images in it: sorted(Path({str(image)!r}).iterdir())."
            )
        if isinstance(image, bytes):
            return Image.open(io.BytesIO(image))
        if not isinstance(image, (str, Path, Image.Image, np.ndarray, torch.Tensor)):
            keys = f" with the keys {list(image)}; give what is under one of them" if isinstance(image, Mapping) else ""
            raise TypeError(
                f"an image is a path, a PIL image, an array, a tensor or the bytes of a file, not a {type(image).__name__}{keys}."
            )
        return image

    def pixels(self, image: Any, **settings: Any) -> dict[str, torch.Tensor]:
        """Prepare one image: the tensors of the image processor, without the axis of the batch."""
        prepared = self.image_processor(image, return_tensors="pt", **settings)
        return {name: value[0] for name, value in prepared.items()}
