"""Pictures of segmentations: colours over the photo, outlines, and the names of what was found."""

from __future__ import annotations

import colorsys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import distance_transform_edt, find_objects

from vertebra.errors import listing

Array = npt.NDArray[Any]
GOLDEN = 0.61803398875  # each further hue lies in the largest gap between those before it
LEAST_WIDTH = 24  # pixels that a segment needs at its thickest for its name
INK, PAPER = (255, 255, 255), (0, 0, 0)


def palette_colour(index: int, shade: int = 0) -> tuple[int, int, int]:
    """The colour of class `index` as red, green, blue (0..255); `shade` tells objects of one class apart."""
    hue = (0.02 + index * GOLDEN) % 1.0
    lightness = (0.52, 0.38, 0.66, 0.45, 0.59)[shade % 5] + (0.0, 0.1, -0.1)[index // 8 % 3]
    red, green, blue = colorsys.hls_to_rgb((hue + 0.018 * (shade % 7)) % 1.0, lightness, 0.75)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_segmentation(
    image: Any,
    segmentation: Any,
    segments_info: Sequence[Mapping[str, Any]] | None = None,
    labels: Mapping[int, str] | Sequence[str] | None = None,
    *,
    alpha: float = 0.55,
    ignore: Collection[int] = (-1, 255),
) -> Image.Image:
    """Draw a segmentation over its photo.

    Args:
        image: PIL image, or an array or tensor `(h, w, 3)` of 0..255.
        segmentation: `(h, w)` whole numbers, an array or tensor: a class for every pixel, or with `segments_info` the id of a
            segment, as `post_process_*_segmentation` returns them.
        segments_info: What the segments are: dictionaries with `id`, `label_id` and perhaps `score`. Pixels of other ids
            stay as they are.
        labels: Class index to name, for the names drawn.
        alpha: How much of the colour shows, 0..1.
        ignore: Classes that are not drawn, where there is no `segments_info`.

    Returns:
        A picture of the size of the photo.

    Raises:
        ValueError: segmentation and photo differ in size, its values are no whole numbers, or `alpha` is not within 0..1.
    """
    photo = _as_image(image)
    ids = np.asarray(segmentation.cpu() if hasattr(segmentation, "cpu") else segmentation)
    if ids.shape != (photo.height, photo.width):
        raise ValueError(
            f"segmentation of shape {ids.shape} does not fit an image of {photo.height} x {photo.width} pixels (height x width); "
            f"pass target_sizes=[(height, width)] of the image to the post-processing."
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha!r} must be between 0 (the photo alone) and 1 (the colours alone).")
    if ids.dtype.kind == "f" and not np.equal(ids, np.trunc(ids)).all():
        raise ValueError(
            "segmentation holds values that are no whole numbers; it is a map of classes or ids, not of scores."
        )
    ids = ids.astype(np.int64)
    segments = _of_classes(ids, ignore) if segments_info is None else _of_info(segments_info)
    colours, drawn = _colour_table(ids, segments)
    pixels = np.asarray(photo, np.float32)
    blended = pixels + drawn[..., None] * alpha * (colours - pixels)
    blended[_outlines(ids) & drawn] *= 0.35
    picture = Image.fromarray(blended.round().astype(np.uint8))
    if labels is not None:
        _write_names(picture, ids, segments, labels)
    return picture


def _as_image(image: Any) -> Image.Image:
    if not isinstance(image, Image.Image):
        array = np.asarray(image.cpu() if hasattr(image, "cpu") else image)
        if array.ndim != 3 or array.shape[-1] != 3 or array.dtype != np.uint8:
            raise ValueError(
                f"image of shape {array.shape} and dtype {array.dtype} must be (height, width, 3) of uint8, or a PIL image."
            )
        image = Image.fromarray(array)
    return image.convert("RGB")


def _of_classes(ids: Array, ignore: Collection[int]) -> list[tuple[int, int, int]]:
    return [(int(index), int(index), 0) for index in np.unique(ids) if int(index) not in ignore]


def _of_info(segments_info: Sequence[Mapping[str, Any]]) -> list[tuple[int, int, int]]:
    """Id, class and number within the class, of each segment."""
    seen: dict[int, int] = {}
    segments = []
    for info in segments_info:
        if missing := {"id", "label_id"} - info.keys():
            raise ValueError(f"segments_info has an entry without {listing(sorted(missing))}: {dict(info)}.")
        shade = seen.setdefault(info["label_id"], 0)
        seen[info["label_id"]] += 1
        segments.append((int(info["id"]), int(info["label_id"]), shade))
    return segments


def _colour_table(ids: Array, segments: Sequence[tuple[int, int, int]]) -> tuple[Array, npt.NDArray[np.bool_]]:
    """A colour for every pixel `(h, w, 3)`, and which pixels have one."""
    values, places = np.unique(ids, return_inverse=True)
    known = {number: palette_colour(label, shade) for number, label, shade in segments}
    table = np.array([known.get(int(value), (0, 0, 0)) for value in values], np.float32)
    has = np.array([int(value) in known for value in values])
    return table[places.reshape(ids.shape)], has[places.reshape(ids.shape)]


def _outlines(ids: Array) -> npt.NDArray[np.bool_]:
    """Pixels whose right or lower neighbour belongs to another segment."""
    edge = np.zeros(ids.shape, bool)
    edge[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    edge[:-1] |= ids[:-1] != ids[1:]
    return edge


def _write_names(
    picture: Image.Image,
    ids: Array,
    segments: Sequence[tuple[int, int, int]],
    labels: Mapping[int, str] | Sequence[str],
) -> None:
    """Write the name of each segment where it is thickest; thin ones have no room for a name."""
    names = labels if isinstance(labels, Mapping) else dict(enumerate(labels))
    draw = ImageDraw.Draw(picture)
    step = max(1, max(ids.shape) // 256)
    values, places = np.unique(ids[::step, ::step], return_inverse=True)
    places = places.reshape(ids[::step, ::step].shape) + 1
    boxes = dict(zip(values.tolist(), find_objects(places), strict=True))
    indices = {value: index for index, value in enumerate(values.tolist(), start=1)}
    font = ImageFont.load_default(max(11, round(max(ids.shape) / 45)))
    for number, label, _ in segments:
        found = boxes.get(number)
        if found is None or (min(places[found].shape) + 1) * step < LEAST_WIDTH:
            continue
        depth = distance_transform_edt(np.pad(places[found] == indices[number], 1))
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        if 2 * depth[row, column] * step < LEAST_WIDTH:
            continue
        centre = ((found[1].start + int(column) - 1) * step, (found[0].start + int(row) - 1) * step)
        text = names.get(label, str(label))
        left, top, right, bottom = draw.textbbox(centre, text, font=font, anchor="mm")
        right_by = max(0, -left) - max(0, right - picture.width)
        down_by = max(0, -top) - max(0, bottom - picture.height)
        box = (left + right_by - 3, top + down_by - 2, right + right_by + 3, bottom + down_by + 2)
        draw.rounded_rectangle(box, 3, fill=PAPER)
        draw.text((centre[0] + right_by, centre[1] + down_by), text, fill=INK, font=font, anchor="mm")
