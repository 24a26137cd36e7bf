"""MaskFormer's loss: queries are matched to labels, then classes and masks of the pairs are compared."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vertebra.heads.losses import check_finite, class_loss, dice_loss, number_of_masks, sigmoid_focal_loss
from vertebra.heads.matcher import (
    Pairs,
    assign_all,
    batched_dice_cost,
    batched_focal_cost,
    class_cost,
    full_precision,
)

Prediction = tuple[Tensor, Tensor]
"""`(b, q, c + 1)` class logits and `(b, q, h, w)` mask logits."""


class MaskFormerLoss(nn.Module):
    """Cross entropy over classes and the null class, focal loss and dice loss over masks.

    Args:
        num_labels: How many classes.
        no_object_weight: Weight of the null class.
        class_weight: Of the cross entropy; in the matching it is 1.
        mask_weight: Of the focal loss, in the matching too.
        dice_weight: Of the dice loss, in the matching too.
    """

    empty_weight: Tensor

    def __init__(
        self, num_labels: int, no_object_weight: float, class_weight: float, mask_weight: float, dice_weight: float
    ) -> None:
        super().__init__()
        self.no_object_weight = no_object_weight
        self.class_weight, self.mask_weight, self.dice_weight = class_weight, mask_weight, dice_weight
        self.register_buffer("empty_weight", torch.ones(num_labels + 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """All classes weigh 1, the null class what the configuration says."""
        self.empty_weight.fill_(1.0)
        self.empty_weight[-1:].fill_(self.no_object_weight)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # SciPy, and as many masks as there are
    def forward(
        self, predictions: Sequence[Prediction], mask_labels: Sequence[Tensor], class_labels: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Compute the losses, weighted.

        Args:
            predictions: The last prediction, then the auxiliary ones.
            mask_labels: Per image `(n, height, width)`, as `check_targets` returns them.
            class_labels: Per image `(n,)`, int64.

        Returns:
            `loss_mask`, `loss_dice` and `loss_cross_entropy`, of auxiliary predictions with `_0`, `_1`, … behind; their
            sum is the loss.

        Raises:
            ValueError: logits are not finite; says of which images.
        """
        for prediction in predictions:
            check_finite(*prediction)
        count = number_of_masks(class_labels, predictions[0][0].device)
        losses: dict[str, Tensor] = {}
        for number, pairs in enumerate(self.match(predictions, mask_labels, class_labels)):
            ending = f"_{number - 1}" if number else ""
            compared = self._compare(predictions[number], pairs, mask_labels, class_labels, count)
            losses |= {name + ending: loss for name, loss in compared.items()}
        return losses

    @torch.no_grad()
    def match(
        self, predictions: Sequence[Prediction], mask_labels: Sequence[Tensor], class_labels: Sequence[Tensor]
    ) -> list[list[Pairs]]:
        """Match each prediction's queries to the labels, image by image, on masks shrunk to the prediction's size.

        Returns:
            Per prediction and image, the queries and their labels.
        """
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

    def _compare(
        self,
        prediction: Prediction,
        pairs: Sequence[Pairs],
        mask_labels: Sequence[Tensor],
        class_labels: Sequence[Tensor],
        count: Tensor,
    ) -> dict[str, Tensor]:
        class_logits, mask_logits = prediction
        images = torch.cat([torch.full_like(queries, image) for image, (queries, _) in enumerate(pairs)])
        queries = torch.cat([queries for queries, _ in pairs])
        classes = class_logits.new_full(class_logits.shape[:2], class_logits.shape[-1] - 1, dtype=torch.int64)
        classes[images, queries] = torch.cat([c[labels] for c, (_, labels) in zip(class_labels, pairs, strict=True)])
        targets = torch.cat([masks[labels] for masks, (_, labels) in zip(mask_labels, pairs, strict=True)]).flatten(1)
        matched = full_precision(mask_logits[images, queries])[:, None]
        pixels = F.interpolate(matched, size=mask_labels[0].shape[-2:], mode="bilinear").flatten(1)
        return {
            "loss_mask": self.mask_weight * sigmoid_focal_loss(pixels, targets, count),
            "loss_dice": self.dice_weight * dice_loss(pixels, targets, count),
            "loss_cross_entropy": self.class_weight * class_loss(class_logits, classes, self.empty_weight),
        }
