"""Ids to rows and back, in some tens of bytes an id: sorted text is searched, there is no Python object for each."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np

from vertebra.extraction.shard_file import Size
from vertebra.extraction.store.records import NO_ROW

if TYPE_CHECKING:
    import pyarrow as pa


class Place(NamedTuple):
    """Where the maps of an image are: the shard, the row in it, and the `(height, width)` at which it was processed."""

    shard: int
    row: int
    size: Size


class Run(NamedTuple):
    """Rows of a store, `start` to `stop`, that lie in one tensor of one shard from its row `row` on."""

    shard: int
    size: Size
    row: int
    start: int
    stop: int


class Rows:
    """The images of a store that have maps, numbered as they lie on disk: by shard, size and row in it.

    Args:
        images: `Records.images`.
    """

    def __init__(self, images: pa.Table) -> None:
        self._text = _SortedText(images["id"])
        words = images["size"].chunk(0) if len(images) else None
        self.sizes: list[Size] = [_size(text) for text in words.dictionary.to_pylist()] if words is not None else []
        codes = words.indices.fill_null(0).to_numpy() if words is not None else np.empty(0, np.int32)
        self._shard, self._row = images["shard"].to_numpy(), images["row"].to_numpy()
        self._code = codes.astype(np.int32)
        rank = np.argsort(np.argsort([size[0] * 2**32 + size[1] for size in self.sizes])) if self.sizes else codes
        shard_and_size = self._shard.astype(np.int64) * max(1, len(self.sizes)) + rank[codes]
        with_maps = np.flatnonzero(self._row != NO_ROW)
        self.order = with_maps[np.argsort(shard_and_size[with_maps] << 32 | self._row[with_maps], kind="stable")]
        """Row of the store to row of the table."""
        self._number = np.full(len(images), NO_ROW, np.int64)
        self._number[self.order] = np.arange(len(self.order))

    def __len__(self) -> int:
        return len(self.order)

    def find(self, id_: str) -> int:
        """Row of the store; -1 where the image has no maps.

        Raises:
            KeyError: there is no such image.
        """
        return int(self._number[self._text.index(id_)])

    def id(self, row: int) -> str:
        """Id of a row of the store."""
        return self._text.text(int(self.order[row]))

    def place(self, row: int) -> Place:
        """Where a row of the store is."""
        entry = self.order[row]
        return Place(int(self._shard[entry]), int(self._row[entry]), self.sizes[self._code[entry]])

    def runs(self) -> Iterator[Run]:
        """The store's rows in the pieces in which they lie on disk."""
        shards, codes, rows = self._shard[self.order], self._code[self.order], self._row[self.order]
        breaks = (np.diff(shards) != 0) | (np.diff(codes) != 0) | (np.diff(rows) != 1)
        edges = [0, *(np.flatnonzero(breaks) + 1).tolist(), len(self)] if len(self) else []
        for start, stop in pairwise(edges):
            yield Run(int(shards[start]), self.sizes[codes[start]], int(rows[start]), start, stop)

    def near(self, id_: str, count: int = 2000) -> list[str]:
        """Ids that stand beside where this one would, for suggestions."""
        start = max(0, self._text.place(id_) - count // 2)
        return [self._text.text(entry) for entry in range(start, min(start + count, len(self._text)))]


class Ids(Sequence[str]):
    """Ids of rows of a store, in order; made of bytes when one is asked for.

    Args:
        rows: All rows.
        span: Which of them; None: all.
    """

    def __init__(self, rows: Rows, span: range | None = None) -> None:
        self._rows = rows
        self._span = range(len(rows)) if span is None else span

    def __len__(self) -> int:
        return len(self._span)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        """The id of a row, or a list of those of several."""
        rows = self._span[row]
        return self._rows.id(rows) if isinstance(rows, int) else list(map(self._rows.id, rows))

    def __contains__(self, id_: object) -> bool:
        try:
            return isinstance(id_, str) and self._rows.find(id_) in self._span
        except KeyError:
            return False

    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:
        """Where an id stands, found by bisection. Raises ValueError where it does not."""
        if value in self:
            place = self._span.index(self._rows.find(value))
            if place in range(*slice(start, stop).indices(len(self))):
                return place
        raise ValueError(f"There is no image {value!r}.")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(str.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)  # another process has no use for all the others

    def __repr__(self) -> str:
        return f"<{len(self)} ids: {', '.join(map(repr, self[:3]))}{', …' if len(self) > 3 else ''}>"


class _SortedText(Sequence[bytes]):
    """A column of sorted texts, as the bytes that Arrow holds."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        array = column.combine_chunks()
        array = array.chunk(0) if hasattr(array, "chunk") else array
        _, starts, text = array.buffers() if len(array) else (None, None, None)
        offsets = np.frombuffer(starts, np.int64) if starts else np.zeros(1, np.int64)
        offsets = offsets[array.offset : array.offset + len(array) + 1]
        self._start = offsets.data  # indexed several times as fast as an array
        self._data = memoryview(text or b"")

    def __len__(self) -> int:
        return len(self._start) - 1

    def __getitem__(self, entry: Any) -> Any:
        return bytes(self._data[self._start[entry] : self._start[entry + 1]])

    def text(self, entry: int) -> str:
        return str(self._data[self._start[entry] : self._start[entry + 1]], "utf-8")

    def place(self, text: str) -> int:
        """Where a text stands, or would."""
        return bisect_left(self, text.encode("utf-8", "surrogatepass"))

    def index(self, text: str) -> int:  # type: ignore[override]
        entry = self.place(text)
        if entry == len(self) or self.text(entry) != text:
            raise KeyError(text)
        return entry


def _size(text: str) -> Size:
    height, _, width = text.partition("x")
    return int(height), int(width)
