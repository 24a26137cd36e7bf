"""To RGB: from every PIL mode, and from arrays with one or four channels. Transparency is laid over white."""

from __future__ import annotations

import torch
from PIL import Image

# What an array of these modes holds is grey levels 0..255, so it can be used as it is; a palette's indices cannot.
DIRECT_MODES = ("L", "RGB", "RGBA")
_DEEP_MODES = ("I", "F")


def picture_to_rgb(picture: Image.Image) -> Image.Image:
    """Convert a PIL image of any mode to mode RGB, transparent parts over white.

    Raises:
        ValueError: the pixels have more than 8 bits, which PIL would clip.
    """
    if picture.mode.startswith(_DEEP_MODES):
        raise ValueError(
            f"has mode {picture.mode!r}, more than 8 bits a pixel; scale it to 0..255 first, for example "
            f"Image.fromarray((numpy.asarray(image) / 257).astype('uint8')) for 16 bits."
        )
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if "A" in picture.getbands() or picture.info.get("transparency") is not None:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def tensor_to_rgb(image: torch.Tensor) -> torch.Tensor:
    """Convert a `(1 | 3 | 4, h, w)` image to `(3, h, w)`: grey is repeated, a fourth channel is alpha over white.

    Raises:
        ValueError: another number of channels, alpha in a dtype that is neither uint8 nor floating, or floating values
            outside 0..1 beside an alpha channel.
    """
    channels = image.shape[0]
    if channels == 3:
        return image
    if channels == 1:
        return image.expand(3, -1, -1)
    if channels != 4:
        raise ValueError(f"has {channels} channels; only 1 (grey), 3 (RGB) and 4 (RGBA) can be made RGB.")
    if image.dtype == torch.uint8:
        values = image.to(torch.float32).mul_(1.0 / 255)
        # Truncation after a factor just below 256 is torchvision's float-to-uint8 rule; it undoes the division exactly.
        return _over_white(values).mul_(256.0 - 1e-3).to(torch.uint8)
    if not image.dtype.is_floating_point:
        raise ValueError(f"is RGBA in {image.dtype}; transparency is understood in uint8 (0..255) and floats (0..1).")
    low, high = (float(bound) for bound in image.aminmax())
    if low < 0 or high > 1:
        raise ValueError(f"is RGBA in floats from {low:.4g} to {high:.4g}; with transparency, floats must lie in 0..1.")
    return _over_white(image.to(torch.float32)).to(image.dtype)


def _over_white(image: torch.Tensor) -> torch.Tensor:
    colour, alpha = image[:3], image[3:]
    return colour * alpha + (1 - alpha)
