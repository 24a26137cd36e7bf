"""Two sides of a comparison, alternated in one process: outputs compared first, then the median ratio and its spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LEAST, MOST = 0.7, 51
"""Seconds that the rounds of a case take together if these are no more: short ones are repeated until their median holds still."""


@dataclass(frozen=True)
class Case:
    """One line of a benchmark: the same work by vertebra and by a peer.

    Args:
        name: What is measured, with its size: `"Swin-T, four stages, 8 of 224x224"`.
        peer: Who the other side is: `"transformers"`, `"timm"`, `"OpenVINO"`.
        ours: The work by vertebra; returns its outputs.
        theirs: The same by the peer.
        outputs: Turns what a side returns into tensors that are compared, one after the other; what it returns when None.
        tolerance: How far they may be apart, of the largest value of the peer's.
        asked: The ratio that is asked for, peer's time over ours; None where none is.
        operations: Floating-point operations of the work, for the share of the machine's peak; None where they do not say much.
        rounds: How often each side runs at least (see `LEAST`); 0 where only memory is measured.
        remark: What a reader of the table has to know.
        memory: Whether the peak memory of a run of each side is measured too, each in a fresh process that goes through `cases()`
            up to this one. What a first run would bring into memory once (weights of a mapped file) has to be there already.
        asked_memory: The ratio that is asked for, peer's peak memory over ours; it measures memory too.
        seconds: What a side took, from what it returned, where that is not the time of the call.
        limit: Seconds that ours may take at most; above them the benchmark fails.
    """

    name: str
    peer: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    outputs: Callable[[Any], Iterable[Tensor]] | None = None
    tolerance: float = 1e-4
    asked: float | None = None
    operations: float | None = None
    rounds: int = 9
    remark: str = ""
    memory: bool = False
    asked_memory: float | None = None
    seconds: Callable[[Any], float] | None = None
    limit: float | None = None

    def difference(self) -> float:
        """The largest difference between the two sides' outputs, of the largest value of the peer's.

        Raises:
            AssertionError: they differ by more than the tolerance.
        """
        here, there = ([*(self.outputs or _tensors)(side())] for side in (self.ours, self.theirs))
        assert len(here) == len(there), f"{self.name}: {len(here)} outputs, {self.peer} has {len(there)}"
        assert here, f"{self.name}: no outputs to compare"
        for mine, other in zip(here, there, strict=True):
            assert mine.shape == other.shape, f"{self.name}: {tuple(mine.shape)} is not {tuple(other.shape)}"
        apart = [_apart(mine, other) for mine, other in zip(here, there, strict=True)]
        for each in apart:  # one by one: a maximum does not see a NaN
            assert each <= self.tolerance, f"{self.name}: outputs differ from those of {self.peer} by {each:.1e}"
        return max(apart)


@dataclass(frozen=True)
class Missing:
    """Stands for a case whose peer is not installed.

    Args:
        name: The case's.
        peer: The case's.
        package: What has to be installed.
    """

    name: str
    peer: str
    package: str


@dataclass(frozen=True)
class Timing:
    """What alternating the two sides of a case gave; times in seconds."""

    ours: float
    theirs: float
    ratios: Sequence[float]

    @property
    def ratio(self) -> float:
        """The peer's time over ours: the median of all rounds."""
        return statistics.median(self.ratios)

    @property
    def spread(self) -> tuple[float, float]:
        """Between which two ratios the middle half of the rounds lies."""
        low, _, high = statistics.quantiles(self.ratios, n=4)
        return low, high


def measure(case: Case) -> Timing:
    """Run both sides of a case in turns, after `difference`, in which both ran already."""
    return Timing(*alternate(case.ours, case.theirs, case.rounds, case.seconds, warm=True, least=LEAST))


def alternate(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    rounds: int = 15,
    seconds: Callable[[Any], float] | None = None,
    *,
    warm: bool = False,
    least: float = 0.0,
) -> tuple[float, float, list[float]]:
    """Run both in turns and return `(median seconds of ours, of theirs, the ratio theirs / ours of each round)`.

    Args:
        ours: One side.
        theirs: The other.
        rounds: How often each runs.
        seconds: What a run took, from what it returned; the time of the call when None.
        warm: Whether both ran already; else each runs once first, which does not count.
        least: Seconds that all rounds take together; there are more of them, at most `MOST`, where they take less.
    """
    if not warm:
        ours(), theirs()
    times: list[tuple[float, float]] = []
    start = time.perf_counter()
    while (number := len(times)) < rounds or (number < MOST and time.perf_counter() - start < least):
        if number % 2:  # who comes second may find what the first left in caches
            here, there = _seconds(ours, seconds), _seconds(theirs, seconds)
        else:
            there, here = _seconds(theirs, seconds), _seconds(ours, seconds)
        times.append((here, there))
    ratios = [there / here for here, there in times]
    return statistics.median(t[0] for t in times), statistics.median(t[1] for t in times), ratios


def row(name: str, ours: float, theirs: float, ratios: list[float]) -> str:
    """One line of a result table."""
    low, _, high = statistics.quantiles(ratios, n=4)
    middle = statistics.median(ratios)
    return f"{name:<44} {ours * 1e3:8.1f} ms {theirs * 1e3:8.1f} ms   {middle:5.2f}x  ({low:.2f} to {high:.2f})"


def _seconds(run: Callable[[], object], told: Callable[[Any], float] | None) -> float:
    if told is not None:
        return told(run())
    start = time.perf_counter()
    run()  # giving back the memory of what it returns counts too
    return time.perf_counter() - start


def _apart(mine: Tensor, other: Tensor) -> float:
    mine, other = mine.to(torch.float64), other.to(torch.float64)
    if not other.numel():
        return 0.0
    scale = max(other.abs().max().item(), 1e-12)
    return (mine - other).abs().max().item() / scale


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        yield from _tensors(list(output.values()))
    elif isinstance(output, (list, tuple)):
        for part in output:
            yield from _tensors(part)
