"""The PIL backend: the same steps as `transforms`, with PIL's resize and NumPy's order of operations, on the CPU.

Every function gives, bit for bit, what the PIL backend of transformers gives, wherever that gives anything. It differs
from the tensor backend by one grey level at most, since PIL's filters have more exact weights; by up to 24 (measured, in
noise) where Pillow 13 resizes the columns first, which it does for tall images that lose much height.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL.Image import Resampling

from vertebra.image_processing import rgb
from vertebra.image_processing.pil_resize import pil_resize


def resize(images: torch.Tensor, size: tuple[int, int], resample: Resampling) -> torch.Tensor:
    """Resize `(n, c, h, w)` images to `(n, c, *size)` in whole grey levels 0..255, as PIL holds images.

    Whole numbers within 0..255 come back as uint8, whatever their dtype was. Floats within 0..1 are cut to 255 levels
    and come back as float32 within 0..1, **also where the size stays**. All other values have no place in a PIL image;
    transformers refuses them, here they are resized as floats, without rounding. Four channels are colours and
    their alpha: colours then count by how opaque they are, as in every PIL image of mode RGBA.
    """
    return torch.stack([_resize_one(image, size, resample) for image in images])


def _resize_one(image: torch.Tensor, size: tuple[int, int], resample: Resampling) -> torch.Tensor:
    if image.dtype != torch.uint8:
        values = image.to(torch.float64)
        low, high = (float(bound) for bound in values.aminmax())
        if low >= 0 and high <= 255 and torch.allclose(values, values.trunc()):
            image = image.to(torch.uint8)
        elif low >= 0 and high <= 1:
            levels = pil_resize(to_levels(image)[None], size, resample, alpha=len(image) == 4)[0]
            return _multiply(levels, 1 / 255)
    return pil_resize(image[None], size, resample, alpha=len(image) == 4)[0]


def to_levels(images: torch.Tensor) -> torch.Tensor:
    """Floats within 0..1 as uint8 0..255, rounded down."""
    return _multiply(images, 255).to(torch.uint8)


def center_crop(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Cut the central `size` out of `(..., c, h, w)` images; smaller ones get zeros, the odd row at the top and left."""
    rows, columns = size[0] - images.shape[-2], size[1] - images.shape[-1]
    top, left = -(-rows // 2), -(-columns // 2)  # what is missing, rounded up; negative where there is too much
    return F.pad(images, (left, columns - left, top, rows - top))


def rescale_and_normalize(
    images: torch.Tensor,
    do_rescale: bool,
    rescale_factor: float | None,
    do_normalize: bool,
    image_mean: float | Sequence[float] | None,
    image_std: float | Sequence[float] | None,
) -> torch.Tensor:
    """Multiply `(n, c, h, w)` images in float64 and round to float32, then `(x - mean) / std` in the dtype they have.

    Integers that are normalised without being rescaled become float32 first.
    """
    if do_rescale and rescale_factor is not None:
        images = _multiply(images, rescale_factor)
    if not do_normalize:
        return images
    if not images.is_floating_point():
        images = images.to(torch.float32)
    mean, std = (
        torch.tensor(values, dtype=torch.float64, device=images.device).to(images.dtype).view(-1, 1, 1)
        for values in (image_mean, image_std)
    )
    return images.sub(mean).div_(std)


def tensor_to_rgb(image: torch.Tensor) -> torch.Tensor:
    """Convert a `(1 | 3 | 4, h, w)` image to `(3, h, w)`, as `rgb.tensor_to_rgb`, but rounded as NumPy rounds.

    Raises:
        ValueError: as there; integers of any dtype may have alpha if they lie in 0..255.
    """
    if len(image) != 4:
        return rgb.tensor_to_rgb(image)
    if image.is_floating_point():
        rgb.check_alpha_range(image, 1)
        return rgb.over_white(image)
    rgb.check_alpha_range(image, 255)
    colour, alpha = image[:3], image[3:].to(torch.float64) / 255
    return (alpha * colour + (1 - alpha) * 255).round_().to(image.dtype)


def _multiply(images: torch.Tensor, factor: float) -> torch.Tensor:
    return (images.to(torch.float64) * factor).to(torch.float32)
