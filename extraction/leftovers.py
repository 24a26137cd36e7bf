"""Temporary files that dead processes left. Their names say who wrote them, so that what others still write is left alone."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vertebra.extraction.storage import Storage

TEMPORARY = re.compile(
    r"\.(?P<name>[^/]+?)\.(?P<machine>[0-9a-f]{12})-(?P<started>[0-9]+)\.(?P<process>[0-9]+)\.[0-9a-f]+\.tmp"
)
"""Names of temporary files: the final name, then the process that writes it, in a way that no other process ever shares."""
FOLDERS = ("", "shards")
"""Where a store's files are."""
LONG = 3600.0
"""Seconds without a change after which a temporary file of another machine is nobody's."""


def own_prefix(path: Path) -> str:
    """How the name of a temporary file of this process for `path` begins; see `TEMPORARY`."""
    process = os.getpid()
    return f".{path.name}.{machine()}-{started(process) or 0}.{process}."


def remove_leftovers(storage: Storage) -> list[str]:
    """Remove the temporary files of a store that dead processes left.

    Those of processes of this machine, since it was started, are known to be dead; those of other machines, or from before a power
    loss, count as dead when they have not changed for an hour.

    Args:
        storage: Of the store.

    Returns:
        The names of the files that were removed.
    """
    removed = []
    for folder in FOLDERS if storage.local("") is not None else ():
        for name, entry in storage.entries(folder).items():
            found = TEMPORARY.fullmatch(name)
            if found and _is_left(found, entry.changed):
                storage.remove(f"{folder}/{name}".lstrip("/"))
                removed.append(name)
    return removed


def _is_left(found: re.Match[str], changed: int | None) -> bool:
    alive = is_alive(found)
    if alive is None and changed is not None:
        return time.time() - changed / 1e9 > LONG
    return alive is False


def is_alive(writer: re.Match[str]) -> bool | None:
    """Whether the process that writes a temporary file (a match of `TEMPORARY`) runs; None where another machine knows."""
    if writer["machine"] != machine():
        return None
    since = started(int(writer["process"]))
    return since is not None and since == int(writer["started"])


@lru_cache(maxsize=1)
def machine() -> str:
    """A text that only processes share that see each other: of this machine, since it was started, in this container."""
    facts = [platform.node()]
    if sys.platform == "linux":
        facts += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]  # noqa: PTH115
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:12]


def started(process: int) -> int | None:
    """When a process of this machine was started, in ticks since the machine was; None where it has ended.

    Only Linux says so; elsewhere it is 0 for a process that is there, and on Windows for any.
    """
    if sys.platform == "linux":
        try:
            facts = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        is_dead = facts[0] in "ZX"  # until its parent has asked for its exit code, it keeps its number
        return None if is_dead else int(facts[19])
    if sys.platform == "win32":
        return 0  # asking would end it there
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return 0
