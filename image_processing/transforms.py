"""The tensor backend: resize, crop, pad, rescale and normalise batches of `(n, c, h, w)` images.

Every function gives, bit for bit, what the torchvision backend of transformers gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from PIL.Image import Resampling

from vertebra import huge_pages
from vertebra.image_processing.pil_resize import pil_resize
from vertebra.image_processing.rgb import tensor_to_rgb as tensor_to_rgb
from vertebra.image_processing.threads import MUCH_WORK, each

Images: TypeAlias = "Sequence[torch.Tensor] | torch.Tensor"  # single (c, h, w) images, or (n, c, h, w)

# "nearest-exact" is the tensor mode whose samples lie where PIL's do; tensors have no box and no hamming filter.
_TENSOR_MODES = {
    Resampling.NEAREST: "nearest-exact",
    Resampling.BILINEAR: "bilinear",
    Resampling.BICUBIC: "bicubic",
    Resampling.LANCZOS: "lanczos",
}
_PIECE = 2**15
"""Values up to which small images are normalised together."""


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
    factor = rescale_factor if do_rescale else None
    return normalize(images, *_statistics(image_mean, image_std, factor, images.device))


def normalized_batch(
    images: Images,
    image_mean: float | Sequence[float] | None,
    image_std: float | Sequence[float] | None,
    factor: float | None = None,
    size: tuple[int, int] | None = None,
) -> Images:
    """Rescale and normalise CPU images straight into the batch that they make, with the values of `rescale_and_normalize`.

    Args:
        images: Images `(c, h, w)` of as many channels, of any dtype and memory layout.
        image_mean: One value, or one per channel.
        image_std: The same.
        factor: What images are multiplied by first; None: nothing.
        size: What `(h, w)` is padded to with zeros at the bottom and right; None pads nothing.

    Returns:
        A contiguous float32 batch `(n, c, *size)`, or `(n, c, h, w)` of images of one size; a list of images where they differ and
        nothing is padded.
    """
    kinds = {(image.shape, image.dtype) for image in images}
    shapes = {shape for shape, _ in kinds}
    if size is None and len(shapes) > 1:
        return [normalized_batch([image], image_mean, image_std, factor)[0] for image in images]
    statistics = _statistics(image_mean, image_std, factor, images[0].device)
    mean, std = (values.view(-1, 1, 1) if values.ndim == 1 else values for values in statistics)
    channels, *largest = images[0].shape
    make = huge_pages.empty if size is None or shapes == {(channels, *size)} else huge_pages.zeros
    batch = make((len(images), channels, *(size or largest)))
    step = max(1, _PIECE // images[0].numel()) if len(kinds) == 1 else 1
    is_bytes = {dtype for _, dtype in kinds} == {torch.uint8}

    def write(start: int) -> None:
        piece = images[start] if step == 1 else torch.stack(list(images[start : start + step]))
        place = batch[start] if step == 1 else batch[start : start + step]
        place = place[..., : piece.shape[-2], : piece.shape[-1]]
        if is_bytes:  # NumPy leaves the other threads to the other images
            values = place.numpy()
            np.copyto(values, piece.numpy())
            values -= mean.numpy()
            values /= std.numpy()
        else:
            place.copy_(piece).sub_(mean).div_(std)

    each(write, range(0, len(images), step), None if is_bytes and batch.numel() >= MUCH_WORK else 1)
    return batch


def _statistics(
    mean: float | Sequence[float] | None,
    std: float | Sequence[float] | None,
    factor: float | None,
    device: torch.device,
) -> list[torch.Tensor]:
    """The mean and the deviation of values that have not been multiplied by `factor` yet."""
    values = [torch.tensor(given, dtype=torch.float32, device=device) for given in (mean, std)]
    return values if factor is None else [value * (1.0 / factor) for value in values]


def pad(images: Images, size: tuple[int, int] | None = None, fill: float = 0) -> list[torch.Tensor]:
    """Pad `(…, h, w)` images with `fill` at the bottom and right to `size`, or to their largest height and width.

    Raises:
        ValueError: an image is larger than `size`.
    """
    height, width = padded_size(images, size)
    margins = [(0, width - image.shape[-1], 0, height - image.shape[-2]) for image in images]
    return [F.pad(image, margin, value=fill) for image, margin in zip(images, margins, strict=True)]


def padded_size(images: Images, size: tuple[int, int] | None = None) -> tuple[int, int]:
    """Return `size`, or the largest height and width of `(…, h, w)` images.

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
    return height, width


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
