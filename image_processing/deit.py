"""DeiT's processor."""

from __future__ import annotations

from PIL.Image import Resampling

from vertebra.image_processing.base import BaseImageProcessor


class DeiTImageProcessor(BaseImageProcessor):
    """Stretch to 256 x 256 pixels (bicubic), cut out the central 224 x 224, rescale 0..255 to 0..1, normalise to -1..1.

    DeiT: https://arxiv.org/abs/2012.12877; checkpoints such as facebook/deit-base-distilled-patch16-224.
    """

    do_resize = True
    size = {"height": 256, "width": 256}
    resample = Resampling.BICUBIC
    do_center_crop = True
    crop_size = {"height": 224, "width": 224}
    do_rescale = True
    do_normalize = True
    image_mean = (0.5, 0.5, 0.5)
    image_std = (0.5, 0.5, 0.5)
