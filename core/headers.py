"""The header of a safetensors file: names, dtypes and shapes, every claim checked before it is believed.

Format: eight bytes with the header's length (little-endian), the header as JSON, the tensors' bytes without a gap.
https://huggingface.co/docs/safetensors#format
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LENGTH_BYTES = 8
MAX_HEADER = 100_000_000
"""Bytes that the format allows for a header."""
MAX_DIMENSIONS = 64
"""Axes that a tensor of torch may have."""
COUNTS = range(2**63)
"""What 64 bits hold of sizes and places."""
PARTS = {"dtype", "shape", "data_offsets"}
"""What describes a tensor."""
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E5M2FNUZ": 8, "F8_E4M3FNUZ": 8, "F8_E8M0": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
"""Bits of one number, by the name of its dtype."""
MISTAKEN = {
    b"version https://git-lfs": "This is a Git LFS pointer, not the weights: run `git lfs pull` in the folder's repository.",
    b"<": "This is a web page (HTML or XML), not the weights: the download was answered by a page.",
    b"{": "This is JSON, not the weights.",
    b"PK\x03\x04": "This is a torch or zip file under another name.",
    b"\x80": "This is a pickle under another name.",
}
"""First bytes of files that are often found in the place of weights, and what to do about each."""


@dataclass(frozen=True)
class TensorFact:
    """What a header says of one tensor.

    Args:
        dtype: As safetensors spells it: `"F32"`, `"BF16"`, ….
        shape: Its shape.
        size_bytes: Bytes it takes in the file.
        start: Its first byte in the file.
    """

    dtype: str
    shape: tuple[int, ...]
    size_bytes: int
    start: int = field(default=0, compare=False)


def read_header(path: Path) -> dict[str, TensorFact]:
    """Return the tensors of a safetensors file by name; the tensors themselves are not read.

    Raises:
        OSError: the file is no whole safetensors file; says what is wrong with it.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = header_length(file.read(LENGTH_BYTES), size)
            return parse_header(file.read(length), size - LENGTH_BYTES - length)
    except ValueError as error:
        with path.open("rb") as file:
            raise damaged(repr(str(path)), error, file.read(64)) from error


class DamagedFile(OSError):
    """A file is there and can be read, but is not what it should be: trying again does not help."""


def damaged(what: str, error: object, start: bytes) -> DamagedFile:
    """The error for a file that is no whole safetensors file; `start` are its first bytes."""
    is_length = not any(start[4:LENGTH_BYTES])  # no header has 4 GiB
    mistaken = next(
        (text for first, text in MISTAKEN.items() if start.lstrip().startswith(first) and not is_length), None
    )
    return DamagedFile(f"{what} is not a whole safetensors file ({error}). {mistaken or 'Download or copy it again.'}")


def header_length(start: bytes, size: int | None) -> int:
    """Read the length of the header from a file's first bytes.

    Args:
        start: At least the first eight bytes, where the file has so many.
        size: Bytes of the whole file; None where it is not known.

    Raises:
        ValueError: the file is too short, or the length is not one that a header can have.
    """
    if len(start) < LENGTH_BYTES:
        raise ValueError(f"it has {len(start)} bytes, and the length of the header alone takes {LENGTH_BYTES}")
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    if length > MAX_HEADER:
        raise ValueError(f"its header claims {length:,} bytes; the format allows {MAX_HEADER:,}")
    if size is not None and length > size - LENGTH_BYTES:
        raise ValueError(f"its header claims {length:,} bytes, the whole file has {size:,}")
    return length


def parse_header(header: bytes, data_size: int | None) -> dict[str, TensorFact]:
    """Return the tensors that a header describes, by name and in the order of names.

    Args:
        header: The JSON, without the eight bytes before it.
        data_size: Bytes that follow it in the file; None where that is not known.

    Raises:
        ValueError: a claim is malformed, contradicts another, or does not fit the file.
    """
    try:
        content = json.loads(header.decode("utf-8"), object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise ValueError(f"its header is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except RecursionError as error:
        raise ValueError("its header is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"its header is not JSON: {error}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"its header is a JSON {type(content).__name__}, not an object")
    content = {name: entry for name, entry in content.items() if name != "__metadata__"}
    places = sorted((*_place(name, entry), name) for name, entry in content.items())
    end = 0
    for first, last, name in places:
        if first != end:
            raise ValueError(f"tensor {name!r} starts at byte {first}, and the one before it ends at {end}")
        end = last
    if data_size is not None and end != data_size:
        raise ValueError(f"its tensors take {end:,} bytes, and {data_size:,} follow the header")
    data = LENGTH_BYTES + len(header)
    return {
        name: TensorFact(entry["dtype"], tuple(entry["shape"]), last - first, data + first)
        for name, entry in sorted(content.items())
        for first, last in (entry["data_offsets"],)
    }


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"its header names {twice!r} twice")
    return content


def _place(name: str, entry: Any) -> tuple[int, int]:
    """The first and the last byte of a tensor, after a check that they fit its dtype and shape."""
    what = f"tensor {name!r}"
    if not isinstance(entry, dict) or not entry.keys() >= PARTS:
        raise ValueError(f"{what} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise ValueError(f"{what} has the dtype {dtype!r}; there are {', '.join(sorted(BITS))}")
    if not _are_counts(shape) or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"{what} has the shape {str(shape)[:80]}")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"{what} has the data_offsets {str(offsets)[:80]}")
    if math.prod(shape) * BITS[dtype] != 8 * (offsets[1] - offsets[0]):
        raise ValueError(
            f"{what} of shape {shape} in {dtype} does not take the {offsets[1] - offsets[0]} bytes it is given"
        )
    return offsets[0], offsets[1]


def _are_counts(values: Any) -> bool:
    """Whether it is a list of whole numbers that 64 bits hold."""
    return isinstance(values, list) and {*map(type, values)} <= {int} and all(map(COUNTS.__contains__, values))
