"""One shard: the maps of some images in one safetensors file, with the ids, and what failed, in its header.

A level is one tensor `[n, c, h, w]` under its name. Where a shard's images were processed at several sizes, each size has
tensors of its own, `level@HEIGHTxWIDTH`. All metadata are strings, as the format asks:

| key | value |
| --- | --- |
| `format` | `"2"` |
| `fingerprint`, `generation`, `plan`, `shard` | what the shard is a part of: the job, the plan of that generation, the number |
| `ids`, or `ids@HEIGHTxWIDTH` | JSON list of the ids in row order |
| `size` | `"HEIGHTxWIDTH"` at which the images were processed, where they have one size |
| `sizes` | JSON object, id to `[height, width]` of the original image |
| `quarantine` | JSON object, id to `{"stage", "error", "tries"}`, of the images that have no maps |
| `checksum` | SHA-256 of the whole file with 64 zeros in this place |
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from vertebra.errors import listing
from vertebra.extraction.storage import Storage
from vertebra.headers import LENGTH_BYTES, damaged, header_length, parse_header

FORMAT = 2
FOLDER = "shards"
ENDING = ".safetensors"
NO_CHECKSUM = "0" * 64
SPELLING = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}
BLOCK = 2**24
FIRST_BYTES = 2**16
"""Bytes of a shard that are read at once for its header; most headers are smaller."""
Size = tuple[int, int]


def shard_name(number: int) -> str:
    """Path of a shard inside its store, e.g. `shards/000000.safetensors`."""
    return f"{FOLDER}/{number:06d}{ENDING}"


def shard_number(name: str) -> int | None:
    """The number of the shard whose file is called `name` (a path or its last part); None for any other file."""
    stem = name.rpartition("/")[2].removesuffix(ENDING)
    return (
        int(stem) if stem.isascii() and stem.isdigit() and shard_name(int(stem)).endswith(f"/{stem}{ENDING}") else None
    )


def tensor_name(level: str, size: Size | None) -> str:
    """Name of a level's tensor; `size` is the `(height, width)` of its images where the shard holds several."""
    return level if size is None else f"{level}@{size[0]}x{size[1]}"


@dataclass(frozen=True)
class Failure:
    """Why an image has no maps.

    Args:
        stage: What it failed at: `"read"`, `"decode"`, `"forward"` or `"crash"` (it ended the process).
        error: The reason, in words.
        tries: How often it was tried.
    """

    stage: str
    error: str
    tries: int = 1


@dataclass
class Shard:
    """Maps being collected, and written.

    Args:
        ids: Ids by the `(height, width)` at which their images were processed, in row order.
        maps: Batches `(b, c, h, w)` by size and level, in row order.
        sizes: Id to `(height, width)` of the original image.
        quarantine: Id to why there are no maps.
    """

    ids: dict[Size, list[str]] = field(default_factory=dict)
    maps: dict[Size, dict[str, list[Tensor]]] = field(default_factory=dict)
    sizes: dict[str, Size] = field(default_factory=dict)
    quarantine: dict[str, Failure] = field(default_factory=dict)

    def add(self, size: Size, ids: list[str], maps: Mapping[str, Tensor]) -> None:
        """Append images that were processed at `size`, with one `(b, c, h, w)` map per level."""
        self.ids.setdefault(size, []).extend(ids)
        levels = self.maps.setdefault(size, {})
        for level, batch in maps.items():
            levels.setdefault(level, []).append(batch)

    def write(self, file: BinaryIO, facts: Mapping[str, str]) -> int:
        """Write the shard to an open file and return its size in bytes; `facts` are further metadata of the header."""
        batches = [batch for levels in self._tensors().values() for batch in levels]
        header = self._header(facts)
        digest = hashlib.sha256(header)
        for batch in batches:
            digest.update(_bytes(batch))
        file.write(header.replace(NO_CHECKSUM.encode(), digest.hexdigest().encode(), 1))
        for batch in batches:
            file.write(_bytes(batch))
        return len(header) + sum(batch.nbytes for batch in batches)

    def _tensors(self) -> dict[str, list[Tensor]]:
        several = len(self.ids) > 1
        return {
            tensor_name(level, size if several else None): batches
            for size, levels in sorted(self.maps.items())
            for level, batches in levels.items()
        }

    def _header(self, facts: Mapping[str, str]) -> bytes:
        metadata = {"format": str(FORMAT), "checksum": NO_CHECKSUM, **facts}  # the first zeros are those to replace
        several = len(self.ids) > 1
        for size, ids in sorted(self.ids.items()):
            metadata[tensor_name("ids", size if several else None)] = _json(ids)
        if len(self.ids) == 1:
            metadata["size"] = "{}x{}".format(*next(iter(self.ids)))
        if not self.ids:
            metadata["ids"] = "[]"
        metadata["sizes"] = _json(dict(sorted(self.sizes.items())))
        metadata["quarantine"] = _json({id_: asdict(failure) for id_, failure in sorted(self.quarantine.items())})
        content: dict[str, Any] = {"__metadata__": metadata}
        end = 0
        for name, batches in self._tensors().items():
            start, end = end, end + sum(batch.nbytes for batch in batches)
            shape = [sum(map(len, batches)), *batches[0].shape[1:]]
            content[name] = {"dtype": SPELLING[batches[0].dtype], "shape": shape, "data_offsets": [start, end]}
        return header_bytes(content)


