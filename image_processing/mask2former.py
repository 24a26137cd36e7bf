"""Mask2Former's processor: MaskFormer's, but for a grid that transformers puts between the masks and their target size."""

from __future__ import annotations

from typing import ClassVar

from vertebra.image_processing.maskformer import MaskFormerImageProcessor
from vertebra.image_processing.post_inputs import Size


class Mask2FormerImageProcessor(MaskFormerImageProcessor):
    """As `MaskFormerImageProcessor`.

    transformers resizes all masks to 384 x 384 before anything else, whatever the image's size and shape (issue 44901 there):
    larger ones lose detail, and without `target_sizes` results are squares. Here masks keep their size, unless `compat=True`.
    Mask2Former: https://arxiv.org/abs/2112.01527; checkpoints such as facebook/mask2former-swin-small-coco-instance.
    """

    compat_grid: ClassVar[Size | None] = (384, 384)
