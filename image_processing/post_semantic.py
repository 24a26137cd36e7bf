"""Semantic segmentation: a class for each pixel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from vertebra.batch_feature import BatchFeature
from vertebra.image_processing.post_inputs import Prediction, Size, TargetSizes, predictions
from vertebra.image_processing.upsampling import strongest, upsample


class SemanticMaps(BatchFeature):
    """The classes of an image and the scores they come from; entries are also attributes.

    Args:
        segmentation: int64 `(height, width)`.
        segmentation_scores: `(classes, height, width)`.
    """

    segmentation: Tensor
    segmentation_scores: Tensor


def semantic_segmentation(
    outputs: Any,
    target_sizes: TargetSizes | None = None,
    return_scores: bool = False,
    compat: bool = False,
    grid: Size | None = None,
) -> list[Tensor] | list[SemanticMaps]:
    """Give each pixel the class that most of the queries that see it speak for; see `MaskFormerImageProcessor`."""
    found = predictions(outputs, target_sizes, compat=compat, grid=grid)
    return semantic_maps(((class_scores(one), one.size) for one in found), return_scores)


def class_scores(prediction: Prediction) -> Tensor:
    """Return `(classes, h, w)`: for each class the sum over queries of its probability times the mask's."""
    classes, masks = prediction.classes[None, :, :-1], prediction.masks.sigmoid()[None]
    return torch.einsum("bqc,bqhw->bchw", classes, masks)[0]


def semantic_maps(
    scores_and_sizes: Iterable[tuple[Tensor, Size]], return_scores: bool = False
) -> list[Tensor] | list[SemanticMaps]:
    """Upsample the scores `(classes, h, w)` of each image to its size, bilinearly, and take the best class of each pixel.

    Returns:
        An int64 map `(height, width)` for each image, or a `SemanticMaps` with `return_scores`. Of equal scores the first wins.
    """
    if return_scores:
        return [_with_scores(upsample(scores, size), size) for scores, size in scores_and_sizes]
    return [strongest(scores, size)[0].long() for scores, size in scores_and_sizes]


def _with_scores(scores: Tensor, size: Size) -> SemanticMaps:
    winner, _ = strongest(scores, size)
    return SemanticMaps({"segmentation": winner.long(), "segmentation_scores": scores})
