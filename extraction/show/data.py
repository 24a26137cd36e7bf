"""What the page of a store shows, as JSON holds it."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vertebra.errors import did_you_mean, listing
from vertebra.extraction.pictures import cell_colours
from vertebra.extraction.shard_file import Size
from vertebra.extraction.show.images import Viewer
from vertebra.extraction.show.level import (
    BINS,
    DEVIATIONS,
    QUERIES,
    Norms,
    box,
    cells_of,
    measure_norms,
    pack,
    pooled,
)
from vertebra.stages import Stage, stride_text

if TYPE_CHECKING:
    from vertebra.extraction.store.feature_store import FeatureStore

ROOM = 12 * 2**20
"""Bytes that vectors and colours of all levels may take; as text they take a third more."""
COLOURS = 3
"""Bytes of the colour of a cell."""
FITTED = 2**14
"""Cells, about, that decide on the colours of a level."""
ROWS = 1000
"""Images in quarantine that are listed."""
TEXT = 1000
"""Characters of an id or a reason that are shown."""


def page_data(store: FeatureStore, name: str, images: int, levels: Sequence[str] | None) -> dict[str, Any]:
    """Collect what a page shows: facts, quarantine, and the maps of images taken evenly from the whole store.

    Args:
        store: What is shown.
        name: What the store is called.
        images: How many images are read.
        levels: Names of the levels; None takes all.

    Raises:
        ValueError: a level that is not stored, less than one image, or too much for one page.
    """
    if images < 1:
        raise ValueError(f"images={images} must be at least 1.")
    rows = sample(len(store), images)
    chosen = chosen_levels(store, levels)
    return {
        "name": name,
        "facts": facts(store),
        "levels": _levels(store, rows, chosen),
        "images": _images(store, rows),
        "quarantine": {
            "total": len(store.quarantine),
            "rows": [
                [cut(id_), failure.stage, cut(failure.error), failure.tries]
                for id_, failure in list(store.quarantine.items())[:ROWS]
            ],
        },
    }


def sample(length: int, wanted: int) -> list[int]:
    """Rows taken evenly from the whole, the first and the last included."""
    if wanted == 1:
        return [0] if length else []
    return sorted({round(index * (length - 1) / (wanted - 1)) for index in range(wanted)}) if length else []


def chosen_levels(store: FeatureStore, levels: Sequence[str] | None) -> list[str]:
    """The names of the levels that are shown.

    Raises:
        ValueError: one that is not stored.
    """
    for level in levels or ():
        if level not in store.levels:
            raise ValueError(
                f"There is no level {level!r}.{did_you_mean(level, store.levels)} Stored are {listing(store.levels)}."
            )
    return [level for level in store.levels if levels is None or level in levels]


def facts(store: FeatureStore) -> dict[str, Any]:
    """What the store is: numbers, what decides its values, and the circumstances."""
    shown = ("model_id", "source", "batch_size", "device", "channels_last", "versions")
    return {
        "fingerprint": store.fingerprint,
        "images": len(store),
        "missing": store.missing,
        "meaning": store.meaning,
        "record": {key: store.record[key] for key in shown if key in store.record},
    }


def cut(text: str) -> str:
    """A text that is not too long for a page; the middle is left out."""
    return text if len(text) <= TEXT else f"{text[: TEXT // 2]} … {text[-TEXT // 2 :]}"


def _images(store: FeatureStore, rows: Sequence[int]) -> list[dict[str, Any]]:
    viewer = Viewer(store.meaning, len(rows))
    shown = []
    for row in rows:
        id_, size, original = store.ids[row], store.place(row).size, store.image_size(row)
        picture, reason = viewer.picture(id_, store.uri(row), original, size)
        shown.append({"id": cut(id_), "picture": picture, "reason": cut(reason), "size": size, "original": original})
    return shown


def _levels(store: FeatureStore, rows: Sequence[int], levels: Sequence[str]) -> list[dict[str, Any]]:
    """The levels in their order; those that need least are packed first, and leave the others what they do not need."""
    if not rows:
        return []
    sizes = [store.place(row).size for row in rows]
    one_of_each = dict(zip(sizes, rows, strict=True))
    numbers = {level: {size: store[level][row].numel() for size, row in one_of_each.items()} for level in levels}
    needs = {level: sum(numbers[level][size] for size in sizes) for level in levels}
    found: dict[str, dict[str, Any]] = {}
    room = ROOM
    for count, level in enumerate(sorted(levels, key=needs.__getitem__)):
        maps = [store[level][row].float() for row in rows]
        try:
            found[level] = _level(level, store.levels[level], maps, sizes, room // (len(levels) - count))
        except ValueError as error:
            raise ValueError(
                f"{len(rows)} images of {len(levels)} levels are too much for one page: {error}. Take fewer images or levels."
            ) from error
        room -= found[level]["bytes"]
    return [found[level] for level in levels]


def _level(name: str, stage: Stage | None, maps: list[Tensor], sizes: Sequence[Size], room: int) -> dict[str, Any]:
    lengths = [torch.linalg.vector_norm(level, dim=0) for level in maps]
    norms = measure_norms(lengths)
    packed = pack(maps, room, extra=COLOURS)
    small = [pooled(level, packed.block) for level in maps]
    stored = [_grid(level) for level in maps]
    return {
        "name": name,
        "channels": len(maps[0]),
        "stride": None if stage is None else stride_text(stage.stride),
        "placed": stage is None or stage.offset is not None,
        "whole": all(grid == (1, 1) for grid in stored),
        "stored": stored,
        "grids": [_grid(level) for level in small],
        "boxes": [box(stage, grid, packed.block, size) for grid, size in zip(stored, sizes, strict=True)],
        "block": packed.block,
        "directions": int(packed.axes.max()) + 1,
        "kept": packed.kept,
        "largest_error": packed.largest_error,
        "mean_error": packed.mean_error,
        "queries": min(QUERIES, len(packed.codes)),
        "steps": packed.steps.tolist(),
        "axes": packed.axes.tolist(),
        "codes": _base64(packed.codes),
        "bytes": packed.codes.numel() + COLOURS * len(packed.codes),
        "colours": _base64(_colours(small, norms)),
        "norms": {**vars(norms), "bins": BINS, "deviations": DEVIATIONS},
    }


def _colours(maps: Sequence[Tensor], norms: Norms) -> Tensor:
    """Colours of the cells of all maps, `(n, 3)` bytes; outliers, of which a few would take all colours, do not decide."""
    cells = torch.cat([cells_of(level) for level in maps])
    cells = torch.where(cells.isfinite(), cells, 0.0)
    usual = cells[torch.linalg.vector_norm(cells, dim=1) <= norms.high]
    fitted = usual if len(usual) else cells
    return (cell_colours(cells, fitted[:: -(-len(fitted) // FITTED)]) * 255).round().to(torch.uint8)


def _grid(level: Tensor) -> Size:
    return int(level.shape[1]), int(level.shape[2])


def _base64(values: Tensor) -> str:
    return base64.b64encode(values.contiguous().numpy().tobytes()).decode()


def store_name(out: str | os.PathLike[str]) -> str:
    """The last part of a path or uri, for the name of the page."""
    return os.fspath(out).replace("\\", "/").rstrip("/").rpartition("/")[2].strip(".") or "features"
