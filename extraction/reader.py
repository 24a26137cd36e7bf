"""Reading stored features: by id, only the rows asked for, straight from the mapped files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from vertebra.errors import did_you_mean
from vertebra.extraction.ledger import Ledger
from vertebra.extraction.plan import open_plans
from vertebra.extraction.shard_file import Size, read_metadata, shard_name, tensor_name
from vertebra.stages import Stage


class Place(NamedTuple):
    """Where the maps of an image are: the shard, the row, and the `(height, width)` at which it was processed."""

    shard: int
    row: int
    size: Size


class Features(Mapping[str, dict[str, Tensor]]):
    """Stored features: `features["cats/one.jpg"]` is `{level: (c, h, w)}`.

    Args:
        folder: A folder that `extract` wrote, or is writing: what is on disk when it is opened can be read.

    Attributes:
        index: What the values are: model, levels, preprocessing, dtype.
        levels: Level name to `Stage` (channels, stride, offset); None for the stage of maps that stand for whole images.
        failed: Id to reason, of the images that have no features.
        missing: How many images are planned and not computed yet.

    Raises:
        OSError: the folder does not exist or holds no features.
        ValueError: its plan is of another format.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).expanduser()
        plans = open_plans(self.folder)
        if not plans:
            raise FileNotFoundError(
                f"{str(self.folder)!r} holds no features: it has no plan. `vertebra extract SRC OUT --model M` makes one."
            )
        self.index: Mapping[str, Any] = plans[0].meaning
        self.levels = {level["name"]: _stage(level) for level in self.index["levels"]}
        ledger = Ledger(plans)
        self.failed = {id_: failure.error for id_, failure in sorted(ledger.failed.items())}
        self.missing = sum(plan.size_of(shard) for plan in plans for shard in ledger.missing(plan))
        self._places = {id_: place for shard in sorted(ledger.done) for id_, place in self._rows(shard)}
        self._plans = {shard: plan.digest for plan in plans for shard in plan.shards}
        self._files: dict[int, Any] = {}
        self._names: dict[int, set[str]] = {}

    @property
    def ids(self) -> list[str]:
        """Ids of all images that have features, sorted."""
        return sorted(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __getitem__(self, id_: str) -> dict[str, Tensor]:
        place = self.place(id_)
        return {level: self._read(place, level) for level in self.levels}

    def read(self, id_: str, level: str) -> Tensor:
        """Return one level of one image, `(c, h, w)`.

        Raises:
            KeyError: there is no such image or level; names the nearest, or why the image failed.
        """
        if level not in self.levels:
            raise KeyError(
                f"There is no level {level!r}.{did_you_mean(level, self.levels)} Stored are {', '.join(self.levels)}."
            )
        return self._read(self.place(id_), level)

    def place(self, id_: str) -> Place:
        """Where an image's maps are, and the `(height, width)` in pixels at which it was processed. Raises KeyError."""
        if id_ in self.failed:
            raise KeyError(f"{id_!r} has no features, its extraction failed: {self.failed[id_]}")
        if id_ not in self._places:
            later = f" {self.missing} more are still to be computed." if self.missing else ""
            raise KeyError(
                f"There is no image {id_!r}.{did_you_mean(id_, self._places)} {len(self)} images are "
                f"stored; .ids lists them.{later}"
            )
        return self._places[id_]

    def _rows(self, shard: int) -> Iterator[tuple[str, Place]]:
        header = read_metadata(self.folder / shard_name(shard))
        for name, ids in header.items():
            kind, _, size = name.partition("@")
            if kind == "ids":
                height, width = map(int, (size or header.get("size", "0x0")).split("x"))
                yield from ((id_, Place(shard, row, (height, width))) for row, id_ in enumerate(json.loads(ids)))

    def _read(self, place: Place, level: str) -> Tensor:
        file = self._open(place.shard)
        name = level if level in self._names[place.shard] else tensor_name(level, place.size)
        row: Tensor = file.get_slice(name)[place.row]
        return row

    def _open(self, shard: int) -> Any:
        if shard not in self._files:
            path = self.folder / shard_name(shard)
            try:
                file: Any = safe_open(path, framework="pt")
            except (SafetensorError, FileNotFoundError) as error:
                raise OSError(f"The shard {str(path)!r} is damaged or missing ({error}); extract again.") from error
            if (file.metadata() or {}).get("plan") != self._plans[shard]:
                raise ValueError(f"The shard {str(path)!r} is not of this store's plan; extract again.")
            self._files[shard] = file
            self._names[shard] = set(file.keys())
        return self._files[shard]


def load_features(folder: str | os.PathLike[str]) -> Features:
    """Open a folder that `extract` (or `vertebra extract`) wrote.

    Raises:
        OSError: the folder does not exist or holds no features.
        ValueError: its plan is of another format.
    """
    return Features(folder)


def _stage(level: Mapping[str, Any]) -> Stage | None:
    def exact(pair: Any) -> Any:
        return None if pair is None else (Fraction(pair[0]), Fraction(pair[1]))

    if level["stride"] is None:
        return None
    return Stage(level["name"], level["index"], level["channels"], exact(level["stride"]), exact(level["offset"]))
