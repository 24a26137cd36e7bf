"""Shards computed by processes of this machine, one for each device or several on the CPU; any of them may be killed."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from typing import Any

from vertebra.extraction.engines.agenda import Agenda, Task
from vertebra.extraction.engines.process import ADVANCE, FAILED, READY, RECEIPT, SURVIVED, serve, unpack
from vertebra.extraction.engines.server import context
from vertebra.extraction.leftovers import remove_leftovers
from vertebra.extraction.plan import Plan
from vertebra.extraction.recipe import Recipe, pick_device
from vertebra.extraction.runtime import available_cores
from vertebra.extraction.worker import Advance, Receipt

logger = logging.getLogger(__name__)

IN_HAND = 2
"""Shards that a process has: one is computed while the images of the next are decoded."""
STILLBORN = 3
"""Processes in a row that may end before they have the model."""
PAUSE = 0.1
"""Seconds before a process that could not be started is started again."""
PATIENCE = 10.0
"""Seconds that a process has to end."""
STALL = 600.0
"""Seconds that a process may say nothing, though it has something to do."""


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
    stall: float = STALL,
) -> None:
    """Compute shards of a plan in processes of this machine; see `vertebra.extraction.engines.Engine`.

    A process that ends is replaced, and its shards are computed by another. One that ends three processes is searched for the
    image that does it, which goes into quarantine with the stage `"crash"`. The processes end with this one, however it ends.
    They share the cores.

    Args:
        plan: The plan.
        recipe: How maps are computed.
        shards: Numbers of the shards.
        workers: How many processes; None: one for each device.
        devices: What they run on, in turn.
        on_receipt: Called when a shard is on disk.
        advance: Called with a number of images that are done.
        stop: Asked before a shard is given out.
        stall: Seconds after which a process that has something to do and finishes no batch is ended, as if it had ended itself:
            it may read from a network drive that does not answer. A batch, and the loading of the model, must take less.

    Raises:
        ValueError: there is no such device or number of workers; the recipe is of another job than the plan, or cannot be
            sent to another process.
        RuntimeError: the processes end before they have a model, or because of no single image.
        OSError: a shard cannot be written.
    """
    check(workers=workers, devices=devices, stall=stall)
    wanted = frozenset(shards)
    remove_leftovers(plan.storage)
    agenda = Agenda(plan, sorted(wanted), stop)
    places = _places(workers, devices, len(agenda))
    crew = _Crew(agenda, pickle_job(plan, recipe), places, stall, on_receipt or _ignore, advance or _ignore)
    in_peace = False
    try:
        crew.work()
        in_peace = agenda.failure is None
    finally:
        crew.end(in_peace)
        remove_leftovers(plan.storage)
    if agenda.failure is not None:
        raise agenda.failure


def _ignore(value: Any) -> None:
    pass


def check(*, workers: int | None = None, devices: Sequence[str] | None = None, stall: float = STALL) -> None:
    """Check the arguments of `run`. Raises ValueError."""
    if workers is not None and workers < 1:
        raise ValueError(f"workers={workers} must be at least 1.")
    if devices is not None and (isinstance(devices, str) or not devices):
        raise ValueError(f"devices={devices!r} must be a list of devices, such as ['cuda:0', 'cuda:1'].")
    if not stall > 0:
        raise ValueError(f"stall={stall} must be more than 0 seconds.")
    for device in devices or ():
        pick_device(device)


def _places(workers: int | None, devices: Sequence[str] | None, tasks: int) -> list[str | None]:
    """The device of each process."""
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
        processes = context()
        self.place = place
        self.connection, theirs = processes.Pipe()
        self.process = processes.Process(
            target=serve, args=(theirs, job, device, threads, dict(os.environ)), daemon=True
        )
        self.process.start()
        theirs.close()  # so that the end of the process is the end of the pipe
        self.tasks: deque[Task] = deque()
        self.is_ready = self.has_failed = False
        self.ahead = 0
        self.heard = time.monotonic()
        self.why_killed = ""

    @property
    def is_busy(self) -> bool:
        """Whether it is to be heard of."""
        return bool(self.tasks) or not self.is_ready

    def give(self, task: Task) -> None:
        if not self.tasks:
            self.heard = time.monotonic()
        self.tasks.append(task)
        self.send(task)

    def send(self, task: Task | None) -> None:
        with suppress(OSError):  # it may have ended, which the next reading finds out
            self.connection.send(task)

    def end(self) -> None:
        """Wait until the process has ended; after a while, make it."""
        for insist in (self.process.terminate, self.process.kill, self._leave_alone):
            self.process.join(PATIENCE)
            if self.process.exitcode is not None:
                break
            insist()
        self.connection.close()

    def _leave_alone(self) -> None:
        logger.error("The worker process %s cannot be ended; the kernel holds it.", self.process.pid)

    @property
    def cause(self) -> str:
        """What ended the process: `SIGKILL`, `exit code 1`, `silence for 600 s`."""
        if self.why_killed:
            return self.why_killed
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
        stall: float,
        on_receipt: Callable[[Receipt], Any],
        advance: Advance,
    ) -> None:
        self.agenda, self.job, self.places, self.stall = agenda, job, places, stall
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
            if not self.workers:
                time.sleep(PAUSE)
                continue
            silent = min((worker.heard for worker in self.workers.values() if worker.is_busy), default=time.monotonic())
            for connection in wait(list(self.workers), max(0.0, silent + self.stall - time.monotonic())):
                self.listen(self.workers[connection])
            self.end_silent()

    def end_silent(self) -> None:
        """End processes that have said nothing for too long."""
        for worker in list(self.workers.values()):
            if worker.is_busy and time.monotonic() - worker.heard > self.stall:
                worker.why_killed = f"silence for {self.stall:g} s"
                worker.process.kill()
                self.bury(worker)

    def hire(self) -> None:
        """Put a process into every place that has none, where there is something to do."""
        for place in set(range(len(self.places))) - {worker.place for worker in self.workers.values()}:
            if len(self.agenda):
                try:
                    worker = _Worker(place, self.job, self.places[place], self.threads)
                except (OSError, EOFError) as error:  # what it is forked from may end as well, and is then started anew
                    self.miss(f"{type(error).__name__}: {error}")
                    continue
                self.workers[worker.connection] = worker

    def miss(self, cause: str) -> None:
        """Take note that a process has not come to anything."""
        self.stillborn += 1
        logger.warning("A worker process has ended before it had the model: %s.", cause)
        if self.stillborn == STILLBORN:
            self.agenda.fail(RuntimeError(_stillborn(cause)))

    def feed(self, worker: _Worker) -> None:
        """Give a process what it can take."""
        most = IN_HAND if len(self.agenda) > len(self.places) else 1  # the last ones are for who is done first
        while worker.is_ready and len(worker.tasks) < most and not any(task.alone for task in worker.tasks):
            task = self.agenda.take(not worker.tasks)
            if task is None:
                return
            worker.give(task)

    def listen(self, worker: _Worker) -> None:
        """Take in what a process has to say, or that it has ended."""
        worker.heard = time.monotonic()
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
            self.miss(worker.cause)
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
