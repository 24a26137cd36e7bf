"""Segmentation maps: whatever holds one number a pixel becomes targets for training."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from numbers import Real
from typing import Any, TypeAlias, Union

import numpy as np
import torch
from PIL import Image
from PIL.Image import Resampling

from vertebra import huge_pages
from vertebra.errors import listing
from vertebra.image_processing.backends import load_backend

MapInput: TypeAlias = Union[
    Image.Image, "np.ndarray[Any, Any]", torch.Tensor, str, "os.PathLike[str]", Sequence["MapInput"], Sequence[int]
]
ClassOf: TypeAlias = Mapping[int, int]
_COUNTED = 2**16
"""Up to which number pixels are counted, which is faster than sorting them."""
_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "F")
_ALLOWED = "a PIL image, an array or tensor of (h, w), a batch (n, h, w) of them, rows of numbers, or the path of a PNG"


def read_maps(maps: MapInput, images: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return all maps, in order, as tensors `(h, w)` beside their images: int64, or on a CPU uint8 where that holds all numbers.

    Args:
        maps: One map, or several: PIL images with one number a pixel (a palette's indices count, not its colours), arrays,
            tensors or nested lists of `(h, w)`, `(1, h, w)`, `(h, w, 1)` or a batch `(n, h, w)`, the path of an image file,
            or a list of these. Whole numbers of any dtype.
        images: The images `(c, h, w)`; each map goes to the device of its image.

    Raises:
        TypeError: an item is no map; names the item and what is allowed.
        ValueError: numbers that are not whole, colours, an empty map, a number or a size of maps that is not that of the images.
    """
    read = []
    for where, item in _flatten(maps, "segmentation_maps"):
        try:
            read.append(_narrow(_to_tensor(item)))
        except ValueError as error:
            raise ValueError(f"{where} {error}") from error
    if len(read) != len(images):
        raise ValueError(
            f"There are {len(images)} images and {len(read)} segmentation maps; give one map for each image."
        )
    for index, (found, image) in enumerate(zip(read, images, strict=True)):
        if found.shape != image.shape[-2:]:
            raise ValueError(
                f"Segmentation map {index} is {found.shape[0]}x{found.shape[1]} pixels (height x width), but its image is "
                f"{image.shape[-2]}x{image.shape[-1]}; a map has the size that its image has before it is resized."
            )
    return [found.to(image.device) for found, image in zip(read, images, strict=True)]


def _narrow(segmentation_map: torch.Tensor) -> torch.Tensor:
    """A map in 8 bits, in which all that follows is faster, where it is on a CPU and 8 bits hold its numbers."""
    if segmentation_map.device.type != "cpu":
        return segmentation_map.long()
    if segmentation_map.dtype == torch.uint8:
        return segmentation_map
    low, high = (int(bound) for bound in segmentation_map.aminmax())
    return segmentation_map.to(torch.uint8) if low >= 0 and high <= 255 else segmentation_map


def resize_map(segmentation_map: torch.Tensor, size: tuple[int, int], backend: str) -> torch.Tensor:
    """Resize a map `(h, w)` to `size` by taking the nearest pixel, where the backend looks for it; any dtype, exact."""
    if tuple(segmentation_map.shape) == tuple(size):
        return segmentation_map
    rows, columns = (_taken(there, here, backend) for there, here in zip(segmentation_map.shape, size, strict=True))
    if segmentation_map.device.type == "cpu":  # NumPy takes a third of torch's time
        return torch.from_numpy(segmentation_map.numpy().take(columns.numpy(), 1).take(rows.numpy(), 0))
    device = segmentation_map.device
    return segmentation_map.index_select(1, columns.to(device)).index_select(0, rows.to(device))


@lru_cache(maxsize=256)
def _taken(there: int, here: int, backend: str) -> torch.Tensor:
    """Which of `there` pixels in a row is the nearest to each of `here` ones, as a backend's resize has it."""
    pixels = torch.arange(there, dtype=torch.float32).view(1, 1, -1, 1)
    return load_backend(backend).resize(pixels, (here, 1), Resampling.NEAREST).flatten().long()


