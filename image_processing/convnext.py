"""ConvNeXt's processor, which ResNet, ConvNeXt V2 and CvT share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from PIL.Image import Resampling

from vertebra.image_processing.base import BaseImageProcessor
from vertebra.image_processing.sizes import output_size

STRETCH_FROM = 384
"""From this size on an image is stretched whole; below, its edges are cut off."""


class ConvNextImageProcessor(BaseImageProcessor):
    """Resize to a square (384 pixels, bicubic), rescale 0..255 to 0..1, normalise to -1..1.

    `size` is `{shortest_edge}`, an int is the same. Below 384 the shortest edge is scaled to `shortest_edge / crop_pct`
    and the central square is cut out; from 384 on the image is stretched to the square and nothing is cut.

    The filter is the file's. A file that names none gets bicubic, transformers 5's default (4.x: bilinear).
    ConvNeXt: https://arxiv.org/abs/2201.03545; checkpoints such as facebook/convnext-tiny-224, microsoft/resnet-50.
    """

    default_to_square = False
    do_resize = True
    size = {"shortest_edge": 384}
    crop_pct: float = 224 / 256
    resample = Resampling.BICUBIC
    do_rescale = True
    do_normalize = True
    image_mean = (0.5, 0.5, 0.5)
    image_std = (0.5, 0.5, 0.5)

    def resize_and_crop(
        self,
        images: torch.Tensor,
        *,
        do_resize: bool | None,
        size: Mapping[str, int],
        resample: Resampling,
        do_center_crop: bool | None = None,
        crop_size: Mapping[str, int] | None = None,
        crop_pct: float | None = None,
        **other: Any,
    ) -> torch.Tensor:
        """Bring `(n, c, h, w)` images to the square that `size` and `crop_pct` ask for, then centre crop if asked to."""
        images = self.resize(images, size, resample, crop_pct) if do_resize else images
        return self.center_crop(images, crop_size) if do_center_crop and crop_size is not None else images

    def resize(
        self, image: torch.Tensor, size: Mapping[str, int], resample: Resampling, crop_pct: float | None = None
    ) -> torch.Tensor:
        """Resize `(n, c, h, w)` images to a square, as the class says; `crop_pct` None is the processor's own.

        Raises:
            ValueError: `size` is not `{shortest_edge}`.
        """
        if set(size) != {"shortest_edge"}:
            raise ValueError(
                f"size={dict(size)!r} is not something {type(self).__name__} resizes to; give an int or "
                f"{{'shortest_edge': …}}, the side of the square that comes out."
            )
        edge = size["shortest_edge"]
        square = {"height": edge, "width": edge}
        if edge >= STRETCH_FROM:
            return super().resize(image, square, resample)
        scaled = {"shortest_edge": int(edge / (crop_pct or self.crop_pct))}
        height, width = output_size(image.shape[-2], image.shape[-1], scaled)
        return self.center_crop(super().resize(image, {"height": height, "width": width}, resample), square)
