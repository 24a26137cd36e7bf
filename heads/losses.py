"""Losses of matched masks and classes, and the checks of what they compare with.

Logits are compared in float32 at least, also under autocast. `p` is a number of pixels or points.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vertebra.heads.matcher import full_precision

MASK_DTYPES = (torch.bool, torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)
LABEL_DTYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def dice_loss(logits: Tensor, targets: Tensor, num_masks: Tensor | float) -> Tensor:
    """One minus the smoothed dice coefficient, summed over masks, over their number.

    Args:
        logits: `(n, p)` scores before sigmoid.
        targets: `(n, p)`, from 0 to 1.
        num_masks: What `number_of_masks` says.

    Returns:
        A scalar; 0, with a gradient of 0, where n is 0.
    """
    probabilities = full_precision(logits).sigmoid()
    targets = targets.to(probabilities.dtype)
    overlap = (probabilities * targets).sum(-1)
    loss = 1 - (2 * overlap + 1) / (probabilities.sum(-1) + targets.sum(-1) + 1)
    return loss.sum() / num_masks


def bce_loss(logits: Tensor, targets: Tensor, num_masks: Tensor | float) -> Tensor:
    """Binary cross entropy, averaged over pixels, summed over masks, over their number; arguments as in `dice_loss`."""
    logits = full_precision(logits)
    loss = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none")
    return loss.mean(-1).sum() / num_masks


def sigmoid_focal_loss(
    logits: Tensor, targets: Tensor, num_masks: Tensor | float, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Focal loss (Lin et al. 2017), averaged over pixels, summed over masks, over their number.

    Args:
        logits: `(n, p)` scores before sigmoid.
        targets: `(n, p)`, from 0 to 1.
        num_masks: What `number_of_masks` says.
        alpha: Weight of pixels inside; those outside weigh `1 - alpha`.
        gamma: Exponent with which pixels that are right already weigh less.

    Returns:
        A scalar; 0, with a gradient of 0, where n is 0.
    """
    from torchvision.ops import sigmoid_focal_loss as focal_loss  # an import that only training needs

    logits = full_precision(logits)
    loss: Tensor = focal_loss(logits, targets.to(logits.dtype), alpha, gamma)
    return loss.mean(-1).sum() / num_masks


def class_loss(logits: Tensor, classes: Tensor, weight: Tensor) -> Tensor:
    """Cross entropy, averaged over queries by the weights of their classes.

    Args:
        logits: `(b, q, c + 1)` scores before softmax, the null class last.
        classes: `(b, q)` int64, c where a query is matched to nothing.
        weight: `(c + 1,)` weight of each class.

    Returns:
        A scalar; 0 where all weights met are 0.
    """
    logits = full_precision(logits).flatten(0, 1)
    classes, weight = classes.flatten(), weight.to(logits.dtype)
    total = weight[classes].sum().clamp(min=torch.finfo(logits.dtype).tiny)
    return F.cross_entropy(logits, classes, weight, reduction="sum") / total


def number_of_masks(labels: Sequence[Tensor], device: torch.device) -> Tensor:
    """How many masks there are in the batch, averaged over the processes of torch.distributed where it runs; at least 1.

    Args:
        labels: Classes or masks of each image; the length of each counts.
        device: Where the scalar is to be; a device of the process group's backend.
    """
    count = torch.tensor(float(sum(len(each) for each in labels)), device=device)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(count)
        count = count / torch.distributed.get_world_size()
    return count.clamp(min=1)


def check_finite(class_logits: Tensor, mask_logits: Tensor) -> None:
    """Refuse to match what is not finite.

    Args:
        class_logits: `(b, q, c + 1)`.
        mask_logits: `(b, q, h, w)`.

    Raises:
        ValueError: NaN or infinity; says of which images.
    """
    named = {"class_queries_logits": class_logits, "masks_queries_logits": mask_logits}
    # a sum is finite unless a term is not, or the terms are beyond all use
    sums = torch.stack([full_precision(logits.detach()).abs().flatten(1).mean(1) for logits in named.values()])
    finite = sums.isfinite().tolist()
    for name, row in zip(named, finite, strict=True):
        if not all(row):
            images = [index for index, good in enumerate(row) if not good]
            raise ValueError(
                f"{name} of image {', '.join(map(str, images))} of the batch hold NaN or infinity, so nothing can be matched "
                f"to labels. Either pixel_values are not finite, or training diverged: lower the learning rate, clip "
                f"gradients (torch.nn.utils.clip_grad_norm_), or use bfloat16 in the place of float16."
            )


