"""Long recordings in pieces: where it is quiet, or overlapping."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from vertebra.audio.clips import Clip

SEARCHED, QUIET = 1 / 6, 1 / 150
"""Parts of a piece: from whose end a quiet place is looked for, and how long that is (5 s and 0.2 s of 30 s)."""


class Span(NamedTuple):
    """A piece of a recording, in samples.

    Args:
        begin: Where it begins.
        end: Where it ends.
        left: Samples at its beginning that are another piece's to answer.
        right: The same at its end.
    """

    begin: int
    end: int
    left: int = 0
    right: int = 0


def quiet_spans(samples: Clip, longest: int) -> Iterator[Span]:
    """Cut samples `(n,)` into pieces of at most `longest`, each but the last where it is quietest near its end."""
    begin, quiet = 0, max(1, round(longest * QUIET))
    while len(samples) - begin > longest:
        tail = samples[begin + longest - max(quiet, round(longest * SEARCHED)) : begin + longest].astype(np.float64)
        power = np.cumsum(np.concatenate([[0.0], tail**2]))
        at = int((power[quiet:] - power[:-quiet]).argmin()) + quiet // 2
        end = begin + longest - len(tail) + at
        yield Span(begin, end)
        begin = end
    yield Span(begin, len(samples))


def overlapping_spans(total: int, length: int, left: int, right: int) -> Iterator[Span]:
    """Cut `total` samples into pieces of `length`, which share `left + right` with their neighbours.

    Each answers for all but its first `left` and last `right` samples; the first and the last piece also for their ends.
    """
    for begin in range(0, total, length - left - right):
        end, first = min(begin + length, total), begin == 0
        last = begin + length >= total
        yield Span(begin, end, 0 if first else left, 0 if last else right)
        if last:
            return
