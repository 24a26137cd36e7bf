"""What a uri names: the bytes of an image file, wherever it lies."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes

TAR, FILE, MEMORY = "tar://", "file://", "memory:"
MAX_BYTES = 2**30
"""Bytes that an image file may have, unless told otherwise."""


class ImageRef(NamedTuple):
    """An image of a plan: what it is called and where it lies.

    `tried` is how often its extraction has failed before.
    """

    id: str
    uri: str
    tried: int = 0


def path_to_uri(path: str) -> str:
    """The uri of a local file: its path, or `file://…` with escapes where the path is not text."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return FILE + quote(os.fsencode(path))
    return path


def tar_uri(path: str, offset: int, size: int) -> str:
    """The uri of `size` bytes at `offset` of a tar file."""
    return f"{TAR}{path}#offset={offset},size={size}"


def read_uri(uri: str, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the bytes of an image file.

    Args:
        uri: A path, `file://PATH` with percent escapes, `tar://PATH#offset=O,size=S` (bytes of an uncompressed tar file), or
            any other uri that fsspec opens, such as `s3://bucket/key`.
        max_bytes: What the file may have.

    Raises:
        OSError: it does not exist or cannot be read, or is not a regular file.
        ValueError: it is larger than `max_bytes`, or the uri is malformed.
    """
    if uri.startswith(TAR):
        path, offset, size = _tar_place(uri)
        return _read_file(path, max_bytes, offset, size)
    if uri.startswith(FILE):
        return _read_file(os.fsdecode(unquote_to_bytes(uri.removeprefix(FILE))), max_bytes)
    if "://" in uri and not uri.startswith(("/", "\\")):
        import fsspec

        with fsspec.open(uri, "rb") as remote:
            return _checked(remote.read(max_bytes + 1), max_bytes)
    return _read_file(uri, max_bytes)


def _tar_place(uri: str) -> tuple[str, int, int]:
    path, _, place = uri.removeprefix(TAR).rpartition("#")
    try:
        facts = dict(part.split("=") for part in place.split(","))
        return path, int(facts["offset"]), int(facts["size"])
    except (ValueError, KeyError) as error:
        raise ValueError(f"{uri!r} does not say which bytes: write tar://PATH#offset=512,size=1024.") from error


def _read_file(path: str, max_bytes: int, offset: int = 0, size: int | None = None) -> bytes:
    found = Path(path).stat()
    if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for, a device has no end
        raise OSError(f"{path!r} is not a regular file.")
    if (found.st_size if size is None else size) > max_bytes:
        raise ValueError(_too_large(found.st_size if size is None else size, max_bytes))
    with Path(path).open("rb") as file:
        file.seek(offset)
        data = _checked(file.read(max_bytes + 1 if size is None else size), max_bytes)
    if size is not None and len(data) < size:
        raise OSError(f"{path!r} ends before byte {offset + size}; the tar file was cut or replaced.")
    return data


def _checked(data: bytes, max_bytes: int) -> bytes:
    if len(data) > max_bytes:
        raise ValueError(_too_large(len(data), max_bytes))
    return data


def _too_large(size: int, allowed: int) -> str:
    return f"The file has {size:,} bytes or more, and max_bytes={allowed:,} are allowed."
