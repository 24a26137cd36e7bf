"""ViT's processor, which Swin, DiNAT and I-JEPA share."""

from __future__ import annotations

from PIL.Image import Resampling

from vertebra.image_processing.base import BaseImageProcessor


class ViTImageProcessor(BaseImageProcessor):
    """Stretch to 224 x 224 pixels (bilinear), rescale 0..255 to 0..1, normalise to -1..1.

    `size` may also be `{shortest_edge}`, `{shortest_edge, longest_edge}` or `{max_height, max_width}`, which keep the
    aspect ratio. ViT: https://arxiv.org/abs/2010.11929; checkpoints such as google/vit-base-patch16-224.
    """

    do_resize = True
    size = {"height": 224, "width": 224}
    resample = Resampling.BILINEAR
    do_rescale = True
    do_normalize = True
    image_mean = (0.5, 0.5, 0.5)
    image_std = (0.5, 0.5, 0.5)
