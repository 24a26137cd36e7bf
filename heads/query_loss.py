"""What the losses of models of queries share: each query is matched to a label or to none, then classes and masks are compared."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from vertebra.heads.losses import check_finite, class_loss, number_of_masks
from vertebra.heads.matcher import Pairs, full_precision

Prediction = tuple[Tensor, Tensor]
"""`(b, q, c + 1)` class logits and `(b, q, h, w)` mask logits."""


class QueryLoss(nn.Module):
    """Cross entropy over classes and the null class, and two losses over masks, of matched queries.

    Args:
        num_labels: How many classes.
        no_object_weight: Weight of the null class.
        class_weight: Of the cross entropy over classes.
        mask_weight: Of the loss of single pixels.
        dice_weight: Of the dice loss.
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

    @torch._disable_dynamo  # type: ignore[attr-defined, untyped-decorator]  # loads the compiler when called; SciPy, and as many masks as there are
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
        matched = zip(predictions, self.matches(predictions, masks, class_labels), strict=True)
        for number, ((class_logits, mask_logits), pairs) in enumerate(matched):
            images = torch.cat([torch.full_like(queries, image) for image, (queries, _) in enumerate(pairs)])
            queries = torch.cat([queries for queries, _ in pairs])
            classes = class_logits.new_full(class_logits.shape[:2], class_logits.shape[-1] - 1, dtype=torch.int64)
            classes[images, queries] = torch.cat(
                [c[labels] for c, (_, labels) in zip(class_labels, pairs, strict=True)]
            )
            targets = torch.cat([each[labels] for each, (_, labels) in zip(masks, pairs, strict=True)])
            mask, dice = self.mask_losses(mask_logits[images, queries], targets, count)
            ending = f"_{number - 1}" if number else ""
            losses[f"loss_mask{ending}"] = self.mask_weight * mask
            losses[f"loss_dice{ending}"] = self.dice_weight * dice
            losses[f"loss_cross_entropy{ending}"] = self.class_weight * class_loss(
                class_logits, classes, self.empty_weight
            )
        return losses

    @abstractmethod
    def matches(
        self, predictions: Sequence[Prediction], mask_labels: Sequence[Tensor], class_labels: Sequence[Tensor]
    ) -> Iterable[list[Pairs]]:
        """For each prediction and image the queries and their labels; arguments as in `forward`."""

    @abstractmethod
    def mask_losses(self, logits: Tensor, targets: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of single pixels and the dice loss, of `(n, h, w)` logits against `(n, height, width)` masks, over `count`."""
