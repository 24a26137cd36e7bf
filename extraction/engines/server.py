"""The process that worker processes are forked from. It imports torch once for all of them, while its parent does as well."""

from __future__ import annotations

import multiprocessing
import sys
from typing import Any

START = "forkserver" if sys.platform == "linux" else "spawn"
"""How processes start. Both give them nothing of their parent's threads and devices."""
PRELOADED = "vertebra.extraction.engines.process"


def context() -> Any:
    """What makes processes."""
    found: Any = multiprocessing.get_context(START)
    if START == "forkserver":
        found.set_forkserver_preload([PRELOADED])
    return found


def start_early() -> None:
    """Start what processes are forked from, if anything: it takes seconds, in which its parent can do other things."""
    if START == "forkserver":
        from multiprocessing import forkserver

        context()
        forkserver.ensure_running()
