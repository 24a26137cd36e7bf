"""What is still to be done, and by elimination which image ends the processes that touch it."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from vertebra.extraction.plan import Plan
from vertebra.extraction.shard_file import Failure

logger = logging.getLogger(__name__)

CRASHES = 3
"""Ends of its process after which a shard is searched for the image that is to blame."""
CERTAIN = 2
"""Ends of its process after which an image that is computed alone is to blame. One may be an accident."""

MOST = 16
"""Images of one shard that may be to blame; where there are more, none of them is."""


@dataclass(frozen=True)
class Task:
    """What a process is asked to do.

    Args:
        shard: Number of the shard.
        rows: First image and the one after the last, of those that are only computed, to see whether the process survives
            it; None: the shard is computed and written.
        alone: Whether the process must have nothing else in hand, so that it is known what ended it.
        crashed: Images that are not touched, and what is recorded of them.
    """

    shard: int
    rows: tuple[int, int] | None = None
    alone: bool = False
    crashed: Mapping[str, Failure] = field(default_factory=dict)


class Agenda:
    """The tasks of a run, from the first to the last.

    A shard whose process ends is tried again, alone and after all others. When it has ended `CRASHES` processes, its images
    are computed in halves, quarters and so on, down to the single image; what ends its process even alone goes into
    quarantine, and the shard is computed without it.

    Args:
        plan: The plan.
        shards: Numbers of the shards.
        stop: Asked before a task is given out; once it returns true, none is any more.
    """

    def __init__(self, plan: Plan, shards: Iterable[int], stop: Callable[[], bool] | None = None) -> None:
        self.plan, self.stop = plan, stop
        self.shards = deque(shards)
        self.suspects: deque[Task] = deque()
        self.deaths: Counter[tuple[int, tuple[int, int] | None]] = Counter()
        self.open_parts: Counter[int] = Counter()
        self.blamed: dict[int, dict[str, Failure]] = {}
        self.is_closed = False
        self.failure: BaseException | None = None

    def __len__(self) -> int:
        """How many tasks wait to be given out."""
        return 0 if self.is_closed else len(self.shards) + len(self.suspects)

    def take(self, is_idle: bool) -> Task | None:
        """The next task for a process that has nothing in hand, or has something; None where there is none for it."""
        if len(self) and self.stop is not None and self.stop():
            self.is_closed = True
        if self.is_closed:
            return None
        if self.shards:
            return Task(self.shards.popleft())
        return self.suspects.popleft() if self.suspects and is_idle else None

    def fail(self, error: BaseException) -> None:
        """Give out nothing more, since the run has failed. The first error is the one that counts."""
        if self.failure is None:
            self.failure = error
        else:
            logger.error("Another process failed as well: %s", error)
        self.is_closed = True

    def survived(self, task: Task) -> None:
        """Take note that some images of a shard were computed and the process lives."""
        self._close_part(task.shard)

    def died(self, tasks: Iterable[Task], cause: str) -> None:
        """Take note that a process ended with these tasks in hand."""
        for task in tasks:
            self.deaths[task.shard, task.rows] += 1
            if task.rows is not None:
                self._narrow(task, task.rows, cause)
            elif self.deaths[task.shard, None] < CRASHES:
                self.suspects.append(replace(task, alone=True))
            elif task.shard not in self.blamed:
                self._search(task.shard, cause)
            else:
                self.fail(RuntimeError(self._unexplained(task.shard, cause)))

    def _search(self, shard: int, cause: str) -> None:
        logger.warning(
            "Shard %d has ended its process %d times (%s); looking for the image that does.", shard, CRASHES, cause
        )
        self.blamed[shard] = {}
        self._divide(shard, 0, len(self.plan.ids_of(shard)))

    def _divide(self, shard: int, start: int, end: int) -> None:
        """Have both halves of some images computed, each by itself; or the one image that there is."""
        middle = (start + end) // 2
        for part in ((middle, end), (start, middle)):
            if part[0] < part[1]:
                self.open_parts[shard] += 1
                self.suspects.appendleft(Task(shard, part, alone=True))  # first, so that `MOST` is soon reached

    def _narrow(self, task: Task, rows: tuple[int, int], cause: str) -> None:
        start, end = rows
        if end - start > 1:
            self._divide(task.shard, start, end)
            self._close_part(task.shard)
        elif self.deaths[task.shard, rows] < CERTAIN:
            self.suspects.appendleft(task)
        else:
            image = self.plan.ids_of(task.shard)[start]
            error = f"{cause} ended the process whenever this image was computed"
            self.blamed[task.shard][image.id] = Failure("crash", error, image.tried + CRASHES)
            logger.warning("%r ends its process (%s); it goes into quarantine.", image.id, cause)
            if len(self.blamed[task.shard]) > MOST:
                self.fail(RuntimeError(self._too_many(task.shard, cause)))
            self._close_part(task.shard)

    def _close_part(self, shard: int) -> None:
        self.open_parts[shard] -= 1
        if not self.open_parts[shard]:
            del self.deaths[shard, None]
            self.suspects.append(Task(shard, alone=True, crashed=self.blamed[shard]))

    def _too_many(self, shard: int, cause: str) -> str:
        return (
            f"More than {MOST} images of shard {shard} end the process that computes them ({cause}), which is no fault of images: "
            f"a network drive does not answer, a device fails, or memory is short. The shards that are done stay, and the same "
            f"command goes on with the others."
        )

    def _unexplained(self, shard: int, cause: str) -> str:
        blamed = self.blamed[shard]
        but = (
            f"after {', '.join(map(repr, blamed))} was left out"
            if blamed
            else "though none of its images does so alone"
        )
        return (
            f"Shard {shard} has ended its process {CRASHES} times ({cause}), {but}. Where memory is short, take a smaller batch "
            f"size or fewer workers; the shards that are done stay, and the same command goes on with the others."
        )
