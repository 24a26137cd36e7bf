"""The inside of a worker process: it takes tasks out of its pipe and puts receipts into it, until the other end is closed."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import replace
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any

import torch

from vertebra.extraction.engines.agenda import Task
from vertebra.extraction.memory import keep_memory
from vertebra.extraction.plan import Plan
from vertebra.extraction.runtime import MAX_THREADS, Runtime
from vertebra.extraction.worker import compute_shard, extract_shard, extract_shards

READY, RECEIPT, SURVIVED, ADVANCE, FAILED = "ready", "receipt", "survived", "advance", "failed"
EVERY = 0.5
"""Seconds between two reports of progress inside a shard."""


def serve(connection: Connection, job: bytes, device: str | None, threads: int, environment: Mapping[str, str]) -> None:
    """Do tasks until told to end, or until the parent process is no more.

    Messages are pairs of a kind and a value: `READY` (None) once the model is there, `RECEIPT` (Receipt) when a shard is on
    disk, `SURVIVED` (None) when some images were computed, `ADVANCE` (how many images are done), `FAILED` (what was raised, for
    `unpack`), after which the process ends.

    Args:
        connection: Where `Task`s come from, None for the end, and messages go to.
        job: The plan and the recipe, pickled.
        device: What the backbone runs on; None: the recipe's.
        threads: Threads that this process may keep busy.
        environment: Variables of the parent, which may have changed since the process that this one is forked from was started.
    """
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent decides
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(max(1, min(torch.get_num_threads(), threads)))
    keep_memory()
    try:
        _serve(connection, job, device, threads)
    except Exception as error:
        _say(connection, FAILED, pack(error))


def _say(connection: Connection, kind: str, value: Any) -> None:
    try:
        connection.send((kind, value))
    except OSError:
        sys.exit(1)  # nobody listens any more


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)  # an exception, so that what is half-written is removed


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _serve(connection: Connection, job: bytes, device: str | None, threads: int) -> None:
    plan, recipe = pickle.loads(job)
    decode_threads = recipe.decode_threads or max(1, min(MAX_THREADS, threads))
    runtime = Runtime(replace(recipe, device=device or recipe.device, decode_threads=decode_threads))
    if runtime.device.type == "cuda" and runtime.device.index is not None:
        torch.cuda.set_device(runtime.device)  # else pinned memory takes room on the first GPU as well
    _say(connection, READY, None)
    try:
        inbox = _Inbox(connection)
        for task in inbox:
            _do(task, plan, runtime, inbox)
    finally:
        runtime.close()


def _do(task: Task, plan: Plan, runtime: Runtime, inbox: _Inbox) -> None:
    progress = _Progress(inbox.connection)
    if task.rows is not None:
        compute_shard(plan.ids_of(task.shard)[slice(*task.rows)], runtime, advance=lambda count: progress(0))
        _say(inbox.connection, SURVIVED, None)
        return
    if task.alone:
        receipts = iter([extract_shard(plan, task.shard, runtime, crashed=task.crashed, advance=progress)])
    else:
        receipts = extract_shards(plan, inbox.shards(task), runtime, advance=progress)
    for receipt in receipts:
        progress(len(task.crashed))
        progress.send()
        _say(inbox.connection, RECEIPT, receipt)


class _Inbox:
    """The tasks that come out of a pipe."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.is_closed = False

    def __iter__(self) -> Iterator[Task]:
        while not self.is_closed:
            yield from self._receive()

    def shards(self, first: Task) -> Iterator[int]:
        """The number of a shard, and of those that follow without a pause: they are computed in one go."""
        yield first.shard
        while not self.is_closed and self.connection.poll():
            for task in self._receive():
                yield task.shard

    def _receive(self) -> Iterator[Task]:
        try:
            task = self.connection.recv()
        except (EOFError, OSError):
            sys.exit(1)  # the other end has gone
        self.is_closed = task is None
        if task is not None:
            yield task


class _Progress:
    """Reports how many images are done, or that some are, but not for each one."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.count, self.sent = 0, time.monotonic()

    def __call__(self, count: int) -> None:
        self.count += count
        if time.monotonic() - self.sent > EVERY:
            self.send()

    def send(self) -> None:
        _say(self.connection, ADVANCE, self.count)
        self.count, self.sent = 0, time.monotonic()


class WorkerTraceback(Exception):
    """The traceback of an error in another process, as its cause."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def pack(error: Exception) -> tuple[bytes | None, str, str]:
    """An error as it can be sent to another process: pickled, where it can be; in words; its traceback."""
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    try:
        data: bytes | None = pickle.dumps(error)
        pickle.loads(data or b"")  # some can be pickled, but not back
    except Exception:  # any class of error may fail in any way; its words are sent all the same
        data = None
    return data, f"{type(error).__name__}: {error}", text


def unpack(packed: tuple[bytes | None, str, str]) -> BaseException:
    """The error that `pack` was given, or a RuntimeError with its words."""
    data, words, text = packed
    error: Any = RuntimeError(words) if data is None else pickle.loads(data)
    error.__cause__ = WorkerTraceback(text)
    return error
