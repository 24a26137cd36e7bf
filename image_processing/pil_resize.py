"""Resizing through PIL: for the filters that tensors lack, and where PIL's own result is wanted to the bit."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image


def pil_resize(
    images: torch.Tensor, size: tuple[int, int], resample: Image.Resampling, alpha: bool = False
) -> torch.Tensor:
    """Resize `(n, c, h, w)` images to `(n, c, *size)` with PIL, one image after the other, on the CPU.

    8-bit images are resized as PIL resizes 8-bit images (rounded to whole grey levels). All other dtypes go through
    float32 without rounding in between; integers are rounded at the end. The dtype and the device are kept. With
    `alpha`, 8-bit images of four channels are RGBA pictures: PIL weighs colours by the fourth channel.
    """
    resized = torch.stack([_resize_one(image, size, resample, alpha) for image in images.cpu()])
    return resized.to(images.device)


def _resize_one(image: torch.Tensor, size: tuple[int, int], resample: Image.Resampling, alpha: bool) -> torch.Tensor:
    height, width = size
    if image.dtype == torch.uint8 and (len(image) == 3 or (alpha and len(image) == 4)):
        picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())  # (h, w, c)
        array = np.array(picture.resize((width, height), resample))
        return torch.from_numpy(array).permute(2, 0, 1)  # (c, h, w)
    # Channel by channel: what lies in a fourth channel need not be alpha.
    source = image if image.dtype == torch.uint8 else image.to(torch.float32)
    planes = [Image.fromarray(channel.contiguous().numpy()).resize((width, height), resample) for channel in source]
    resized = torch.from_numpy(np.stack([np.array(plane) for plane in planes]))  # (c, h, w)
    if resized.dtype != image.dtype and not image.dtype.is_floating_point:
        resized = resized.round()
    return resized.to(image.dtype)