def header_bytes(content: Mapping[str, Any]) -> bytes:
    """A header with its length before it. The tensors after it begin at a multiple of eight bytes."""
    header = _json(content).encode()
    header += b" " * (-len(header) % LENGTH_BYTES)
    return len(header).to_bytes(LENGTH_BYTES, "little") + header


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _bytes(batch: Tensor) -> memoryview:
    return batch.contiguous().view(torch.uint8).reshape(-1).numpy().data


class Block(NamedTuple):
    """One tensor of a shard: its dtype and shape, and the first of its bytes, counted from the file's."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int


class Header(NamedTuple):
    """What the header of a shard says.

    Args:
        metadata: All but the tensors; see this module.
        tensors: What can be read, by name.
        size: Bytes of the file.
    """

    metadata: dict[str, str]
    tensors: dict[str, Block]
    size: int


def read_metadata(storage: Storage, name: str) -> dict[str, str]:
    """Return the metadata in the header of a shard. Raises what `read_header` does."""
    return read_header(storage, name).metadata


def read_header(storage: Storage, name: str) -> Header:
    """Read the header of a shard; the sizes that it claims are checked, the maps are not read.

    Raises:
        OSError: the file is not a whole safetensors file.
        ValueError: it is no shard of this format.
    """
    where = repr(f"{storage}/{name}")
    size, start = storage.size(name), storage.read(name, 0, FIRST_BYTES)
    try:
        end = LENGTH_BYTES + header_length(start[:LENGTH_BYTES], size)
        header = (start if end <= len(start) else start + storage.read(name, len(start), end))[LENGTH_BYTES:end]
        parse_header(header, size - end)
    except ValueError as error:
        raise damaged(where, error, start[:64]) from error
    content = json.loads(header)
    metadata = content.pop("__metadata__", None) or {}
    if metadata.get("format") != str(FORMAT) or "fingerprint" not in metadata:
        raise ValueError(
            f"{where} is no shard that this version of vertebra reads: its header has format "
            f"{metadata.get('format')!r}, not {str(FORMAT)!r}."
        )
    dtypes = {spelling: dtype for dtype, spelling in SPELLING.items()}
    if strange := {facts["dtype"] for facts in content.values()} - dtypes.keys():
        raise ValueError(f"{where} is no shard that this version of vertebra reads: its maps are {listing(strange)}.")
    tensors = {
        tensor: Block(dtypes[facts["dtype"]], tuple(facts["shape"]), end + facts["data_offsets"][0])
        for tensor, facts in content.items()
    }
    return Header(metadata, tensors, size)


def read_quarantine(metadata: Mapping[str, str]) -> dict[str, Failure]:
    """The images of a shard that have no maps, by id."""
    return {id_: Failure(**facts) for id_, facts in json.loads(metadata["quarantine"]).items()}


def checksum(file: BinaryIO) -> tuple[str, str]:
    """Return the checksum that a shard's header states, and the one its bytes have. They are equal in a sound file.

    Raises:
        ValueError: the header cannot be read.
    """
    start = file.read(LENGTH_BYTES)
    header = file.read(header_length(start, None))
    stated = str((json.loads(header).get("__metadata__") or {}).get("checksum"))
    digest = hashlib.sha256(start + header.replace(stated.encode(), NO_CHECKSUM.encode(), 1))
    for block in blocks(file):
        digest.update(block)
    return stated, digest.hexdigest()


def sha256(file: BinaryIO) -> str:
    """SHA-256 of what is left of a file, which need not fit into memory."""
    digest = hashlib.sha256()
    for block in blocks(file):
        digest.update(block)
    return digest.hexdigest()


def blocks(file: BinaryIO) -> Iterator[bytes]:
    """What is left of a file, piece by piece."""
    while block := file.read(BLOCK):
        yield block
