"""SigLIP's processor."""

from __future__ import annotations

from PIL.Image import Resampling

from vertebra.image_processing.base import BaseImageProcessor


class SiglipImageProcessor(BaseImageProcessor):
    """Convert to RGB, stretch to 224 x 224 pixels (bicubic), rescale 0..255 to 0..1, normalise to -1..1.

    An int as `size` is the shortest edge, as in transformers 5; give `[384, 384]` to stretch.
    SigLIP: https://arxiv.org/abs/2303.15343; checkpoints such as google/siglip-base-patch16-224.
    """

    default_to_square = False
    do_convert_rgb = True
    do_resize = True
    size = {"height": 224, "width": 224}
    resample = Resampling.BICUBIC
    do_rescale = True
    do_normalize = True
    image_mean = (0.5, 0.5, 0.5)
    image_std = (0.5, 0.5, 0.5)
