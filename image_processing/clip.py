"""CLIP's processor, which is that of BiT under another name."""

from __future__ import annotations

from vertebra.image_processing.bit import BitImageProcessor


class CLIPImageProcessor(BitImageProcessor):
    """Convert to RGB, scale the shortest edge to 224 pixels (bicubic), cut out the central 224 x 224, normalise.

    CLIP: https://arxiv.org/abs/2103.00020; checkpoints such as openai/clip-vit-base-patch32.
    """
