"""The process that worker processes are forked from. It imports torch once for all of them, while its parent does as well."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from typing import Any

START = "forkserver" if sys.platform == "linux" else "spawn"
"""How processes start. Both give them nothing of their parent's threads and devices."""
PRELOADED = ["vertebra.extraction.engines.process", "vertebra.extraction.engines.preloaded"]


def context() -> Any:
    """What makes processes; what they are forked from, if anything, is there or on its way."""
    found: Any = multiprocessing.get_context(START)
    if START == "forkserver":
        found.set_forkserver_preload(PRELOADED)
        _ensure_running()
    return found


def start_early() -> None:
    """Start what processes are forked from, if anything: it takes seconds, in which its parent can do other things."""
    if START == "forkserver":
        context()


def _ensure_running() -> None:
    """Start it deaf to Ctrl-C until it has imported all: that reaches all processes, and would end it with a traceback."""
    from multiprocessing import forkserver, resource_tracker

    resource_tracker.ensure_running()  # started by the next one it would let the signal in again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
