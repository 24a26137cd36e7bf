"""Inputs: whatever holds images becomes a flat list of `(c, h, w)` tensors."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, TypeAlias, Union

import numpy as np
import torch
from PIL import Image, ImageOps

from vertebra.image_processing import rgb

logger = logging.getLogger(__name__)

ImageInput: TypeAlias = Union[
    Image.Image, "np.ndarray[Any, Any]", torch.Tensor, str, "os.PathLike[str]", Sequence["ImageInput"]
]
# A filter may go below 0, and torch has few operations for these.
_SIGNED = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}
CHANNELS_FIRST, CHANNELS_LAST = "channels_first", "channels_last"
_ALLOWED = (
    "PIL.Image.Image, numpy.ndarray, torch.Tensor, the path of an image file, a batched 4-d array, or a list of these"
)


def read_images(
    images: ImageInput,
    *,
    convert_rgb: bool | None = None,
    channels: int | None = None,
    input_data_format: str | None = None,
    device: str | torch.device | None = None,
    tensor_to_rgb: Callable[[torch.Tensor], torch.Tensor] = rgb.tensor_to_rgb,
) -> list[torch.Tensor]:
    """Return all images, in order, as `(c, h, w)` tensors of the dtype they came in (uint16 and wider: a signed one).

    Args:
        images: A PIL image, an array or tensor of `(h, w)`, `(h, w, c)`, `(c, h, w)` or a batch of the latter two, a
            path, or lists of these, nested to any depth. Nothing is fetched from the network.
        convert_rgb: True converts all to RGB; None converts where the image does not have `channels` = 3 channels;
            False never converts.
        channels: The number of channels that is needed (None: any). Where it is not 3, pictures keep the channels they
            have, as far as arrays have them too: 1 (grey), 3 (RGB) or 4 (RGBA).
        input_data_format: `"channels_first"` or `"channels_last"` for arrays; None goes by which axis has 1, 3 or 4
            entries (or `channels`, where that is another number), and takes the first where both do. PIL images know
            theirs.
        device: Where the tensors go; None leaves them where they are.
        tensor_to_rgb: How arrays become RGB; backends round differently. PIL images are converted by PIL.

    Raises:
        TypeError: an item is not an image; names the item and what is allowed.
        ValueError: an image is empty, cannot be decoded, has more than 8 bits and no known span (`rgb.picture_to_rgb`),
            a shape that cannot be understood, or the wrong number of channels.
        FileNotFoundError: a path does not exist.
    """
    tensors = []
    for where, item in _flatten(images, "images"):
        try:
            tensor = _to_tensor(item, convert_rgb, channels, input_data_format, tensor_to_rgb)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{where} {error}") from None
        except (ValueError, OSError, SyntaxError) as error:
            raise ValueError(f"{where} {error}") from error
        tensors.append(tensor if device is None else tensor.to(device))
    if not tensors:
        raise ValueError(f"images={images!r} holds no image; give at least one of {_ALLOWED}.")
    return tensors


def read_layout(value: Any, name: str) -> str | None:
    """Return a channel order as `"channels_first"` or `"channels_last"`; enums are read by their value.

    Raises:
        ValueError: it is neither.
    """
    layout = getattr(value, "value", value)
    if layout is not None and layout not in (CHANNELS_FIRST, CHANNELS_LAST):
        raise ValueError(f"{name}={value!r} must be {CHANNELS_FIRST!r}, {CHANNELS_LAST!r} or None.")
    return None if layout is None else str(layout)


def _flatten(images: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yield `(place, image)` for each single image, with the place spelled as the caller would index it."""
    if isinstance(images, (list, tuple)):
        for index, item in enumerate(images):
            yield from _flatten(item, f"{where}[{index}]")
    elif isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4:
        for index in range(len(images)):
            yield f"{where}[{index}]", images[index]
    elif isinstance(images, (Image.Image, np.ndarray, torch.Tensor, str, os.PathLike)):
        yield where, images
    elif isinstance(images, (int, float)):
        raise TypeError(
            f"{where} is the number {images!r}; make nested lists of numbers an array: numpy.asarray(images)."
        )
    else:
        raise TypeError(f"{where} is a {type(images).__name__}; an image is {_ALLOWED}.")


