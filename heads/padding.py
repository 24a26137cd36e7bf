"""Which cells of a map belong to an image, and which to the padding of its batch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def check_pixel_mask(pixel_mask: Tensor, pixel_values: Tensor) -> None:
    """Raise a ValueError unless the mask is `(b, h, w)` for pixels `(b, c, h, w)`."""
    expected = (pixel_values.shape[0], *pixel_values.shape[2:])
    if tuple(pixel_mask.shape) != expected:
        raise ValueError(
            f"pixel_mask of shape {tuple(pixel_mask.shape)} must be {expected}, (batch, height, width) of pixel_values: 1 "
            f"where a pixel belongs to the image, 0 where it pads. The image processor makes it."
        )


def real_cells(pixel_mask: Tensor, height: int, width: int) -> Tensor:
    """Tell which cells of a map belong to the image: those whose first pixel does, hence all that hold any of it.

    Padding is to the right and at the bottom. An image of nothing but padding counts as real, since attention must go somewhere.

    Args:
        pixel_mask: `(b, h, w)`, not 0 where a pixel belongs to the image.
        height: Of the map, in cells.
        width: Of the map, in cells.

    Returns:
        `(b, height, width)` bool.
    """
    cells = F.interpolate((pixel_mask != 0).float().unsqueeze(1), size=(height, width), mode="nearest").squeeze(1) > 0
    return cells | ~cells.flatten(1).any(1)[:, None, None]
