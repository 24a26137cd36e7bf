"""MaskFormer's loss: queries are matched to labels on whole masks, and compared with them on whole masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vertebra.heads.losses import dice_loss, sigmoid_focal_loss
from vertebra.heads.matcher import (
    Pairs,
    assign_all,
    batched_dice_cost,
    batched_focal_cost,
    class_cost,
    full_precision,
)
from vertebra.heads.query_loss import Prediction, QueryLoss


class MaskFormerLoss(QueryLoss):
    """Focal loss and dice loss over masks; all predictions are matched at once. In the matching `class_weight` is 1."""

    @torch.no_grad()
    def matches(
        self, predictions: Sequence[Prediction], mask_labels: Sequence[Tensor], class_labels: Sequence[Tensor]
    ) -> list[list[Pairs]]:
        """Match each prediction's queries to the labels, image by image, on masks shrunk to the prediction's size."""
        size = predictions[0][1].shape[-2:]
        shrunk = [F.interpolate(full_precision(masks)[:, None], size=size)[:, 0].flatten(1) for masks in mask_labels]
        pairs = assign_all(
            [
                self._cost(class_logits[image], mask_logits[image].flatten(1), shrunk[image], class_labels[image])
                for class_logits, mask_logits in predictions
                for image in range(len(shrunk))
            ]
        )
        images = len(shrunk)
        return [pairs[start : start + images] for start in range(0, len(pairs), images)]

    def _cost(self, class_logits: Tensor, pixels: Tensor, masks: Tensor, classes: Tensor) -> Tensor:
        return (
            self.mask_weight * batched_focal_cost(pixels, masks)
            + class_cost(class_logits, classes)
            + self.dice_weight * batched_dice_cost(pixels, masks)
        )

    def mask_losses(self, logits: Tensor, targets: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """Focal and dice loss at the size of the labels."""
        enlarged = F.interpolate(full_precision(logits)[:, None], size=targets.shape[-2:], mode="bilinear")
        pixels, inside = enlarged.flatten(1), targets.flatten(1)
        return sigmoid_focal_loss(pixels, inside, count), dice_loss(pixels, inside, count)
