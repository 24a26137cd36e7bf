"""Sizes: the spellings that files and callers use, and the output size each one asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from vertebra.errors import did_you_mean, listing

KEY_SETS = (
    ("height", "width"),
    ("shortest_edge",),
    ("shortest_edge", "longest_edge"),
    ("longest_edge",),
    ("max_height", "max_width"),
    ("min_pixels", "max_pixels"),
)
_KEYS = tuple(dict.fromkeys(key for keys in KEY_SETS for key in keys))


class SizeDict(dict[str, int]):
    """A size in pixels: a dict with one of the key sets in `KEY_SETS`; keys are also attributes (None when absent)."""

    def __getattr__(self, name: str) -> int | None:
        if name in _KEYS:
            return self.get(name)
        raise AttributeError(f"A size has no {name!r}; it may have {listing(_KEYS)}.{did_you_mean(name, _KEYS)}")


def read_size(value: Any, name: str = "size", default_to_square: bool = True) -> SizeDict:
    """Return any spelling of a size as a `SizeDict`.

    Args:
        value: An int (a square, or the shortest edge when `default_to_square` is False), `(height, width)`, a mapping.
        name: The setting's name, for errors.
        default_to_square: What a bare int means.

    Raises:
        TypeError: `value` is none of these.
        ValueError: the keys are not one of `KEY_SETS`, or a length is not a positive whole number.
    """
    if isinstance(value, Mapping):
        size = {str(key): length for key, length in value.items() if length is not None}
        if not any(size.keys() == set(keys) for keys in KEY_SETS):
            hint = "".join(did_you_mean(key, _KEYS) for key in size if key not in _KEYS)
            allowed = listing("{" + ", ".join(keys) + "}" for keys in KEY_SETS)
            raise ValueError(f"{name}={dict(value)!r} has the keys {listing(size)}; a size has one of {allowed}.{hint}")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != 2:
            raise ValueError(f"{name}={value!r} has {len(value)} entries; give [height, width], or one int.")
        size = {"height": value[0], "width": value[1]}
    elif is_whole(value):
        size = {"height": value, "width": value} if default_to_square else {"shortest_edge": value}
    else:
        raise TypeError(
            f"{name}={value!r} is a {type(value).__name__}; give an int, [height, width], or a dict such as "
            f"{{'height': 224, 'width': 224}} or {{'shortest_edge': 224}}."
        )
    for key, length in size.items():
        if not is_whole(length) or length < 1:
            raise ValueError(f"{name}[{key!r}]={length!r} is not a positive whole number of pixels.")
    return SizeDict({key: int(length) for key, length in size.items()})


def height_and_width(size: Mapping[str, int], name: str) -> tuple[int, int]:
    """Return `(height, width)` of a size that must state both.

    Raises:
        ValueError: it states something else.
    """
    if "height" not in size or "width" not in size:
        raise ValueError(f"{name}={dict(size)!r} must be {{'height': …, 'width': …}}.")
    return size["height"], size["width"]


def output_size(height: int, width: int, size: Mapping[str, int]) -> tuple[int, int]:
    """Return the `(height, width)` that an image of `height` x `width` pixels is resized to.

    `{height, width}` stretches. `{shortest_edge}` keeps the aspect ratio; with `longest_edge` both edges shrink
    together where the longer one would pass it. `{max_height, max_width}` is the largest size of the same aspect ratio
    that fits the box (smaller images grow). Lengths are truncated, as transformers does, and at least one pixel.

    Raises:
        ValueError: `size` has other keys, or the image is so thin that the result would be huge (`refuse_huge`).
    """
    short, long = min(height, width), max(height, width)
    if "shortest_edge" in size:
        edge: float = size["shortest_edge"]
        limit = size.get("longest_edge")
        if limit is not None and long / short * edge > limit:
            edge = limit * short / long
        new_short = round(edge)
        if limit is not None and new_short == short:
            return height, width
        new_long = max(1, int(edge * long / short))
        new_short = max(1, new_short)
        new_height, new_width = (new_long, new_short) if width < height else (new_short, new_long)
        refuse_huge(height, width, new_height, new_width)
        return new_height, new_width
    if "max_height" in size and "max_width" in size:
        scale = min(size["max_height"] / height, size["max_width"] / width)
        return max(1, int(height * scale)), max(1, int(width * scale))
    if "height" in size and "width" in size:
        return size["height"], size["width"]
    raise ValueError(
        f"size={dict(size)!r} is not something this processor resizes to; give {{'height', 'width'}}, "
        f"{{'shortest_edge'}}, {{'shortest_edge', 'longest_edge'}} or {{'max_height', 'max_width'}}."
    )


def refuse_huge(height: int, width: int, new_height: int, new_width: int) -> None:
    """Refuse to enlarge an image beyond what PIL takes for a decompression bomb when it opens one.

    A line of 10000 x 2 pixels whose shorter edge becomes 224 is 1120000 x 224 pixels before it is cut: a file of some
    bytes would take gigabytes.

    Raises:
        ValueError: more pixels than `PIL.Image.MAX_IMAGE_PIXELS`, where there were fewer.
    """
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and new_height * new_width > max(limit, height * width):
        raise ValueError(
            f"An image of {height}x{width} pixels (height x width) would be resized to {new_height}x{new_width}, more than "
            f"the {limit} pixels of PIL.Image.MAX_IMAGE_PIXELS. Crop it first, give size={{'height': …, 'width': …}}, or "
            f"raise that limit if memory suffices."
        )


def is_whole(value: Any) -> bool:
    """Whether `value` is a whole number: an integer of any kind, or a float without a fraction; a bool is none."""
    if isinstance(value, float):
        return value.is_integer()
    return hasattr(value, "__index__") and not isinstance(value, bool)
