"""Mask2Former's loss: queries are matched to labels at random points, and compared with them where masks are uncertain."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vertebra.heads.losses import bce_loss, check_finite, class_loss, dice_loss, number_of_masks
from vertebra.heads.matcher import Pairs, assign_all, batched_bce_cost, batched_dice_cost, class_cost, full_precision
from vertebra.heads.points import random_points, sample_points, uncertain_points

Prediction = tuple[Tensor, Tensor]
"""`(b, q, c + 1)` class logits and `(b, q, h, w)` mask logits."""


class Mask2FormerLoss(nn.Module):
    """Cross entropy over classes and the null class, binary cross entropy and dice loss over masks, at points.

    Random numbers are drawn in this order: for each prediction the points of the matching, image by image, then those of the
    losses, first the uniform ones to choose among, then the rest.

    Args:
        num_labels: How many classes.
        no_object_weight: Weight of the null class.
        class_weight: Of the cross entropy over classes, in the matching too.
        mask_weight: Of the cross entropy over masks, in the matching too.
        dice_weight: Of the dice loss, in the matching too.
        points: At how many points a mask is compared.
        oversample_ratio: As in `uncertain_points`.
        importance_ratio: As in `uncertain_points`.
    """

    empty_weight: Tensor

    def __init__(
        self,
        num_labels: int,
        no_object_weight: float,
        class_weight: float,
        mask_weight: float,
        dice_weight: float,
        points: int,
        oversample_ratio: float,
        importance_ratio: float,
    ) -> None:
        super().__init__()
        self.no_object_weight = no_object_weight
        self.class_weight, self.mask_weight, self.dice_weight = class_weight, mask_weight, dice_weight
        self.points, self.oversample_ratio, self.importance_ratio = points, oversample_ratio, importance_ratio
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
        masks = [full_precision(each) for each in mask_labels]
        losses: dict[str, Tensor] = {}
        for number, prediction in enumerate(predictions):
            pairs = self.match(*prediction, masks, class_labels)
            compared = self._compare(*prediction, pairs, masks, class_labels, count)
            ending = f"_{number - 1}" if number else ""
            losses |= {name + ending: loss for name, loss in compared.items()}
        return losses

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

    def _compare(
        self,
        class_logits: Tensor,
        mask_logits: Tensor,
        pairs: Sequence[Pairs],
        mask_labels: Sequence[Tensor],
        class_labels: Sequence[Tensor],
        count: Tensor,
    ) -> dict[str, Tensor]:
        images = torch.cat([torch.full_like(queries, image) for image, (queries, _) in enumerate(pairs)])
        queries = torch.cat([queries for queries, _ in pairs])
        classes = class_logits.new_full(class_logits.shape[:2], class_logits.shape[-1] - 1, dtype=torch.int64)
        classes[images, queries] = torch.cat([c[labels] for c, (_, labels) in zip(class_labels, pairs, strict=True)])
        matched = mask_logits[images, queries]
        targets = torch.cat([masks[labels] for masks, (_, labels) in zip(mask_labels, pairs, strict=True)])
        points = uncertain_points(matched, self.points, self.oversample_ratio, self.importance_ratio)
        logits = sample_points(matched[:, None], points)[:, 0]
        inside = sample_points(targets[:, None], points)[:, 0]
        return {
            "loss_mask": self.mask_weight * bce_loss(logits, inside, count),
            "loss_dice": self.dice_weight * dice_loss(logits, inside, count),
            "loss_cross_entropy": self.class_weight * class_loss(class_logits, classes, self.empty_weight),
        }
