"""Reading stored features: by id, only the rows asked for, straight from the mapped files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from vertebra.errors import did_you_mean
from vertebra.extraction.job import FORMAT, INDEX_NAME
from vertebra.extraction.shards import Place, tensor_name
from vertebra.hub import read_json
from vertebra.stages import Stage


class Features(Mapping[str, dict[str, Tensor]]):
    """Stored features: `features["cats/one.jpg"]` is `{level: (c, h, w)}`.

    Args:
        folder: A folder that `extract` wrote.

    Attributes:
        index: The content of `index.json`: model, levels, preprocessing, dtype, versions.
        levels: Level name to `Stage` (channels, stride, offset).
        failed: Id to reason, of the images that have no features.

    Raises:
        OSError: the folder does not exist or holds no complete extraction.
        ValueError: its index is damaged or of another format.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).expanduser()
        path = self.folder / INDEX_NAME
        if not path.is_file():
            raise FileNotFoundError(
                f"{str(self.folder)!r} holds no complete extraction: it has no {INDEX_NAME}. "
                f"`vertebra extract SRC OUT --model M` makes one."
            )
        self.index = read_json(path)
        if self.index.get("format") != FORMAT:
            raise ValueError(
                f"{str(path)!r} has format {self.index.get('format')!r}; this version of vertebra reads {FORMAT}."
            )
        self.levels = {level["name"]: _stage(level) for level in self.index["levels"]}
        self.failed: dict[str, str] = self.index["failed"]
        self._places = {
            id_: Place(at["shard"], at["row"], tuple(at["size"])) for id_, at in self.index["images"].items()
        }
        self._files: dict[int, Any] = {}
        self._names: dict[int, set[str]] = {}

    @property
    def ids(self) -> list[str]:
        """Ids of all images that have features, sorted."""
        return list(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

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
            raise KeyError(
                f"There is no image {id_!r}.{did_you_mean(id_, self._places)} {len(self)} images are "
                f"stored; .ids lists them."
            )
        return self._places[id_]

    def _read(self, place: Place, level: str) -> Tensor:
        file = self._open(place.shard)
        name = level if level in self._names[place.shard] else tensor_name(level, place.size)
        row: Tensor = file.get_slice(name)[place.row]
        return row

    def _open(self, shard: int) -> Any:
        if shard not in self._files:
            path = self.folder / self.index["shards"][shard]
            try:
                file: Any = safe_open(path, framework="pt")
            except (SafetensorError, FileNotFoundError) as error:
                raise OSError(f"The shard {str(path)!r} is damaged or missing ({error}); extract again.") from error
            if (file.metadata() or {}).get("job") != self.index["job"]:
                raise ValueError(f"The shard {str(path)!r} is of another job than {INDEX_NAME}; extract again.")
            self._files[shard] = file
            self._names[shard] = set(file.keys())
        return self._files[shard]


def load_features(folder: str | os.PathLike[str]) -> Features:
    """Open a folder that `extract` (or `vertebra extract`) wrote.

    Raises:
        OSError: the folder does not exist or holds no complete extraction.
        ValueError: its index is damaged or of another format.
    """
    return Features(folder)


def _stage(level: Mapping[str, Any]) -> Stage:
    def exact(pair: Any) -> Any:
        return None if pair is None else (Fraction(pair[0]), Fraction(pair[1]))

    stride, offset = exact(level["stride"]), exact(level["offset"])
    return Stage(level["name"], level["index"], level["channels"], stride, offset)
