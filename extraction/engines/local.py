"""Shards computed by processes of this machine, one for each device or several on the CPU; any of them may be killed."""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from typing import Any

from vertebra.extraction.engines.agenda import Agenda, Task
from vertebra.extraction.engines.process import ADVANCE, FAILED, READY, RECEIPT, SURVIVED, serve, unpack
from vertebra.extraction.leftovers import remove_leftovers
from vertebra.extraction.plan import Plan
from vertebra.extraction.recipe import Recipe
from vertebra.extraction.runtime import available_cores
from vertebra.extraction.worker import Advance, Receipt

logger = logging.getLogger(__name__)

START = "forkserver" if sys.platform == "linux" else "spawn"
"""How processes start. Both give them nothing of this process's threads and devices; a fork server has imported torch once."""
IN_HAND = 2
"""Shards that a process has: one is computed while the images of the next are decoded."""
STILLBORN = 3
"""Processes in a row that may end before they have the model."""
PATIENCE = 10.0
"""Seconds that a process has to end."""


def run(
    plan: Plan,
    recipe: Recipe,
    shards: Iterable[int],
    *,
    workers: int | None = None,
    devices: Sequence[str] | None = None,
    on_receipt: Callable[[Receipt], Any] | None = None,
    advance: Advance | None = None,
    stop: Callable[[], bool] | None = None,
) -> None:
    """Compute shards of a plan in processes of this machine; see `vertebra.extraction.engines.Engine`.

    A process that ends is replaced, and its shards are computed by another. One that ends three processes is searched for the
    image that does it, which goes into quarantine with the stage `"crash"`. The processes end with this one, however it ends.
    They share the cores.

    Raises:
        ValueError: there is no such device or number of workers; the recipe is of another job than the plan, or cannot be
            sent to another process.
        RuntimeError: the processes end before they have a model, or because of no single image.
        OSError: a shard cannot be written.
    """
    wanted = frozenset(shards)
    remove_leftovers(plan.folder, wanted)
    agenda = Agenda(plan, sorted(wanted), stop)
    places = _places(workers, devices, len(agenda))
    crew = _Crew(agenda, pickle_job(plan, recipe), places, on_receipt or _ignore, advance or _ignore)
    in_peace = False
    try:
        crew.work()
        in_peace = agenda.failure is None
    finally:
        crew.end(in_peace)
        remove_leftovers(plan.folder, wanted)
    if agenda.failure is not None:
        raise agenda.failure


def _ignore(value: Any) -> None:
    pass


def _places(workers: int | None, devices: Sequence[str] | None, tasks: int) -> list[str | None]:
    """The device of each process."""
    if workers is not None and workers < 1:
        raise ValueError(f"workers={workers} must be at least 1.")
    if devices is not None and (isinstance(devices, str) or not devices):
        raise ValueError(f"devices={devices!r} must be a list of devices, such as ['cuda:0', 'cuda:1'].")
    named = list(devices) if devices else [None]
    count = len(named) if workers is None else workers
    return [named[index % len(named)] for index in range(min(count, tasks))]


def pickle_job(plan: Plan, recipe: Recipe) -> bytes:
    """A plan and a recipe as other processes are sent them.

    Raises:
        ValueError: the recipe holds something that cannot be sent.
    """
    try:
        return pickle.dumps((plan, recipe))
    except Exception as error:  # what a class raises that cannot be pickled is its own affair
        raise ValueError(
            f"The recipe cannot be sent to other processes ({type(error).__name__}: {error}). Its model, processor and images "
            f"must be of classes that can be imported, not of functions' or a shell's own; or take the engine 'inline'."
        ) from error


class _Worker:
    """A process, its pipe, and what it has in hand.

    Each has a pipe of its own, without a lock: whoever is killed while it writes harms nobody else.
    """

    def __init__(self, place: int, job: bytes, device: str | None, threads: int) -> None:
        context: Any = multiprocessing.get_context(START)
        if START == "forkserver":
            context.set_forkserver_preload([serve.__module__])
        self.place = place
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, job, device, threads), daemon=True)
        self.process.start()
        theirs.close()  # so that the end of the process is the end of the pipe
        self.tasks: deque[Task] = deque()
        self.is_ready = self.has_failed = False
        self.ahead = 0

    def send(self, task: Task | None) -> None:
        with suppress(OSError):  # it may have ended, which the next reading finds out
            self.connection.send(task)

    def end(self) -> None:
        """Wait until the process has ended; after a while, make it."""
        for insist in (self.process.terminate, self.process.kill):
            self.process.join(PATIENCE)
            if self.process.exitcode is not None:
                break
            insist()
        self.process.join()
        self.connection.close()

    @property
    def cause(self) -> str:
        """What ended the process: `SIGKILL`, `exit code 1`."""
        code = self.process.exitcode
        known = code is not None and code < 0 and -code in set(signal.Signals)
        return signal.Signals(-code).name if known else f"exit code {code}"  # type: ignore[operator]


