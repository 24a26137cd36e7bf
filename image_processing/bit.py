"""BiT's processor, which DINOv2, FocalNet, Hiera and Pixio share."""

from __future__ import annotations

from PIL.Image import Resampling

from vertebra.image_processing.base import BaseImageProcessor


class BitImageProcessor(BaseImageProcessor):
    """Convert to RGB, scale the shortest edge to 224 pixels (bicubic), cut out the central 224 x 224, normalise as CLIP.

    `size` may be any that `sizes.output_size` knows; an int is the shortest edge. `do_center_crop=False` keeps all of
    the image. BiT: https://arxiv.org/abs/1912.11370; checkpoints such as google/bit-50, facebook/dinov2-base (there
    with a size of 256 and ImageNet's statistics, which its file states).
    """

    default_to_square = False
    do_convert_rgb = True
    do_resize = True
    size = {"shortest_edge": 224}
    resample = Resampling.BICUBIC
    do_center_crop = True
    crop_size = {"height": 224, "width": 224}
    do_rescale = True
    do_normalize = True
    image_mean = (0.48145466, 0.4578275, 0.40821073)
    image_std = (0.26862954, 0.26130258, 0.27577711)
