"""PVT's processor, which PVT v2 shares."""

from __future__ import annotations

from PIL.Image import Resampling

from vertebra.image_processing.base import BaseImageProcessor


class PvtImageProcessor(BaseImageProcessor):
    """Stretch to 224 x 224 pixels (bicubic), rescale 0..255 to 0..1, normalise with ImageNet's mean and deviation.

    The filter is the file's. A file that names none gets bicubic, transformers 5's default (4.x: bilinear).
    PVT v2: https://arxiv.org/abs/2106.13797; checkpoints such as OpenGVLab/pvt_v2_b0.
    """

    do_resize = True
    size = {"height": 224, "width": 224}
    resample = Resampling.BICUBIC
    do_rescale = True
    do_normalize = True
    image_mean = (0.485, 0.456, 0.406)
    image_std = (0.229, 0.224, 0.225)
