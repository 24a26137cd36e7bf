"""One shard: the maps of some images in one safetensors file that appears whole or not at all.

A level is one tensor `[n, c, h, w]` under its name. Where a shard's images were processed at several sizes, each size
has tensors of its own, `level@HEIGHTxWIDTH`. The header lists the ids in row order (`ids`, or `ids@HEIGHTxWIDTH`), the
images that failed with the reason, and the fingerprint of the job.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vertebra.files import atomic_path

FOLDER = "shards"
Size = tuple[int, int]


def shard_name(index: int) -> str:
    """Path of a shard inside its store, e.g. `shards/000000.safetensors`."""
    return f"{FOLDER}/{index:06d}.safetensors"


def tensor_name(level: str, size: Size | None) -> str:
    """Name of a level's tensor; `size` is the `(height, width)` of its images where the shard holds several."""
    return level if size is None else f"{level}@{size[0]}x{size[1]}"


class Place(NamedTuple):
    """Where the maps of an image are: the shard, the row, and the `(height, width)` at which it was processed."""

    shard: int
    row: int
    size: Size


@dataclass
class Shard:
    """Maps being collected.

    Args:
        ids: Ids by the `(height, width)` at which their images were processed, in row order.
        maps: Batches `(b, c, h, w)` by size and level, in row order.
        failed: Id to the reason why there are no maps.
    """

    ids: dict[Size, list[str]] = field(default_factory=dict)
    maps: dict[Size, dict[str, list[Tensor]]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, size: Size, ids: list[str], maps: Mapping[str, Tensor]) -> None:
        """Append images that were processed at `size`, with one `(b, c, h, w)` map per level."""
        self.ids.setdefault(size, []).extend(ids)
        levels = self.maps.setdefault(size, {})
        for level, batch in maps.items():
            levels.setdefault(level, []).append(batch)

    def write(self, path: Path, job: str) -> int:
        """Write the shard to `path` with one rename, and return its size in bytes. `job` is the job's fingerprint."""
        several = len(self.ids) > 1
        tensors: dict[str, Tensor] = {}
        header = {"job": job, "failed": json.dumps(self.failed)}
        for size, levels in self.maps.items():
            suffix = size if several else None
            header[tensor_name("ids", suffix)] = json.dumps(self.ids[size])
            tensors |= {tensor_name(level, suffix): torch.cat(batches) for level, batches in levels.items()}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, header)
        return path.stat().st_size

    def places(self, shard: int) -> dict[str, Place]:
        """Id to place, of every image that has maps."""
        return {id_: Place(shard, row, size) for size, ids in self.ids.items() for row, id_ in enumerate(ids)}


def read_header(path: Path) -> dict[str, str]:
    """Return the metadata in a shard's header.

    Raises:
        ValueError: the file is no safetensors file, or no shard of vertebra.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is not a safetensors file: {error}") from error
    if "job" not in header:
        raise ValueError(f"{str(path)!r} was not written by vertebra: its header names no job.")
    return dict(header)
