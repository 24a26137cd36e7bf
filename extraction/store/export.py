"""A store in the formats of other tools: all of it or nothing, map by map, so that memory stays small."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import torch
from tqdm import tqdm

from vertebra.errors import did_you_mean, listing
from vertebra.extraction.leftovers import TEMPORARY, is_alive, own_prefix
from vertebra.extraction.store.export_formats import write_npy, write_parquet, write_webdataset
from vertebra.files import sync_folder

if TYPE_CHECKING:
    from vertebra.extraction.store.feature_store import FeatureStore

FORMATS: dict[str, Callable[[FeatureStore, Sequence[str], Path, Callable[[int], Any]], None]] = {
    "webdataset": write_webdataset,
    "npy": write_npy,
    "parquet": write_parquet,
}
"""Formats that need no library but vertebra's own. Zarr and Lance would add 40 and 217 MB; Zarr, Dask and others read `npy`."""


def export(
    store: FeatureStore,
    folder: str | os.PathLike[str],
    format: str = "webdataset",
    *,
    levels: Sequence[str] | None = None,
    progress: bool = False,
) -> Path:
    """Write a store in the format of other tools.

    All formats have `store.json` beside them: what the values are, and why images are missing. bfloat16, which NumPy has not,
    becomes float32, which holds the same values in twice the bytes.

    | format | files |
    | --- | --- |
    | `webdataset` | a tar file a shard; of each image `KEY.LEVEL.npy` of `(c, h, w)` and `KEY.json` with its id and sizes |
    | `npy` | an array a level, `LEVEL.npy` of `(n, c, h, w)`, and `ids.json`; each size of images has its own |
    | `parquet` | a file a shard, called by its first row: `id`, and a tensor a level; images of one size only |

    Args:
        store: The store; its images that have maps now are written.
        folder: A new or an empty folder on this machine. It appears when it is whole.
        format: One of `FORMATS`.
        levels: Names; None: all.
        progress: Show a bar on a terminal.

    Returns:
        The folder.

    Raises:
        ValueError: there is no such format, or it cannot hold these maps.
        KeyError: there is no such level.
        FileExistsError: the folder holds something.
        OSError: there is too little space, or it cannot be written.
    """
    if format not in FORMATS:
        raise ValueError(f"format={format!r} must be one of {listing(FORMATS)}.{did_you_mean(format, FORMATS)}")
    chosen = [store[level].level for level in (store.levels if levels is None else levels)]
    target = Path(folder).expanduser().absolute()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise FileExistsError(f"{str(folder)!r} exists and is no empty folder; give a new one.")
    target.parent.mkdir(parents=True, exist_ok=True)
    _refuse_small(store, chosen, target.parent)
    with _whole(target) as temporary, tqdm(total=len(store), unit="image", disable=None if progress else True) as bar:
        FORMATS[format](store, chosen, temporary, bar.update)
        (temporary / "store.json").write_text(json.dumps(_facts(store, chosen), indent=1) + "\n", encoding="utf-8")
    return target


def _facts(store: FeatureStore, levels: Sequence[str]) -> Mapping[str, Any]:
    return {
        "fingerprint": store.fingerprint,
        "levels": levels,
        "images": len(store),
        "missing": store.missing,
        "meaning": store.meaning,
        "record": store.record,
        "quarantine": {id_: asdict(failure) for id_, failure in store.quarantine.items()},
    }


def _refuse_small(store: FeatureStore, levels: Sequence[str], place: Path) -> None:
    needed = 0
    for run in store.runs():
        maps = [store.shard(run.shard).rows(level, run.size, 0, 0) for level in levels]
        wider = [4 if level.dtype == torch.bfloat16 else level.element_size() for level in maps]
        needed += (run.stop - run.start) * sum(
            level.shape[1:].numel() * size for level, size in zip(maps, wider, strict=True)
        )
    free = shutil.disk_usage(place).free
    if needed > free:
        raise OSError(
            f"The maps take {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free at {str(place)!r}. Export fewer "
            f"levels, or free space."
        )


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A folder that gets its name when the body ends; what dead exports to it have left is removed."""
    for path in target.parent.iterdir():
        found = TEMPORARY.fullmatch(path.name)
        if found and found["name"] == target.name and path.is_dir() and is_alive(found) is False:
            shutil.rmtree(path)
    temporary = target.with_name(f"{own_prefix(target)}{uuid4().hex[:12]}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        for path in temporary.iterdir():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        sync_folder(temporary)
        temporary.replace(target)  # an empty folder may be replaced
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(target.parent)