def reduce_labels(segmentation_map: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """Take 1 from every label; 0, which is the background then, becomes `ignore_index`, which stays what it is."""
    ignored = (segmentation_map == 0) | (segmentation_map == ignore_index)
    return torch.where(ignored, ignore_index, segmentation_map - 1)


def classes_by_id(
    segmentation_map: torch.Tensor, class_of: ClassOf | None, ignore_index: int | None, reduce: bool, where: str
) -> dict[int, int]:
    """Return `{id: class}` of the segments of a map that are targets, by rising id.

    Args:
        segmentation_map: `(h, w)`.
        class_of: The class of each id; None where the ids are the classes.
        ignore_index: The class that is no target, if there is one; so is an id that equals it and has no entry in `class_of`.
        reduce: Whether 0, as id and as class, is the background, which is no target, and other classes are counted without it.
        where: The map's name, for errors.

    Raises:
        ValueError: an id has no class.
    """
    background = {ignore_index, 0} if reduce else {ignore_index}
    found = {}
    for segment in segments(segmentation_map):
        if reduce and segment == 0:
            continue
        if class_of is not None and segment not in class_of and segment in background:
            continue
        label = _class(segment, class_of, ignore_index, where)
        if label not in background:
            found[segment] = label - int(reduce)
    return found


def classes_as_transformers(
    segmentation_map: torch.Tensor, class_of: ClassOf | None, ignore_index: int | None, reduce: bool, where: str
) -> dict[int, int]:
    """Return `{id: class}` as transformers has it: ids, less 1 with `reduce`, are compared with `ignore_index`, classes are not.

    Raises:
        ValueError: `reduce` without an `ignore_index`, or an id without a class.
    """
    if reduce and ignore_index is None:
        raise ValueError(
            "do_reduce_labels=True needs ignore_index with compat=True, as in transformers; pass ignore_index=255."
        )
    ids = [segment for segment in segments(segmentation_map) if not (reduce and segment == 0)]
    kept = [segment for segment in ids if segment - int(reduce) != ignore_index]
    return {segment: _class(segment, class_of, ignore_index, where) - int(reduce) for segment in kept}


def binary_masks(
    segmentation_map: torch.Tensor, ids: Sequence[int], size: tuple[int, int], fill: float = 0, beside: int = 1
) -> torch.Tensor:
    """Return `(len(ids), *size)` float32: 1 where the map `(h, w)` has the id, 0 elsewhere, `fill` below and right of the map.

    `beside` is how many maps have their masks in memory together.
    """
    height, width = segmentation_map.shape
    shape, device = (len(ids), *size), segmentation_map.device
    on_cpu = device.type == "cpu"
    masks = huge_pages.empty(shape, beside=beside) if on_cpu else torch.empty(shape, device=device)
    masks[:, height:] = fill
    masks[:, :height, width:] = fill
    wanted = torch.tensor(list(ids), dtype=segmentation_map.dtype, device=device).view(-1, 1, 1)
    torch.eq(segmentation_map, wanted, out=masks[:, :height, :width])
    return masks


def segments(segmentation_map: torch.Tensor) -> list[int]:
    """Return the numbers that occur in a map of whole numbers, in rising order."""
    low, high = (int(bound) for bound in segmentation_map.aminmax())
    if low < 0 or high > _COUNTED or segmentation_map.device.type != "cpu":
        return list(torch.unique(segmentation_map).tolist())
    return list(torch.bincount(segmentation_map.flatten()).nonzero().flatten().tolist())


def _class(segment: int, class_of: ClassOf | None, ignore_index: int | None, where: str) -> int:
    if class_of is not None and segment not in class_of:
        raise ValueError(
            f"{where} has the id {segment}, which instance_id_to_semantic_id does not have; it has {listing(class_of, 10)}. "
            f"Add {segment}: class, or paint what is no object with ignore_index (it is {ignore_index})."
        )
    return segment if class_of is None else int(class_of[segment])


def _flatten(maps: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yield `(place, map)` for each single map, with the place spelled as the caller would index it."""
    if isinstance(maps, (list, tuple)):
        if _holds_numbers(maps):
            yield from _flatten(_to_array(maps, where), where)
            return
        for index, item in enumerate(maps):
            yield from _flatten(item, f"{where}[{index}]")
    elif isinstance(maps, (np.ndarray, torch.Tensor)) and _is_batch(maps.shape):
        for index in range(len(maps)):
            yield from _flatten(maps[index], f"{where}[{index}]")
    elif isinstance(maps, (Image.Image, np.ndarray, torch.Tensor, str, os.PathLike)):
        yield where, maps
    else:
        raise TypeError(f"{where} is a {type(maps).__name__}; a segmentation map is {_ALLOWED}.")


def _is_batch(shape: Sequence[int]) -> bool:
    return len(shape) > 3 or (len(shape) == 3 and 1 not in (shape[0], shape[-1]))


def _holds_numbers(value: Any) -> bool:
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return isinstance(value, Real)


def _to_array(rows: Any, where: str) -> np.ndarray[Any, Any]:
    try:
        return np.asarray(rows)
    except ValueError as error:
        raise ValueError(f"{where} has rows of different lengths. ({error})") from error


def _to_tensor(item: Any) -> torch.Tensor:
    if isinstance(item, (str, os.PathLike)):
        try:
            with Image.open(item) as picture:
                return _to_tensor(picture)
        except OSError as error:
            raise ValueError(f"is the path {os.fspath(item)!r}, which cannot be read: {error}") from error
    if isinstance(item, Image.Image):
        if item.mode not in _MODES:
            raise ValueError(
                f"is a picture of mode {item.mode!r}, but a map has one number a pixel. Where colours stand for ids, as in COCO's "
                f"panoptic PNGs, pass red + 256 * green + 65536 * blue as an array; else convert it to its numbers."
            )
        item = np.array(item)
    if isinstance(item, np.ndarray):
        if item.dtype.kind not in "buif":
            raise ValueError(f"is an array of {item.dtype}; a map holds whole numbers.")
        wide = np.uint8 if item.dtype in (np.uint8, np.bool_) else np.int64 if item.dtype.kind in "bui" else np.float64
        item = torch.from_numpy(item.astype(wide))
    if item.ndim > 2:
        item = item.squeeze(0) if item.shape[0] == 1 else item.squeeze(-1)
    if item.ndim != 2 or item.numel() == 0:
        raise ValueError(f"has the shape {tuple(item.shape)}; a segmentation map is {_ALLOWED}.")
    if item.is_floating_point() and not (torch.isfinite(item).all() and torch.equal(item, item.trunc())):
        raise ValueError("has numbers that are not whole; a map holds ids or classes, not probabilities.")
    return item if item.dtype == torch.uint8 else item.long()
