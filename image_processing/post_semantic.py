"""Semantic segmentation: a class for each pixel."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vertebra.batch_feature import BatchFeature
from vertebra.image_processing.post_inputs import Prediction, Size, TargetSizes, predictions
from vertebra.image_processing.strongest import strongest
from vertebra.image_processing.upsampling import upsample


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
    return [_semantic_map(one.masks, one.size, return_scores, partial(_scores, one.classes[:, :-1])) for one in found]


def semantic_maps(
    logits: Iterable[Tensor], sizes: Iterable[Size], return_scores: bool = False
) -> list[Tensor] | list[SemanticMaps]:
    """Upsample the scores `(classes, h, w)` of each image to its size, bilinearly, and take the best class of each pixel.

    Returns:
        An int64 map `(height, width)` for each image, or a `SemanticMaps` with `return_scores`. Of equal scores the first wins.
    """
    return [_semantic_map(scores, size, return_scores) for scores, size in zip(logits, sizes, strict=True)]


def class_scores(prediction: Prediction) -> Tensor:
    """Return `(classes, h, w)`: for each class the sum over queries of its probability times the mask's."""
    return _scores(prediction.classes[:, :-1], prediction.masks)


def _scores(classes: Tensor, masks: Tensor) -> Tensor:
    return torch.einsum("bqc,bqhw->bchw", classes[None], masks.sigmoid()[None])[0]


def _semantic_map(
    maps: Tensor, size: Size, return_scores: bool, values: Callable[[Tensor], Tensor] | None = None
) -> Any:
    """The result for an image, from scores `(classes, h, w)`, which `values` makes of `maps`."""
    if return_scores:
        scores = upsample(values(maps) if values else maps, size)
        return SemanticMaps(
            {"segmentation": strongest(scores, size, kind=torch.int64)[0], "segmentation_scores": scores}
        )
    return strongest(maps, size, values=values, kind=torch.int64)[0]
