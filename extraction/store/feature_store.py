"""Reading stored features: by id or row, one level or all, straight from the mapped files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from vertebra.errors import did_you_mean, listing
from vertebra.extraction.ledger import RETRY
from vertebra.extraction.plan import Out, Plan, existing_plans
from vertebra.extraction.shard_file import Failure, shard_name
from vertebra.extraction.storage import open_storage
from vertebra.extraction.store.manifest import build_manifest, load_manifest, save_manifest
from vertebra.extraction.store.rows import Ids, Place, Rows, Run
from vertebra.extraction.store.shard_reader import ShardReader
from vertebra.extraction.store.views import FeatureDataset, Key, LevelView
from vertebra.stages import Stage

if TYPE_CHECKING:
    from vertebra.extraction.store.findings import Report
    from vertebra.extraction.store.status import Status

OPEN_SHARDS = 4096
"""Shards that stay open; systems allow some 65,000 mappings."""


class FeatureStore:
    """Features that `extract` has stored, or is storing: what is on disk when it is opened can be read.

    `store["layer3"]` is one level of all images, `store["layer3"]["cats/one.jpg"]` one map; `store.read("cats/one.jpg")` gives all
    levels of an image. Maps are `(c, h, w)` tensors, mapped from the file where that is local. Images are numbered as they lie on
    disk, `0` to `len(store) - 1`; methods take such a row or an id.

    It can be sent to other processes, which read the very same rows.

    Args:
        out: The folder, or a uri such as `s3://bucket/features`; see `extract`.

    Attributes:
        storage: Where it is.
        plans: Its plans, oldest first.
        levels: Level name to `Stage` (channels, stride, offset); None for the stage of maps that stand for whole images.
        ids: Ids of the rows; only of images that have maps.

    Raises:
        OSError: the folder does not exist or holds no features; a plan is damaged.
        ValueError: a plan is of another format.
        FileExistsError: a file in the place of a shard is of another plan.
    """

    def __init__(self, out: Out) -> None:
        self.storage = open_storage(out)
        self.plans = existing_plans(self.storage)
        self.levels = {level["name"]: _stage(level) for level in self.meaning["levels"]}
        self._manifest = load_manifest(self.plans)
        self._open()

    def _open(self) -> None:
        self._rows = Rows(self._manifest.records.images)
        self.ids: Sequence[str] = Ids(self._rows)
        self._shards: dict[int, ShardReader] = {}

    # What it is

    @property
    def meaning(self) -> Mapping[str, Any]:
        """What the values are: model, levels, preprocessing, dtype."""
        return self.plans[0].meaning

    @property
    def record(self) -> Mapping[str, Any]:
        """How they were computed, first of all: model id, recipe, versions, batch size, device, source."""
        return self.plans[0].record

    @property
    def fingerprint(self) -> str:
        """SHA-256 of `meaning`: equal for stores of the same job."""
        return self.plans[0].fingerprint

    @cached_property
    def quarantine(self) -> dict[str, Failure]:
        """Why images have no maps, by id."""
        columns = self._manifest.records.failures.to_pydict()
        failures = map(Failure, columns["stage"], columns["error"], columns["tries"])
        return dict(zip(columns["id"], failures, strict=True))

    @property
    def missing(self) -> int:
        """How many images are planned and not computed yet."""
        planned = sum(plan.ids for plan in self.plans if plan.record.get("kind") != RETRY)
        return planned - len(self._manifest.records.images)

    # Images

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, id_: object) -> bool:
        return id_ in self.ids

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def row(self, key: Key) -> int:
        """Return the row of an id, or a row itself, counted from the end where it is negative.

        Raises:
            KeyError: there is no such image; names the nearest, or why it failed.
            IndexError: there are not so many rows.
            TypeError: it is neither a row nor an id.
        """
        if isinstance(key, str):
            return self._find(key)
        try:
            row = None if isinstance(key, bool) else index(key)  # True is no row 1: masks are not rows
        except TypeError:
            row = None
        if row is None:
            raise TypeError(
                f"{key!r} is neither a row (a whole number) nor an id (text). Several at once: store[level].gather([…])."
            )
        if not -len(self) <= row < len(self):
            raise IndexError(f"There is no row {row}; the store has {len(self)} images with maps.")
        return row % len(self)

    def rows(self, keys: Sequence[Key] | Tensor | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Rows of several images, `(n,)` int64. Raises what `row` does."""
        given = keys.tolist() if isinstance(keys, (Tensor, np.ndarray)) else [keys] if isinstance(keys, str) else keys
        return np.fromiter(map(self.row, given), np.int64, len(given))

    def place(self, key: Key) -> Place:
        """Where the maps of an image are: `(shard, row, (height, width) at which it was processed)`. Raises what `row` does."""
        return self._rows.place(self.row(key))

    def image_size(self, key: Key) -> tuple[int, int]:
        """`(height, width)` in pixels of the original image. Raises what `row` does."""
        images, entry = self._manifest.records.images, int(self._rows.order[self.row(key)])
        return images["height"][entry].as_py(), images["width"][entry].as_py()

    def uri(self, key: Key) -> str:
        """Where an image came from, also of one in quarantine. Raises what `row` does."""
        import pyarrow.compute as pc

        name = key if isinstance(key, str) else self.ids[self.row(key)]
        failures = self._manifest.records.failures
        failed = pc.index(failures["id"], name).as_py()
        shard = failures["shard"][failed].as_py() if failed >= 0 else self.place(name).shard
        return next(image.uri for image in self._owner(shard).ids_of(shard) if image.id == name)

    def _find(self, id_: str) -> int:
        try:
            row = self._rows.find(id_)
        except KeyError:
            later = f" {self.missing} more are still to be computed." if self.missing else ""
            raise KeyError(
                f"There is no image {id_!r}.{did_you_mean(id_, self._rows.near(id_))} {len(self)} images are stored; .ids "
                f"lists them.{later}"
            ) from None
        if row < 0:
            failure = self.quarantine[id_]
            raise KeyError(f"{id_!r} has no features, its extraction failed ({failure.stage}): {failure.error}")
        return row

    # Maps

    def __getitem__(self, level: str) -> LevelView:
        """Return one level of all images.

        Raises:
            KeyError: there is no such level; names the nearest.
        """
        if level not in self.levels:
            hint = f" {level!r} is an image: store.read({level!r})." if level in self.ids else ""
            raise KeyError(
                f"There is no level {level!r}.{did_you_mean(str(level), self.levels)}{hint} Stored are "
                f"{listing(self.levels)}."
            )
        return LevelView(self, level)

    def read(self, key: Key, levels: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Return the maps of an image by level, `(c, h, w)` each.

        Args:
            key: Row or id.
            levels: Names; None: all.

        Raises:
            KeyError, IndexError: there is no such image or level; names the nearest, or why the image failed.
            OSError: its shard is damaged.
        """
        return {level: self[level][key] for level in (self.levels if levels is None else levels)}

    def dataset(self, levels: Sequence[str] | None = None, keys: Sequence[Key] | None = None) -> FeatureDataset:
        """A dataset for `torch.utils.data.DataLoader`, with items `{"id": id, level: (c, h, w) tensor}`.

        Args:
            levels: Names; None: all.
            keys: Rows or ids, in the order of the dataset; None: all images, in the order of the disk.

        Raises:
            KeyError, IndexError: there is no such level or image.
        """
        rows = np.arange(len(self)) if keys is None else self.rows(keys)
        return FeatureDataset(self, list(self.levels) if levels is None else list(levels), rows)

    def runs(self) -> Iterator[Run]:
        """The rows in the pieces in which they lie on disk, each in one tensor of one shard."""
        return self._rows.runs()

    def ids_of(self, run: Run) -> Sequence[str]:
        """Ids of the rows of a run."""
        return Ids(self._rows, range(run.start, run.stop))

    def shard(self, number: int) -> ShardReader:
        """A shard, opened to be read.

        Raises:
            OSError: it is damaged, missing or not of this store.
        """
        reader = self._shards.get(number)
        if reader is None:
            reader = self._shards[number] = ShardReader(self._owner(number), number)
            while len(self._shards) > OPEN_SHARDS:
                del self._shards[next(iter(self._shards))]
        return reader

    def _owner(self, shard: int) -> Plan:
        for plan in self.plans:
            if shard in plan.shards:
                return plan
        raise ValueError(f"No plan of {str(self.storage)!r} has the shard {shard_name(shard)}.")

    # The store as a whole

    def index(self) -> int:
        """Make `manifest.parquet` and `quarantine.parquet` anew from the headers of all shards; returns how many images they list.

        Raises:
            OSError: the store cannot be written.
        """
        return len(save_manifest(self.plans, build_manifest(self.plans)).records.images)

    def status(self) -> Status:
        """What is planned, done and missing now; see `vertebra.extraction.store.status`."""
        from vertebra.extraction.store.status import status

        return status(self.storage)

    def verify(self) -> Report:
        """Check every shard against its plan and its checksum; see `vertebra.extraction.store.verify.verify_store`."""
        from vertebra.extraction.store.verify import verify_store

        return verify_store(self.storage)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_rows", "ids", "_shards")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __repr__(self) -> str:
        return f"<FeatureStore {str(self.storage)!r}: {len(self)} images, {listing(self.levels)}>"


def _stage(level: Mapping[str, Any]) -> Stage | None:
    def exact(pair: Any) -> Any:
        return None if pair is None else (Fraction(pair[0]), Fraction(pair[1]))

    if level["stride"] is None:
        return None
    return Stage(level["name"], level["index"], level["channels"], exact(level["stride"]), exact(level["offset"]))
