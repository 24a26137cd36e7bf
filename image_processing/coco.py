"""COCO's formats: run-length encoded masks, and annotations as JSON has them.

A mask's runs go down the columns, from left to right, and alternate between background and object; the first is background and
may be 0 long. Format: https://cocodataset.org/#format-data, and `maskApi.c` of its API for the compressed text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias, Union

import numpy as np
import torch
from torch import Tensor

RLE: TypeAlias = dict[str, Any]
Mask: TypeAlias = Union[Tensor, "np.ndarray[Any, Any]"]


def encode_rle(mask: Mask, compressed: bool = False) -> RLE:
    """Encode a mask.

    Args:
        mask: `(height, width)`; what is not 0 is the object.
        compressed: Write the runs as COCO's text, which its result files have, instead of a list of numbers.

    Returns:
        `{"size": [height, width], "counts": runs}`, ready for JSON.

    Raises:
        ValueError: the mask has not two axes.
    """
    mask = torch.as_tensor(mask)
    if mask.ndim != 2:
        raise ValueError(f"A mask is (height, width); this one has the shape {tuple(mask.shape)}.")
    height, width = mask.shape
    pixels = (mask != 0).T.flatten()
    changes = torch.nonzero(pixels[1:] != pixels[:-1]).flatten() + 1
    starts = torch.cat([changes.new_zeros(1), changes, changes.new_full((1,), len(pixels))]).cpu()
    counts = starts.diff().tolist() if len(pixels) else []
    if len(pixels) and bool(pixels[0]):
        counts.insert(0, 0)
    return {"size": [height, width], "counts": _to_text(counts) if compressed else counts}


def decode_rle(rle: Mapping[str, Any]) -> Tensor:
    """Return the mask `(height, width)`, bool, of an encoding, whose runs may be numbers or text.

    Raises:
        ValueError: the runs do not fill `size`.
    """
    height, width = rle["size"]
    counts = _counts(rle)
    values = torch.arange(len(counts)) % 2 == 1
    return torch.repeat_interleave(values, torch.tensor(counts, dtype=torch.int64)).view(width, height).T.contiguous()


def rle_area(rle: Mapping[str, Any]) -> int:
    """Return the number of pixels of the object."""
    return sum(_counts(rle)[1::2])


def rle_box(rle: Mapping[str, Any]) -> list[float]:
    """Return the box `[x, y, width, height]` around the object in pixels; zeros where there is none."""
    height = rle["size"][0]
    ends = np.cumsum(_counts(rle), dtype=np.int64)
    last = ends[1::2] - 1
    first = ends[0::2][: len(last)]
    first, last = first[first <= last], last[first <= last]
    if not len(first):
        return [0.0, 0.0, 0.0, 0.0]
    left, right = int(first.min()) // height, int(last.max()) // height
    top, bottom = int((first % height).min()), int((last % height).max())
    if (first // height != last // height).any():  # a run that goes on in the next column touches both borders
        top, bottom = 0, height - 1
    return [float(left), float(top), float(right - left + 1), float(bottom - top + 1)]


def coco_annotations(
    results: Sequence[Mapping[str, Any]],
    image_ids: Sequence[Any] | None = None,
    category_ids: Mapping[int, int] | None = None,
    first_id: int = 1,
    compressed: bool = False,
) -> list[dict[str, Any]]:
    """Turn results of instance or panoptic post-processing into annotations of COCO's JSON.

    Args:
        results: One `{"segmentation", "segments_info"}` for each image; the segmentation may be a map of ids `(height, width)`
            (where objects overlap, one has the pixel), binary maps `(n, height, width)` or encodings.
        image_ids: The `image_id` of each; None numbers them from 0.
        category_ids: The `category_id` of each label; None takes the labels themselves.
        first_id: The first annotation's `id`; the others count on.
        compressed: Write runs as text, which `COCO.loadRes` needs, instead of lists of numbers.

    Returns:
        For each object `id`, `image_id`, `category_id`, `segmentation`, `bbox` `[x, y, width, height]` and `area` in pixels,
        `iscrowd` 0 and `score`, ready for JSON.

    Raises:
        ValueError: another number of image ids than of results, a label without a category, or a segmentation that does not
            go with its `segments_info`.
    """
    image_ids = range(len(results)) if image_ids is None else image_ids
    if len(image_ids) != len(results):
        raise ValueError(f"There are {len(results)} results and {len(image_ids)} image_ids; give one for each.")
    annotations: list[dict[str, Any]] = []
    for index, (result, image_id) in enumerate(zip(results, image_ids, strict=True)):
        for segment, rle in zip(result["segments_info"], _encodings(result, f"results[{index}]"), strict=True):
            label = segment["label_id"]
            if category_ids is not None and label not in category_ids:
                raise ValueError(
                    f"category_ids has no category for label {label} of results[{index}]; add {label}: category."
                )
            counts = _counts(rle)
            annotations.append(
                {
                    "id": first_id + len(annotations),
                    "image_id": image_id,
                    "category_id": label if category_ids is None else category_ids[label],
                    "segmentation": {"size": list(rle["size"]), "counts": _to_text(counts) if compressed else counts},
                    "bbox": rle_box(rle),
                    "area": rle_area(rle),
                    "iscrowd": 0,
                    "score": segment["score"],
                }
            )
    return annotations


def runs_as_transformers(segmentation: Tensor) -> list[list[int]]:
    """Return what transformers calls COCO's encoding of a map `(height, width)`, for `compat=True`.

    For each value of the map, the background's too, `[start, length, start, length, …]` along the rows, counted from 1.
    """
    runs = []
    for value in torch.unique(segmentation):
        inside = (segmentation == value).flatten().to(torch.int8)
        steps = torch.cat([inside, inside.new_zeros(1)]).diff(prepend=inside.new_zeros(1))
        starts, ends = (torch.nonzero(steps == step).flatten() for step in (1, -1))
        runs.append(torch.stack([starts + 1, ends - starts], dim=1).flatten().tolist())
    return runs


def _encodings(result: Mapping[str, Any], where: str) -> Iterator[RLE]:
    """The encoding of each segment of a result."""
    found, segments = result["segmentation"], result["segments_info"]
    if isinstance(found, Tensor) and found.ndim == 2:
        return (encode_rle(found == segment["id"]) for segment in segments)
    if len(found) != len(segments) or not all(isinstance(one, (Tensor, Mapping)) for one in found):
        raise ValueError(
            f"{where} has {len(segments)} segments, and a segmentation that is neither a map of ids, nor as many binary maps or "
            f"encodings {{'size', 'counts'}} (those of compat=True are none)."
        )
    return (dict(one) if isinstance(one, Mapping) else encode_rle(one) for one in found)


def _counts(rle: Mapping[str, Any]) -> list[int]:
    """The runs of an encoding as numbers.

    Raises:
        ValueError: they do not fill the mask.
    """
    height, width = rle["size"]
    counts = rle["counts"]
    if isinstance(counts, (str, bytes)):
        counts = _from_text(counts if isinstance(counts, bytes) else counts.encode("ascii"))
    if sum(counts) != height * width or min(counts, default=0) < 0:
        raise ValueError(
            f"The runs of this encoding have {sum(counts)} pixels, but its size {height}x{width} has {height * width}."
        )
    return list(counts)


def _to_text(counts: Sequence[int]) -> str:
    """COCO's text of runs: from the fourth on the difference to the run before the last; five bits a letter, the lowest first."""
    letters = []
    for index, count in enumerate(counts):
        value = count - (counts[index - 2] if index > 2 else 0)
        more = True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            letters.append(chr(48 + bits + 32 * more))
    return "".join(letters)


def _from_text(text: bytes) -> list[int]:
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        bits = letter - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts
