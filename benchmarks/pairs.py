"""Two sides of a comparison, alternated in one process: median ratio and its spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def alternate(
    ours: Callable[[], object], theirs: Callable[[], object], rounds: int = 15
) -> tuple[float, float, list[float]]:
    """Run both in turns and return `(median seconds of ours, of theirs, the ratio theirs / ours of each round)`."""
    ours(), theirs()
    times = [(_seconds(ours), _seconds(theirs)) for _ in range(rounds)]
    ratios = [there / here for here, there in times]
    return statistics.median(t[0] for t in times), statistics.median(t[1] for t in times), ratios


def row(name: str, ours: float, theirs: float, ratios: list[float]) -> str:
    """One line of a result table."""
    low, _, high = statistics.quantiles(ratios, n=4)
    middle = statistics.median(ratios)
    return f"{name:<44} {ours * 1e3:8.1f} ms {theirs * 1e3:8.1f} ms   {middle:5.2f}x  ({low:.2f} to {high:.2f})"


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
