"""Mask2Former's loss: queries are matched to labels at random points, and compared with them where masks are uncertain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from vertebra.heads.losses import bce_loss, dice_loss
from vertebra.heads.matcher import Pairs, assign_all, batched_bce_cost, batched_dice_cost, class_cost
from vertebra.heads.points import random_points, sample_points, uncertain_points
from vertebra.heads.query_loss import Prediction, QueryLoss


class Mask2FormerLoss(QueryLoss):
    """Binary cross entropy and dice loss over masks, at points.

    Random numbers are drawn in this order: for each prediction the points of the matching, image by image, then those of the
    losses, first the uniform ones to choose among, then the rest.

    Args:
        *weights: As in `QueryLoss`; all of them weigh in the matching too.
        points: At how many points a mask is compared.
        oversample_ratio: As in `uncertain_points`.
        importance_ratio: As in `uncertain_points`.
    """

    def __init__(self, *weights: Any, points: int, oversample_ratio: float, importance_ratio: float) -> None:
        super().__init__(*weights)
        self.points, self.oversample_ratio, self.importance_ratio = points, oversample_ratio, importance_ratio

    def matches(
        self, predictions: Sequence[Prediction], mask_labels: Sequence[Tensor], class_labels: Sequence[Tensor]
    ) -> Iterator[list[Pairs]]:
        """Match one prediction after the other, when it is asked for."""
        for prediction in predictions:
            yield self.match(*prediction, mask_labels, class_labels)

    @torch.no_grad()
    def match(
        self,
        class_logits: Tensor,
        mask_logits: Tensor,
        mask_labels: Sequence[Tensor],
        class_labels: Sequence[Tensor],
    ) -> list[Pairs]:
        """Match queries to labels at points drawn for each image; arguments as in `forward`.

        Returns:
            Per image, the queries and their labels.
        """
        return assign_all(
            [self._cost(*image) for image in zip(class_logits, mask_logits, mask_labels, class_labels, strict=True)]
        )

    def _cost(self, class_logits: Tensor, mask_logits: Tensor, masks: Tensor, classes: Tensor) -> Tensor:
        points = random_points(1, self.points, mask_logits)
        logits, targets = sample_points(mask_logits[None], points)[0], sample_points(masks[None], points)[0]
        return (
            self.mask_weight * batched_bce_cost(logits, targets)
            + self.class_weight * class_cost(class_logits, classes)
            + self.dice_weight * batched_dice_cost(logits, targets)
        )

    def mask_losses(self, logits: Tensor, targets: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """Binary cross entropy and dice loss at points."""
        points = uncertain_points(logits, self.points, self.oversample_ratio, self.importance_ratio)
        pixels = sample_points(logits[:, None], points)[:, 0]
        inside = sample_points(targets[:, None], points)[:, 0]
        return bce_loss(pixels, inside, count), dice_loss(pixels, inside, count)
