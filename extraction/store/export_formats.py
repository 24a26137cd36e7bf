"""How each format of an export is written, with nothing larger in memory than one shard's tensor of one level."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vertebra.errors import listing
from vertebra.extraction.store.rows import Run

if TYPE_CHECKING:
    from vertebra.extraction.store.feature_store import FeatureStore

Advance = Callable[[int], Any]
BLOCK = 2**26
"""Bytes that are converted at once."""


def write_webdataset(store: FeatureStore, levels: Sequence[str], folder: Path, advance: Advance) -> None:
    """One tar file a shard. Keys are rows of the store in nine digits: ids may hold dots and slashes, which keys may not."""
    for shard, runs in groupby(store.runs(), lambda run: run.shard):
        with tarfile.open(folder / f"{shard:06d}.tar", "w") as tar:
            for run in runs:
                levels_of_run = {level: store.shard(shard).run(level, run) for level in levels}
                for row in range(run.start, run.stop):
                    facts = {"id": store.ids[row], "size": run.size, "original": store.image_size(row)}
                    _add(tar, f"{row:09d}.json", json.dumps(facts).encode())
                    for level, maps in levels_of_run.items():
                        _add(tar, f"{row:09d}.{level}.npy", _npy(maps[row - run.start]))
                    advance(1)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def _npy(map_: Tensor) -> bytes:
    content = io.BytesIO()
    np.lib.format.write_array(content, array(map_), version=(1, 0))
    return content.getvalue()


def write_npy(store: FeatureStore, levels: Sequence[str], folder: Path, advance: Advance) -> None:
    """One array a level, or one a level and size where images were processed at several, with the ids of its rows."""
    sizes = {
        size: [run for run in store.runs() if run.size == size] for size in {run.size: None for run in store.runs()}
    }
    for size, runs in sizes.items():
        ending = f"@{size[0]}x{size[1]}" if len(sizes) > 1 else ""
        ids = [id_ for run in runs for id_ in store.ids[run.start : run.stop]]
        (folder / f"ids{ending}.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
        for level in levels:
            with (folder / f"{level.replace('/', '_')}{ending}.npy").open("wb") as file:
                for run in runs:
                    for maps in pieces(store, level, run):
                        if not file.tell():
                            header = {
                                "descr": maps.dtype.str,
                                "fortran_order": False,
                                "shape": (len(ids), *maps.shape[1:]),
                            }
                            np.lib.format.write_array_header_1_0(file, header)
                        file.write(maps.data)
        advance(len(ids))


def write_parquet(store: FeatureStore, levels: Sequence[str], folder: Path, advance: Advance) -> None:
    """One file a shard with the column `id` and a column of tensors for each level."""
    import pyarrow as pa
    from pyarrow import parquet

    sizes = {run.size: None for run in store.runs()}
    if len(sizes) > 1:
        found = listing([f"{height}x{width}" for height, width in sizes], 5)
        raise ValueError(
            f"A column of Parquet holds tensors of one shape, and images were processed at {found} pixels; take the format "
            f"webdataset or npy."
        )
    for run in store.runs():
        columns: dict[str, Any] = {"id": pa.array(store.ids[run.start : run.stop], pa.large_string())}
        for level in levels:
            maps = np.concatenate(list(pieces(store, level, run)))
            columns[level] = pa.FixedShapeTensorArray.from_numpy_ndarray(maps)
        parquet.write_table(pa.table(columns), folder / f"{run.start:09d}.parquet", compression="zstd")
        advance(run.stop - run.start)


def pieces(store: FeatureStore, level: str, run: Run) -> Iterator[np.ndarray[Any, Any]]:
    """The maps of a run, `(n, c, h, w)`, some at a time."""
    maps = store.shard(run.shard).run(level, run)
    step = max(1, BLOCK // max(1, maps[0].nbytes))
    for start in range(0, len(maps), step):
        yield array(maps[start : start + step])


def array(maps: Tensor) -> np.ndarray[Any, Any]:
    """Maps as NumPy has them; bfloat16 is widened to float32, in which every value stays what it is."""
    return (maps.float() if maps.dtype == torch.bfloat16 else maps).numpy()
