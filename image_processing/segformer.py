"""SegFormer's processor, which UPerNet and the other models with one class a pixel share."""

from __future__ import annotations

from vertebra.image_processing.semantic import SemanticImageProcessor


class SegformerImageProcessor(SemanticImageProcessor):
    """Stretch to 512 x 512 pixels (bilinear), rescale 0..255 to 0..1, normalise with ImageNet's mean and deviation.

    Maps and post-processing as `SemanticImageProcessor` has them. SegFormer: https://arxiv.org/abs/2105.15203; checkpoints such
    as nvidia/segformer-b0-finetuned-ade-512-512, openmmlab/upernet-swin-tiny.
    """

    size = {"height": 512, "width": 512}
