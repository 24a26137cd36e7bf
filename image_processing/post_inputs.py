"""What post-processing starts from: a model's outputs, target sizes and thresholds, checked and image by image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypeAlias, Union

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vertebra.image_processing.sizes import is_whole

Size: TypeAlias = tuple[int, int]
TargetSizes: TypeAlias = Union[Sequence[Any], Tensor, "np.ndarray[Any, Any]"]
_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Prediction:
    """What a model of queries says of one image.

    Args:
        classes: `(q, classes + 1)` probabilities; the last class is "no object".
        masks: `(q, h, w)` logits.
        size: `(height, width)` of the result.
    """

    classes: Tensor
    masks: Tensor
    size: Size


def predictions(
    outputs: Any, target_sizes: TargetSizes | None, *, compat: bool = False, grid: Size | None = None
) -> Iterator[Prediction]:
    """Yield what a model of queries says, image by image.

    Args:
        outputs: Anything with `class_queries_logits` `(b, q, classes + 1)` and `masks_queries_logits` `(b, q, h, w)`.
        target_sizes: `(height, width)` for each image; None keeps the size of the masks.
        compat: Keep half precision; else logits are made float32 first.
        grid: Resize the mask logits to this `(height, width)` first, bilinearly.

    Raises:
        TypeError: `outputs` has no such logits.
        ValueError: shapes that do not fit each other, target sizes that do not fit the batch, or logits that are not numbers;
            names the item.
    """
    classes, masks = _read(outputs, "class_queries_logits", 3), _read(outputs, "masks_queries_logits", 4)
    if classes.shape[:2] != masks.shape[:2] or classes.shape[2] < 2 or 0 in masks.shape[1:]:
        raise ValueError(
            f"class_queries_logits {tuple(classes.shape)} and masks_queries_logits {tuple(masks.shape)} do not fit: they are "
            f"(b, q, classes + 1), the last class being 'no object', and (b, q, height, width)."
        )
    sizes = read_target_sizes(target_sizes, masks, grid)
    return (
        _prediction(index, *pair, sizes[index], compat, grid)
        for index, pair in enumerate(zip(classes, masks, strict=True))
    )


def _prediction(index: int, classes: Tensor, masks: Tensor, size: Size, compat: bool, grid: Size | None) -> Prediction:
    if not compat:
        classes, masks = (logits.float() if logits.dtype in _HALF else logits for logits in (classes, masks))
    classes = classes.softmax(-1)
    for name, values in (("class_queries_logits", classes), ("masks_queries_logits", masks)):
        if bool(values.amin().isnan()):
            raise ValueError(
                f"Image {index} has NaN in {name}; nothing can be said of it. Look at its pixels and at the weights."
            )
    if grid is not None:
        masks = F.interpolate(masks[None], size=grid, mode="bilinear", align_corners=False)[0]
    return Prediction(classes, masks, size)


def read_logits(outputs: Any) -> Tensor:
    """Return `outputs.logits` `(b, classes, h, w)`.

    Raises:
        TypeError: there are none.
        ValueError: another number of axes, or an image whose logits are not all finite.
    """
    logits = _read(outputs, "logits", 4)
    if 0 in logits.shape[1:]:
        raise ValueError(f"logits {tuple(logits.shape)} are empty; they are (b, classes, height, width).")
    for index, image in enumerate(logits):
        low, high = image.aminmax()
        if not bool(low.isfinite() and high.isfinite()):
            raise ValueError(
                f"Image {index} has logits that are not finite ({float(low)} to {float(high)}); between pixels they mean nothing. "
                f"To switch a class off, give it a low number instead, for example logits[:, label] = -1e4."
            )
    return logits


def read_target_sizes(sizes: TargetSizes | None, maps: Tensor, grid: Size | None = None) -> list[Size]:
    """Return `(height, width)` for each image; where no sizes are given, `grid` or that of the `maps` `(b, n, h, w)`.

    Raises:
        ValueError: another number of sizes, or one that is not two positive whole numbers; names it.
    """
    count = len(maps)
    if sizes is None:
        return [grid or (maps.shape[-2], maps.shape[-1])] * count
    if not isinstance(sizes, (Sequence, Tensor, np.ndarray)) or isinstance(sizes, str) or len(sizes) != count:
        given = f"{len(sizes)} sizes" if hasattr(sizes, "__len__") else repr(sizes)
        raise ValueError(f"target_sizes has {given}, but there are {count} images; give one (height, width) for each.")
    return [_read_size(size, f"target_sizes[{index}]") for index, size in enumerate(sizes)]


def _read_size(size: Any, name: str) -> Size:
    pair = size.tolist() if isinstance(size, (Tensor, np.ndarray)) else size
    pair = [side.item() if isinstance(side, Tensor) else side for side in pair] if isinstance(pair, Sequence) else pair
    if not isinstance(pair, Sequence) or len(pair) != 2 or not all(is_whole(side) and side >= 1 for side in pair):
        raise ValueError(f"{name}={size!r} must be (height, width), two positive whole numbers of pixels.")
    return int(pair[0]), int(pair[1])


def check_fraction(name: str, value: Any) -> float:
    """Return a threshold.

    Raises:
        ValueError: it is not a number within 0..1.
    """
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= float(value) <= 1:
        raise ValueError(f"{name}={value!r} must be a number within 0..1.")
    return float(value)


def _read(outputs: Any, name: str, axes: int) -> Tensor:
    value = outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)
    if not isinstance(value, Tensor):
        raise TypeError(
            f"outputs is a {type(outputs).__name__} without {name}; give what the model returned, outputs = model(**batch)."
        )
    if value.ndim != axes:
        raise ValueError(f"{name} has the shape {tuple(value.shape)}; it has {axes} axes, the first of them the batch.")
    return value.detach()
