"""The most memory that a process held while it did something, less what it held before (Linux)."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

STATUS = Path("/proc/self/status")
MARK = Path("/proc/self/clear_refs")


def can_measure() -> bool:
    """Whether this system keeps the mark and lets it be set back."""
    return STATUS.exists() and MARK.exists()


def peak_of(run: Callable[[], object]) -> float:
    """MiB that the process had at most while `run` ran, above what it had before.

    It is for a process that has done nothing like it before: what libraries keep after a first run is memory that another run
    would not be seen to take. What has been freed is given back to the system first, so that it does not count as held.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
    MARK.write_text("5", encoding="ascii")
    held = resident("VmRSS")
    run()
    return max(0.0, resident("VmHWM") - held)


def resident(field: str) -> float:
    """A field of the system's account of this process in MiB (`ru_maxrss` would begin with the parent's)."""
    lines = STATUS.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))