def _to_tensor(
    image: Any,
    convert_rgb: bool | None,
    channels: int | None,
    layout: str | None,
    tensor_to_rgb: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    if isinstance(image, (str, os.PathLike)):
        image = _open(os.fspath(image), rgb.picture_to_rgb if channels in (None, 3) else rgb.picture_to_bands)
    if isinstance(image, Image.Image):
        if 0 in image.size:
            raise ValueError(f"is empty: {image.width}x{image.height} pixels.")
        _decode(image, "is a PIL image")
        wrong = channels == 3 and image.mode != "RGB"
        if convert_rgb or (convert_rgb is None and wrong):
            image = rgb.picture_to_rgb(image)
        elif image.mode not in rgb.DIRECT_MODES:
            image = rgb.picture_to_rgb(image) if channels in (None, 3) else rgb.picture_to_bands(image)
        array = torch.from_numpy(np.array(image))
        tensor = array[None] if array.ndim == 2 else array.permute(2, 0, 1)  # (c, h, w)
    else:
        tensor = _channels_first(_as_tensor(image), layout, channels)
        tensor = tensor.to(_SIGNED.get(tensor.dtype, tensor.dtype))
        if convert_rgb or (convert_rgb is None and channels == 3 and len(tensor) in (1, 4)):
            tensor = tensor_to_rgb(tensor)
    if channels is not None and len(tensor) != channels:
        hint = " Pass do_convert_rgb=True." if channels == 3 and len(tensor) in (1, 4) else ""
        hint = " For one band of a colour picture pass image.convert('L')." if channels == 1 else hint
        raise ValueError(f"has {len(tensor)} channels, but image_mean and image_std have {channels} values.{hint}")
    return tensor


def _open(path: str, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Decode an image file and `convert` it, upright (its EXIF orientation is applied)."""
    if path.startswith(("http://", "https://")):
        raise ValueError(f"is an address ({path!r}); nothing is downloaded here: fetch the file and give its path.")
    if not os.path.exists(path):  # noqa: PTH110
        raise FileNotFoundError(f"is the path {path!r}, which does not exist.")
    what = f"is the file {path!r}"
    try:
        picture = Image.open(path)
    except Exception as error:  # PIL's parsers raise whatever they stumble over
        raise ValueError(_undecodable(what, error)) from error
    with picture:
        _decode(picture, what)
        try:
            upright = ImageOps.exif_transpose(picture)
        except Exception:  # a broken EXIF block says nothing about the pixels
            upright = picture
        try:
            return convert(upright)
        except ValueError as error:
            raise ValueError(f"{what}, which {error}") from error


def _decode(picture: Image.Image, what: str) -> None:
    """Read the pixels of a PIL image now: a broken file shows itself only then."""
    try:
        picture.load()
    except Exception as error:  # as above
        raise ValueError(_undecodable(what, error)) from error


def _undecodable(what: str, error: Exception) -> str:
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return (
            f"{what}, which cannot be decoded, since it claims to be huge: {error} Raise PIL.Image.MAX_IMAGE_PIXELS if "
            f"it is yours and memory suffices."
        )
    return f"{what}, which cannot be decoded: {error or type(error).__name__}"


def _as_tensor(image: np.ndarray[Any, Any] | torch.Tensor) -> torch.Tensor:
    if isinstance(image, torch.Tensor):
        return image
    if image.dtype.kind not in "buif":
        raise ValueError(f"is an array of {image.dtype}; an image holds bools, integers or floats.")
    if not image.dtype.isnative:
        image = image.astype(image.dtype.newbyteorder("="))
    # torch takes neither read-only memory (without a warning) nor negative strides.
    if not image.flags.writeable or any(stride < 0 for stride in image.strides):
        image = image.copy()
    return torch.from_numpy(image)


def _channels_first(image: torch.Tensor, layout: str | None, channels: int | None) -> torch.Tensor:
    shape = tuple(image.shape)
    if 0 in shape:
        raise ValueError(f"is empty: its shape is {shape}.")
    if image.ndim == 2:
        return image[None]
    if image.ndim != 3:
        raise ValueError(
            f"has the shape {shape}; an image is (h, w), (h, w, c) or (c, h, w), a batch has one axis more."
        )
    if layout is None:
        asked = channels not in (None, 3) and channels in (shape[0], shape[2])
        usual = (channels,) if asked else (1, 3, 4)
        first, last = shape[0] in usual, shape[2] in usual
        if not first and not last:
            raise ValueError(
                f"has the shape {shape}, and neither its first nor its last axis has {_counts(channels)} channels; pass "
                f"input_data_format='channels_first' or 'channels_last' (a stack of grey images is images[:, None])."
            )
        if first and last:
            _warn_ambiguous(shape)
        layout = CHANNELS_FIRST if first else CHANNELS_LAST
    return image if layout == CHANNELS_FIRST else image.permute(2, 0, 1)


def _counts(channels: int | None) -> str:
    return "1, 3 or 4" if channels in (None, 1, 3, 4) else f"{channels}"


@lru_cache(maxsize=64)
def _warn_ambiguous(shape: tuple[int, ...]) -> None:
    logger.warning(
        "The shape %s may be (c, h, w) or (h, w, c); (c, h, w) is taken. Pass input_data_format to say.", shape
    )