class _Crew:
    """The processes, and what is said between them and this one."""

    def __init__(
        self,
        agenda: Agenda,
        job: bytes,
        places: list[str | None],
        on_receipt: Callable[[Receipt], Any],
        advance: Advance,
    ) -> None:
        self.agenda, self.job, self.places = agenda, job, places
        self.on_receipt, self.advance = on_receipt, advance
        self.threads = max(1, available_cores() // max(1, len(places)))
        self.workers: dict[Any, _Worker] = {}
        self.stillborn = 0

    def work(self) -> None:
        """Do all tasks."""
        while True:
            for worker in self.workers.values():
                self.feed(worker)
            self.hire()
            if not len(self.agenda) and not any(worker.tasks for worker in self.workers.values()):
                return
            for connection in wait(list(self.workers)):
                self.listen(self.workers[connection])

    def hire(self) -> None:
        """Put a process into every place that has none, where there is something to do."""
        for place in set(range(len(self.places))) - {worker.place for worker in self.workers.values()}:
            if len(self.agenda):
                worker = _Worker(place, self.job, self.places[place], self.threads)
                self.workers[worker.connection] = worker

    def feed(self, worker: _Worker) -> None:
        """Give a process what it can take."""
        most = IN_HAND if len(self.agenda) > len(self.places) else 1  # the last ones are for who is done first
        while worker.is_ready and len(worker.tasks) < most and not any(task.alone for task in worker.tasks):
            task = self.agenda.take(not worker.tasks)
            if task is None:
                return
            worker.tasks.append(task)
            worker.send(task)

    def listen(self, worker: _Worker) -> None:
        """Take in what a process has to say, or that it has ended."""
        try:
            kind, value = worker.connection.recv()
        except (EOFError, OSError):
            self.bury(worker)
            return
        if kind == READY:
            worker.is_ready, self.stillborn = True, 0
        elif kind == ADVANCE:
            worker.ahead += value
            self.advance(value)
        elif kind == SURVIVED:
            self.agenda.survived(worker.tasks.popleft())
        elif kind == RECEIPT:
            worker.tasks = deque(task for task in worker.tasks if task.shard != value.shard)
            worker.ahead -= value.ids
            self.on_receipt(value)
        elif kind == FAILED:
            worker.has_failed = True
            worker.tasks.clear()
            self.agenda.fail(unpack(value))

    def bury(self, worker: _Worker) -> None:
        """Take note that a process has ended."""
        del self.workers[worker.connection]
        worker.end()
        if worker.ahead > 0:
            self.advance(-worker.ahead)
        if worker.has_failed:
            return
        if not worker.is_ready:
            self.stillborn += 1
            logger.warning("A worker process has ended before it had the model: %s.", worker.cause)
            if self.stillborn == STILLBORN:
                self.agenda.fail(RuntimeError(_stillborn(worker.cause)))
        else:
            numbers = ", ".join(str(task.shard) for task in worker.tasks) or "none"
            logger.warning("A worker process has ended: %s. It had these shards in hand: %s.", worker.cause, numbers)
        self.agenda.died(worker.tasks, worker.cause)

    def end(self, in_peace: bool) -> None:
        """End all processes, and wait until they have."""
        for worker in self.workers.values():
            if in_peace:
                worker.send(None)
            else:
                worker.process.terminate()
        for worker in self.workers.values():
            worker.end()
        self.workers.clear()


def _stillborn(cause: str) -> str:
    return (
        f"{STILLBORN} worker processes in a row have ended before they had the model (the last: {cause}); what they wrote to the "
        f"standard error stream says more. Either memory is short, so take fewer workers; or the script that calls this has "
        f"no `if __name__ == '__main__':` around the call, which other processes import; or take the engine 'inline'."
    )
