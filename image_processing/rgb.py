"""To RGB: from every PIL mode, and from arrays with one or four channels. Transparency is laid over white."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

# What an array of these modes holds is grey levels 0..255, so it can be used as it is; a palette's indices cannot.
DIRECT_MODES = ("L", "RGB", "RGBA")
_DEEP_MODES = ("I", "F")
_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}


def picture_to_rgb(picture: Image.Image) -> Image.Image:
    """Convert a PIL image of any mode to mode RGB, transparent parts over white.

    Modes with more than 8 bits are not left to PIL, which clips them: a 16-bit photo would be all white. `I;16` spans
    0..65535 and loses its lower byte, as in torchvision (`value // 256`). `I` and `F` say nothing about their span: what
    lies in 0..255 is taken as it is (fractions are cut, as PIL does), anything else is refused.

    Raises:
        ValueError: an `I` or `F` image that is not within 0..255 or seems to be 0..1, or an `I;16` image that holds
            8-bit values.
    """
    if picture.mode.startswith(_DEEP_MODES):
        picture = _to_eight_bits(picture)
    if picture.mode in _PREMULTIPLIED:
        picture = picture.convert(_PREMULTIPLIED[picture.mode])
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if "A" in picture.getbands() or picture.info.get("transparency") is not None:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def picture_to_bands(picture: Image.Image) -> Image.Image:
    """Return a PIL image of any mode as one of grey levels (`L`), `RGB` or `RGBA`, none of whose channels is lost.

    Black and white becomes grey, as do more than 8 bits (see `picture_to_rgb`); what holds no levels, such as a palette,
    becomes RGB.

    Raises:
        ValueError: as in `picture_to_rgb`.
    """
    if picture.mode in DIRECT_MODES:
        return picture
    if picture.mode.startswith(_DEEP_MODES):
        return _to_eight_bits(picture)
    return picture.convert("L") if picture.mode == "1" else picture_to_rgb(picture)


def _to_eight_bits(picture: Image.Image) -> Image.Image:
    values = np.asarray(picture)
    low, high = values.min(), values.max()
    what = f"has mode {picture.mode!r} and values from {low:g} to {high:g}"
    if picture.mode.startswith("I;16"):
        if 0 < high < 256:
            raise ValueError(
                f"{what}, of the 65535 that 16 bits have, so it would be black. If they are grey levels 0..255, pass "
                f"Image.fromarray(numpy.asarray(image).astype('uint8'))."
            )
        return Image.fromarray((values // 256).astype(np.uint8))
    if not (low >= 0 and high <= 255):  # a NaN is neither
        raise ValueError(
            f"{what}, which are not grey levels 0..255; scale it first, for example for 16 bits "
            f"Image.fromarray((numpy.asarray(image) // 256).astype('uint8'))."
        )
    if 0 < high <= 1 and picture.mode == "F":
        raise ValueError(
            f"{what}, so 1 seems to be white, which is 255 here; scale it first, for example "
            f"Image.fromarray((numpy.asarray(image) * 255).round().astype('uint8'))."
        )
    return Image.fromarray(values.astype(np.uint8))


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
        return over_white(values).mul_(256.0 - 1e-3).to(torch.uint8)
    if not image.dtype.is_floating_point:
        raise ValueError(f"is RGBA in {image.dtype}; transparency is understood in uint8 (0..255) and floats (0..1).")
    check_alpha_range(image, 1)
    return over_white(image.to(torch.float32)).to(image.dtype)


def check_alpha_range(image: torch.Tensor, white: int) -> None:
    """Raise ValueError unless an RGBA image lies in 0..`white`."""
    low, high = (float(bound) for bound in image.to(torch.float64).aminmax())
    if not (low >= 0 and high <= white):
        kind = "floats" if image.is_floating_point() else image.dtype
        raise ValueError(
            f"is RGBA in {kind} from {low:.4g} to {high:.4g}; with transparency, {kind} must lie in 0..{white}."
        )


def over_white(image: torch.Tensor) -> torch.Tensor:
    """Lay `(4, h, w)` floats within 0..1 over white, in their own dtype."""
    colour, alpha = image[:3], image[3:]
    return colour * alpha + (1 - alpha)
