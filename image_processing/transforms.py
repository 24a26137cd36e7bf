"""The tensor backend: resize, crop, pad, rescale and normalise batches of `(n, c, h, w)` images.

Every function gives, bit for bit, what the torchvision backend of transformers gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeAlias

import torch
import torch.nn.functional as F
from PIL.Image import Resampling

from vertebra.image_processing.pil_resize import pil_resize
from vertebra.image_processing.rgb import tensor_to_rgb as tensor_to_rgb

Images: TypeAlias = "Sequence[torch.Tensor] | torch.Tensor"  # single (c, h, w) images, or (n, c, h, w)

# "nearest-exact" is the tensor mode whose samples lie where PIL's do; tensors have no box and no hamming filter.
_TENSOR_MODES = {
    Resampling.NEAREST: "nearest-exact",
    Resampling.BILINEAR: "bilinear",
    Resampling.BICUBIC: "bicubic",
    Resampling.LANCZOS: "lanczos",
}


def resize(images: torch.Tensor, size: tuple[int, int], resample: Resampling) -> torch.Tensor:
    """Resize `(n, c, h, w)` images to `(n, c, *size)` with an antialiasing filter; dtype and device are kept.

    8-bit images on the CPU are resized in 8 bits; other integers go through float32 and are rounded. BOX and HAMMING,
    and LANCZOS on a GPU or a torch that lacks it, go through PIL image by image.
    """
    if images.shape[-2:] == size:
        return images
    mode = _TENSOR_MODES.get(resample)
    if mode is None or (mode == "lanczos" and not (images.device.type == "cpu" and _tensors_have_lanczos())):
        return pil_resize(images, size, resample)
    if mode == "nearest-exact":
        native = images.dtype in (torch.uint8, torch.float32, torch.float64)
        source = images if native else images.to(torch.float32)
        return F.interpolate(source, size=size, mode=mode).to(images.dtype)
    native = images.dtype in (torch.float32, torch.float64)
    native = native or (images.dtype == torch.uint8 and images.device.type == "cpu")
    source = images if native else images.to(torch.float32)
    resized = F.interpolate(source, size=size, mode=mode, antialias=True, align_corners=False)
    if native:
        return resized
    if images.dtype == torch.uint8:
        resized = resized.clamp_(0, 255)  # bicubic overshoots
    if not images.dtype.is_floating_point and images.dtype != torch.bool:
        resized = resized.round_()
    return resized.to(images.dtype)


def center_crop(
    images: torch.Tensor, size: tuple[int, int], fill: Sequence[float] = (0,), round_offset: bool = False
) -> torch.Tensor:
    """Cut the central `size` out of `(..., c, h, w)` images; where an image is smaller, pad it evenly.

    Args:
        images: The batch.
        size: `(height, width)` in pixels.
        fill: The padding's value, one for all channels or one each.
        round_offset: Where the margin is odd, put the cut at the rounded half (to even) instead of the truncated half.
    """
    half: Callable[[float], int] = round if round_offset else int
    height, width = images.shape[-2:]
    top, left = (half(max(0, have - want) / 2) for have, want in zip((height, width), size, strict=True))
    images = images[..., top : top + size[0], left : left + size[1]]
    height, width = images.shape[-2:]
    if (height, width) == tuple(size):
        return images
    values = torch.tensor(fill, dtype=images.dtype, device=images.device).view(-1, 1, 1)
    canvas = values.expand(*images.shape[:-2], *size).clone()
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    canvas[..., top : top + height, left : left + width] = images
    return canvas


def rescale(images: torch.Tensor, factor: float) -> torch.Tensor:
    """Multiply by `factor`; integers become float32, floating point dtypes are kept."""
    return images * factor


def normalize(images: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Return `(images - mean) / std` in float32; `mean` and `std` hold one value, or one per channel."""
    mean, std = (values.view(-1, 1, 1) if values.ndim == 1 else values for values in (mean, std))
    if images.dtype == torch.float32:
        return images.sub(mean).div_(std)
    return images.to(torch.float32).sub_(mean).div_(std)


def rescale_and_normalize(
    images: torch.Tensor,
    do_rescale: bool,
    rescale_factor: float | None,
    do_normalize: bool,
    image_mean: float | Sequence[float] | None,
    image_std: float | Sequence[float] | None,
) -> torch.Tensor:
    """Rescale and normalise `(n, c, h, w)` images; both together are `(x - mean / factor) / (std / factor)`."""
    if not do_normalize:
        return rescale(images, rescale_factor) if do_rescale and rescale_factor is not None else images
    mean = torch.tensor(image_mean, dtype=torch.float32, device=images.device)
    std = torch.tensor(image_std, dtype=torch.float32, device=images.device)
    if do_rescale and rescale_factor is not None:
        mean, std = mean * (1.0 / rescale_factor), std * (1.0 / rescale_factor)
    return normalize(images, mean, std)


def pad(images: Images, size: tuple[int, int] | None = None, fill: float = 0) -> list[torch.Tensor]:
    """Pad `(…, h, w)` images with `fill` at the bottom and right to `size`, or to their largest height and width.

    Raises:
        ValueError: an image is larger than `size`.
    """
    height, width = size or (max(image.shape[-2] for image in images), max(image.shape[-1] for image in images))
    for index, image in enumerate(images):
        if image.shape[-2] > height or image.shape[-1] > width:
            raise ValueError(
                f"Image {index} is {image.shape[-2]}x{image.shape[-1]} pixels and does not fit "
                f"pad_size={height}x{width}; give a larger pad_size, or pad_size=None for the largest of the batch."
            )
    margins = [(0, width - image.shape[-1], 0, height - image.shape[-2]) for image in images]
    return [F.pad(image, margin, value=fill) for image, margin in zip(images, margins, strict=True)]


def map_batches(function: Callable[[torch.Tensor], torch.Tensor], images: Images, group: bool) -> Images:
    """Apply `function`, batch to batch, to `(c, h, w)` images, and return the results in the order of `images`.

    With `group`, images of equal shape, dtype and device are stacked and handled as one batch; else each one is alone.
    Where all of them make one batch, its result is returned as it is, unsplit.
    """
    batches: dict[object, list[int]] = {}
    for index, image in enumerate(images):
        batches.setdefault((image.shape, image.dtype, image.device) if group else index, []).append(index)
    results: dict[int, torch.Tensor] = {}
    for indices in batches.values():
        batch = torch.stack([images[i] for i in indices]) if len(indices) > 1 else images[indices[0]][None]
        result = function(batch)
        if len(batches) == 1:
            return result
        results.update(zip(indices, result, strict=True))
    return [results[index] for index in range(len(images))]


@lru_cache(maxsize=1)
def _tensors_have_lanczos() -> bool:
    try:
        F.interpolate(torch.zeros(1, 1, 2, 2), size=(1, 1), mode="lanczos", antialias=True, align_corners=False)
    except (NotImplementedError, ValueError):
        return False
    return True
