"""BEiT's processor, which Data2Vec-Vision shares."""

from __future__ import annotations

from typing import ClassVar

import torch
from PIL.Image import Resampling

from vertebra.image_processing.semantic import SemanticImageProcessor


class BeitImageProcessor(SemanticImageProcessor):
    """Stretch to 224 x 224 pixels (bicubic), rescale 0..255 to 0..1, normalise to -1..1; with maps of classes, if there are any.

    `do_center_crop=True` cuts the central `crop_size` (224 x 224) out of images and maps; results of post-processing are for the
    crop then.

    transformers resizes maps as if they were images, with `resample`: between the classes 3 and 9 it makes some of class 6. Here
    the nearest pixel is taken, and pixels that a crop adds have the label 255; `compat=True` gives transformers' labels
    (those of maps within 0..255) and its 0.

    Defaults are those of transformers 5 (the plain class of 4.x: 256 x 256, then a crop to 224; files state theirs).
    BEiT: https://arxiv.org/abs/2106.08254; checkpoints such as microsoft/beit-base-patch16-224,
    microsoft/beit-base-finetuned-ade-640-640.
    """

    size = {"height": 224, "width": 224}
    resample = Resampling.BICUBIC
    do_center_crop = False
    crop_size = {"height": 224, "width": 224}
    image_mean = (0.5, 0.5, 0.5)
    image_std = (0.5, 0.5, 0.5)

    crops: ClassVar[bool] = True

    def _resize_labels(
        self, labels: torch.Tensor, size: tuple[int, int], resample: Resampling, compat: bool
    ) -> torch.Tensor:
        if not compat:
            return super()._resize_labels(labels, size, resample, compat)
        low, high = labels.aminmax()
        grey = labels.to(torch.uint8) if low >= 0 and high <= 255 else labels
        return self.resize(grey[None, None], {"height": size[0], "width": size[1]}, resample)[0, 0].long()
