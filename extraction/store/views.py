"""Stored maps as datasets of torch: one level, or several levels with ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from vertebra.errors import listing
from vertebra.stages import Stage

if TYPE_CHECKING:
    from vertebra.extraction.store.feature_store import FeatureStore

Key = int | str
SHOWN = 3


class Block(NamedTuple):
    """Maps that lie one after the other on disk.

    Args:
        ids: Of the images.
        maps: `(n, c, h, w)`: the mapped file itself where that is local, else read.
    """

    ids: Sequence[str]
    maps: Tensor


class LevelView(Dataset[Tensor]):
    """One level of all images of a store: `view[17]` and `view["cats/one.jpg"]` are `(c, h, w)`.

    A row of a local store is a private mapping of the file: nothing is read before it is used, and writing to it changes no
    file. It keeps the whole shard mapped, and `torch.save` would save all of that: clone what you keep. In the workers of a
    `DataLoader` rows are copies.

    Args:
        store: The store.
        level: Name of the level.
    """

    def __init__(self, store: FeatureStore, level: str) -> None:
        self.store, self.level = store, level

    @property
    def ids(self) -> Sequence[str]:
        """Ids of the rows."""
        return self.store.ids

    @property
    def stage(self) -> Stage | None:
        """Channels, stride and offset; None for maps that stand for whole images."""
        return self.store.levels[self.level]

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, key: Key) -> Tensor:
        """Return the map of an image, by its row or id. Raises what `FeatureStore.row` does, and OSError for a damaged shard."""
        shard, row, size = self.store.place(key)
        map_ = self.store.shard(shard).map(self.level, size, row)
        return map_ if get_worker_info() is None else map_.clone()  # else the whole file would go to the other process

    def __iter__(self) -> Iterator[Tensor]:
        return map(self.__getitem__, range(len(self)))

    def gather(self, keys: Sequence[Key] | Tensor | np.ndarray[Any, Any]) -> Tensor:
        """Return several maps, `(n, c, h, w)`, copied; in the order asked for, and read in that of the disk.

        Args:
            keys: Rows or ids; one may be there several times.

        Raises:
            ValueError: the maps differ in size.
            KeyError, IndexError: there is no such image.
        """
        rows = self.store.rows(keys)
        if not len(rows):
            raise ValueError("There is nothing to gather; give rows or ids.")
        order = np.argsort(rows, kind="stable").tolist()
        first = self[int(rows[order[0]])]
        out = torch.empty((len(rows), *first.shape), dtype=first.dtype)
        for position in order:
            map_ = self[int(rows[position])]
            if map_.shape != first.shape:
                raise ValueError(self._differ(rows))
            out[position] = map_
        return out

    def _differ(self, rows: np.ndarray[Any, Any]) -> str:
        sizes = {self.store.place(row).size: self.store.ids[row] for row in rows.tolist()}
        found = listing([f"{size[0]}x{size[1]} ({id_!r})" for size, id_ in sizes.items()], SHOWN)
        return (
            f"The maps of {self.level} differ in size, so they are no single tensor: their images were processed at {found}. "
            f"Gather those of one size together (store.place(id).size), take view[id] one by one, or extract with a fixed size."
        )

    def blocks(self) -> Iterator[Block]:
        """All maps in the order of the disk, in the pieces in which they lie there: the fastest way to read a whole level."""
        for run in self.store.runs():
            yield Block(self.store.ids_of(run), self.store.shard(run.shard).run(self.level, run))

    def __repr__(self) -> str:
        return f"<LevelView {self.level!r} of {len(self)} images in {str(self.store.storage)!r}>"


class FeatureDataset(Dataset[dict[str, Any]]):
    """Several levels of images with their ids: an item is `{"id": id, level: (c, h, w) tensor}`.

    It can be sent to the workers of a `DataLoader`, which open the files for themselves, and whose batches are read in the order
    of the disk.

    Args:
        store: The store.
        levels: Names of levels.
        rows: Rows of the store, in the order of the dataset.
    """

    def __init__(self, store: FeatureStore, levels: Sequence[str], rows: np.ndarray[Any, Any]) -> None:
        self.store, self.rows = store, rows
        self.views = {level: store[level] for level in levels}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = int(self.rows[index])
        return {"id": self.store.ids[row], **{level: view[row] for level, view in self.views.items()}}

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """Items of a batch."""
        items = {index: self[index] for index in sorted(set(indices), key=self.rows.__getitem__)}
        return [items[index] for index in indices]