@torch._disable_dynamo  # type: ignore[attr-defined, untyped-decorator]  # loads the compiler when called; it looks at values
def check_targets(
    mask_labels: Sequence[Tensor] | Tensor | None,
    class_labels: Sequence[Tensor] | Tensor | None,
    images: Tensor,
    num_labels: int,
) -> tuple[list[Tensor], list[Tensor]]:
    """Check the labels of a batch.

    Args:
        mask_labels: Per image `(n, height, width)` masks from 0 to 1; float, bool or uint8.
        class_labels: Per image `(n,)` classes from 0 to `num_labels - 1`; integers. n may be 0.
        images: `(b, c, height, width)` pixel values.
        num_labels: How many classes there are.

    Returns:
        Masks and int64 classes as lists, on the device of the images.

    Raises:
        ValueError: says which image, what was given and what is allowed.
    """
    if mask_labels is None or class_labels is None:
        missing = "mask_labels" if mask_labels is None else "class_labels"
        raise ValueError(
            f"{missing} is missing: a loss needs both mask_labels and class_labels, one entry per image each."
        )
    for name, labels in (("mask_labels", mask_labels), ("class_labels", class_labels)):
        if not isinstance(labels, (list, tuple, Tensor)):
            raise ValueError(f"{name} is a {type(labels).__name__}; it must be a list with one tensor per image.")
        if len(labels) != len(images):
            raise ValueError(
                f"{name} has {len(labels)} entries for {len(images)} images; it must have one per image, of shape (0, …) where an "
                f"image has no labels."
            )
    for index, (masks, classes) in enumerate(zip(mask_labels, class_labels, strict=True)):
        _check_shapes(index, masks, classes, images)
    masks_there = [masks.to(images.device) for masks in mask_labels]
    classes_there = [classes.to(images.device, torch.int64) for classes in class_labels]
    _check_values("mask_labels", masks_there, 1, "masks hold values from 0 to 1, one mask per label, not a map of ids")
    _check_values(
        "class_labels",
        classes_there,
        num_labels - 1,
        f"there are {num_labels} classes, 0 to {num_labels - 1} (num_labels in the configuration); the image processor's "
        f"ignore_index leaves out pixels to ignore",
    )
    return masks_there, classes_there


def _check_shapes(index: int, masks: Tensor, classes: Tensor, images: Tensor) -> None:
    for name, tensor, dtypes in (
        ("mask_labels", masks, MASK_DTYPES),
        ("class_labels", classes, LABEL_DTYPES),
    ):
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name}[{index}] is a {type(tensor).__name__}; it must be a tensor.")
        if tensor.dtype not in dtypes:
            allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
            raise ValueError(f"{name}[{index}] is {tensor.dtype}; it must be one of {allowed}.")
    height, width = images.shape[-2:]
    if masks.ndim != 3 or tuple(masks.shape[1:]) != (height, width):
        raise ValueError(
            f"mask_labels[{index}] has shape {tuple(masks.shape)}; it must be (labels, {height}, {width}), the size of "
            f"pixel_values. The image processor makes both: processor(images, segmentation_maps=…)."
        )
    if classes.ndim != 1 or len(classes) != len(masks):
        raise ValueError(
            f"class_labels[{index}] has shape {tuple(classes.shape)} and mask_labels[{index}] has {len(masks)} masks; it "
            f"must be ({len(masks)},), one class per mask."
        )


def _check_values(name: str, tensors: Sequence[Tensor], largest: int, meaning: str) -> None:
    filled = {index: tensor for index, tensor in enumerate(tensors) if tensor.numel() and tensor.dtype != torch.bool}
    if not filled:
        return
    bounds = torch.stack([torch.stack(tensor.aminmax()).float() for tensor in filled.values()]).tolist()  # one transfer
    for index, (low, high) in zip(filled, bounds, strict=True):
        if not 0 <= low <= high <= largest:
            value = low if not low >= 0 else high
            raise ValueError(f"{name}[{index}] holds {value:g}; {meaning}.")
