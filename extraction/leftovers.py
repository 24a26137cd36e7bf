"""Temporary files of shards: they carry the process that writes them, so that those of dead ones can be told and removed."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Container
from pathlib import Path

from vertebra.extraction.shard_file import FOLDER, shard_number

TEMPORARY = re.compile(r"\.(?P<name>[^/]+)\.(?P<process>[0-9]+)\.[0-9a-f]+\.tmp")


def own_prefix(path: Path) -> str:
    """How the name of a temporary file of this process for `path` begins; for `vertebra.files.atomic_path`."""
    return f".{path.name}.{os.getpid()}."


def remove_leftovers(folder: Path, shards: Container[int]) -> list[str]:
    """Remove the temporary files that dead processes left of some shards.

    The processes that are looked for are those of this machine. So only shards may be named that no other machine computes now.

    Args:
        folder: Of the store.
        shards: Numbers of the shards.

    Returns:
        The names of the files that were removed.
    """
    removed = []
    place = folder / FOLDER
    for path in place.iterdir() if place.is_dir() else ():
        found = TEMPORARY.fullmatch(path.name)
        if found and shard_number(found["name"]) in shards and not is_alive(int(found["process"])):
            path.unlink(missing_ok=True)  # another run may be tidying up as well
            removed.append(path.name)
    return sorted(removed)


def is_alive(process: int) -> bool:
    """Whether there is a process of this number on this machine; on Windows there always is, so nothing is removed."""
    if sys.platform == "win32":
        return True  # asking would end it there
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:  # a dead process keeps its number until its parent has asked for its exit code
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return True
