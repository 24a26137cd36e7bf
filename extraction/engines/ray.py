"""Shards computed by actors of a Ray cluster. Tasks and receipts cross its object store; images and maps never do."""

from __future__ import annotations

import logging
import os
import pickle
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch

from vertebra.extraction.engines.agenda import Agenda, Task
from vertebra.extraction.engines.local import IN_HAND, STALL, STILLBORN, pickle_job
from vertebra.extraction.engines.process import ADVANCE, FAILED, READY, RECEIPT, SURVIVED, pack, unpack
from vertebra.extraction.leftovers import remove_leftovers
from vertebra.extraction.memory import keep_memory
from vertebra.extraction.plan import Plan
from vertebra.extraction.recipe import Recipe
from vertebra.extraction.runtime import MAX_THREADS, Runtime
from vertebra.extraction.worker import Advance, Receipt, compute_shard, extract_shard

logger = logging.getLogger(__name__)

OBJECT_STORE = 128 * 2**20
"""Bytes of the object store of a cluster that is started here: it holds the recipe, tasks and receipts."""
PATIENCE = 60.0
"""Seconds without any actor after which that is said."""
EVERY = 1.0
"""Seconds between two questions to an actor about how far it is."""
BESIDE = "beside"
"""Name of the thread that answers them."""
ANSWER = 10.0
"""Seconds in which a cluster has to answer. Ray itself tries for minutes, and then ends the process."""


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
    address: str | None = None,
    gpus: float | None = None,
    stall: float = STALL,
) -> None:
    """Compute shards of a plan on a Ray cluster; see `vertebra.extraction.engines.Engine`.

    All machines must reach the images and the store's folder by the same paths, and have vertebra installed. An actor that ends
    is replaced; what ends three of them is searched for the image that does it, as by the engine `"local"`.

    Args:
        plan: The plan.
        recipe: How maps are computed. A model that is a name is read by each actor, a backbone is sent to it once.
        shards: Numbers of the shards.
        workers: The most actors; None: as many as the cluster has room for now. Those that do not fit wait for it to grow, which
            is what an autoscaling cluster does then; an actor for which there is nothing left to do is ended, so that it can
            shrink.
        devices: One device for all, `["cuda"]` (a GPU for each actor) or `["cpu"]`; None: the recipe's, or else a GPU where the
            cluster has any.
        on_receipt: Called when a shard is on disk.
        advance: Called with a number of images that are done.
        stop: Asked before a shard is given out.
        address: Of a running cluster, `"HOST:PORT"` or `"auto"` for the one of this machine; None: `RAY_ADDRESS`, or else one is
            started, and stopped at the end. Where `ray.init` was called before, that cluster is used.
        gpus: GPUs of an actor; a share such as 0.5 lets two have one. None: 1 where the cluster has any.
        stall: Seconds after which an actor that has something to do and finishes no batch is ended; see the engine `"local"`.

    Raises:
        ImportError: Ray is not installed.
        ConnectionError: there is no cluster at the address.
        ValueError: several devices, or more than the cluster has; or the recipe is of another job than the plan, or cannot be
            sent to another process.
        RuntimeError: the actors end before they have a model, or because of no single image.
        OSError: a shard cannot be written.
    """
    check(workers=workers, devices=devices, address=address, gpus=gpus, stall=stall)
    wanted = frozenset(shards)
    if not wanted:
        return
    import ray

    remove_leftovers(plan.storage)
    agenda = Agenda(plan, sorted(wanted), stop)
    job = pickle_job(plan, replace(recipe, device=devices[0]) if devices else recipe)
    started = not ray.is_initialized()
    if started:
        _connect(ray, address, len(job))
    try:
        shares = _shares(ray, recipe, workers, devices, gpus, len(wanted))
        crew = _Crew(ray, agenda, job, shares, stall, on_receipt or _ignore, advance or _ignore)
        try:
            crew.work()
        finally:
            crew.end()
    finally:
        if started:
            ray.shutdown()
        remove_leftovers(plan.storage)
    if agenda.failure is not None:
        raise agenda.failure


def _ignore(value: Any) -> None:
    pass


def check(
    *,
    workers: int | None = None,
    devices: Sequence[str] | None = None,
    address: str | None = None,
    gpus: float | None = None,
    stall: float = STALL,
) -> None:
    """Check the arguments of `run`, and that there is a cluster at the address.

    Raises:
        ValueError: one cannot be used.
        ImportError: Ray is not installed.
        ConnectionError: there is no cluster.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers={workers} must be at least 1.")
    if devices is not None and (len(devices) != 1 or ":" in devices[0]):
        raise ValueError(f"devices={list(devices)} must be ['cuda'] or ['cpu']: Ray decides which GPU an actor has.")
    if gpus is not None and not (0 < gpus <= 1 or (gpus > 1 and gpus == int(gpus))):
        raise ValueError(f"gpus={gpus} must be a share of a GPU, such as 0.5, or a whole number of them.")
    if not stall > 0:
        raise ValueError(f"stall={stall} must be more than 0 seconds.")
    try:
        import ray
    except ImportError as error:
        raise ImportError("The engine 'ray' needs Ray: pip install 'vertebra[ray]'.") from error
    address = address or os.environ.get("RAY_ADDRESS")
    if address and not ray.is_initialized():
        _reach(address)


def _reach(address: str) -> None:
    """Ask whether anybody is at an address."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if address in ("auto", "local"):
        return
    if not host or not port.isdigit():
        raise ValueError(f"address={address!r} must be HOST:PORT, or 'auto' for the cluster of this machine.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(
            f"There is no Ray cluster at address={address!r}: {error}. `ray start --head` starts one and says its address; "
            f"without an address, one is started for this run."
        ) from error


def _connect(ray: ModuleType, address: str | None, job_bytes: int) -> None:
    address = address or os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address:
        try:
            ray.init(address=address, **quiet)
        except ConnectionError as error:
            raise ConnectionError(f"There is no Ray cluster at address={address!r}: {error}") from error
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(include_dashboard=False, object_store_memory=OBJECT_STORE + 2 * job_bytes, **quiet)


def _shares(
    ray: ModuleType,
    recipe: Recipe,
    workers: int | None,
    devices: Sequence[str] | None,
    share: float | None,
    shards: int,
) -> tuple[int, dict[str, float]]:
    """How many actors there are, and what of the cluster each takes; `share` is of GPUs."""
    resources = ray.cluster_resources()
    device = devices[0] if devices else recipe.device
    on_cpu = device is not None and not device.startswith("cuda")
    gpus = 0 if on_cpu else int(resources.get("GPU", 0))
    cores = max(1, int(resources.get("CPU", 1)))
    if on_cpu and share is not None:
        raise ValueError(f"gpus={share:g} and device={device!r} exclude each other; leave one out.")
    if not gpus and workers is None and (share is not None or (device is not None and not on_cpu)):
        asked = f"device={device!r}" if share is None else f"gpus={share:g}"
        raise ValueError(
            f"{asked} cannot be used: the Ray cluster has no GPU. It has {cores} CPU cores. Give workers= where it grows."
        )
    on_gpu = gpus > 0 or share is not None or (device is not None and not on_cpu)
    share = (share or 1) if on_gpu else 0
    count = max(1, min(workers or (int(gpus / share) if share else cores), shards))
    return count, {"num_cpus": max(1, cores // count), "num_gpus": share}


class _Actor:
    """A process of the cluster. What goes wrong is returned, so that an exception is always the end of the process."""

    def __init__(self, job: bytes, threads: int) -> None:
        self.job, self.threads = job, threads
        self.shard, self.count = -1, 0

    def begin(self) -> tuple[str, Any]:
        try:
            torch.set_num_threads(max(1, min(torch.get_num_threads(), self.threads)))
            keep_memory()
            self.plan, recipe = pickle.loads(self.job)
            threads = recipe.decode_threads or min(MAX_THREADS, self.threads)
            self.runtime = Runtime(replace(recipe, decode_threads=threads))
            return READY, None
        except Exception as error:
            return FAILED, pack(error)

    def do(self, task: Task) -> tuple[str, Any]:
        self.shard, self.count = task.shard, 0
        try:
            if task.rows is None:
                return RECEIPT, extract_shard(
                    self.plan, task.shard, self.runtime, crashed=task.crashed, advance=self.advance
                )
            compute_shard(self.plan.ids_of(task.shard)[slice(*task.rows)], self.runtime, advance=self.advance)
            return SURVIVED, None
        except Exception as error:
            return FAILED, pack(error)

    def advance(self, count: int) -> None:
        self.count += count

    def pulse(self) -> tuple[str, tuple[int, int]]:
        """How many images of which shard are done; answered beside the work."""
        return ADVANCE, (self.shard, self.count)


class _Hand:
    """An actor and what it has in hand: its calls in order, with their tasks; None stands for its beginning and its pulse."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.calls: dict[Any, Task | None] = {handle.begin.remote(): None}
        self.is_ready = False
        self.counted = self.ahead = (-1, 0)
        self.heard = self.asked = time.monotonic()

    @property
    def tasks(self) -> list[Task]:
        return [task for task in self.calls.values() if task is not None]

    def give(self, task: Task) -> None:
        if not self.tasks:
            self.heard = time.monotonic()
        self.calls[self.handle.do.remote(task)] = task

    def ask(self) -> None:
        """Feel the pulse now and then, of whoever has something to do."""
        if self.tasks and None not in self.calls.values() and time.monotonic() - self.asked > EVERY:
            self.asked = time.monotonic()
            self.calls[self.handle.pulse.options(concurrency_group=BESIDE).remote()] = None


class _Crew:
    """The actors."""

    def __init__(
        self,
        ray: ModuleType,
        agenda: Agenda,
        job: bytes,
        shares: tuple[int, dict[str, float]],
        stall: float,
        on_receipt: Callable[[Receipt], Any],
        advance: Advance,
    ) -> None:
        self.ray, self.agenda, self.stall = ray, agenda, stall
        self.on_receipt, self.advance = on_receipt, advance
        self.count, share = shares
        self.job = ray.put(job)
        self.threads = int(share["num_cpus"])
        groups = {BESIDE: 1}
        self.actor = ray.remote(**share, max_restarts=0, max_task_retries=0, concurrency_groups=groups)(_Actor)
        self.hands: list[_Hand] = []
        self.stillborn = 0
        self.told = time.monotonic()

    def work(self) -> None:
        """Do all tasks."""
        while True:
            for hand in self.hands:
                self.feed(hand)
            while len(self.hands) < self.count and len(self.agenda) > 0:
                self.hands.append(_Hand(self.actor.remote(self.job, self.threads)))
            self.dismiss()
            if not len(self.agenda) and not any(hand.tasks for hand in self.hands):
                return
            for hand in self.hands:
                hand.ask()
            calls = {call: hand for hand in self.hands for call in hand.calls}
            done, _ = self.ray.wait(list(calls), num_returns=1, timeout=EVERY)
            for call in done:
                self.listen(calls[call], call)
            for hand in list(self.hands):
                if hand.tasks and time.monotonic() - hand.heard > self.stall:
                    self.bury(hand, f"silence for {self.stall:g} s")
            self.warn()

    def warn(self) -> None:
        """Say where there is room for no actor."""
        if any(hand.is_ready for hand in self.hands):
            self.told = time.monotonic()
        elif time.monotonic() - self.told > PATIENCE:
            self.told = time.monotonic()
            free = self.ray.available_resources()
            logger.warning("Ray has placed no actor for %.0f s. Free in the cluster: %s.", PATIENCE, free)

    def feed(self, hand: _Hand) -> None:
        """Give an actor what it can take."""
        most = IN_HAND if len(self.agenda) > self.count else 1
        while hand.is_ready and len(hand.tasks) < most and not any(task.alone for task in hand.tasks):
            task = self.agenda.take(not hand.tasks)
            if task is None:
                return
            hand.give(task)

    def dismiss(self) -> None:
        """End actors that have nothing to do, and will not have; a cluster that scales can then do without their nodes."""
        if len(self.agenda) or not any(hand.tasks for hand in self.hands):
            return
        spare = sorted((hand for hand in self.hands if not hand.tasks), key=lambda hand: not hand.is_ready)
        for hand in spare[1:]:  # one stays for what another may have to give back
            self.ray.kill(hand.handle)
            self.hands.remove(hand)

    def listen(self, hand: _Hand, call: Any) -> None:
        """Take in what a call has brought."""
        try:
            kind, value = self.ray.get(call)
        except self.ray.exceptions.RayError as error:
            self.bury(hand, type(error).__name__, error)
            return
        task = hand.calls.pop(call)
        if kind == ADVANCE:
            if any(task.shard == value[0] and task.rows is None for task in hand.tasks):
                self.progress(hand, *value)
            elif value != hand.ahead:
                hand.ahead, hand.heard = value, time.monotonic()
            return
        hand.heard = time.monotonic()
        if kind == READY:
            hand.is_ready, self.stillborn = True, 0
        elif kind == SURVIVED and task is not None:
            self.agenda.survived(task)
        elif kind == FAILED:
            self.agenda.fail(unpack(value))
        elif kind == RECEIPT:
            self.progress(hand, value.shard, value.ids)
            hand.counted = (-1, 0)
            self.on_receipt(value)

    def progress(self, hand: _Hand, shard: int, count: int) -> None:
        """Take note of how many images of a shard are done."""
        before = hand.counted[1] if hand.counted[0] == shard else 0
        if count > before:
            hand.counted, hand.heard = (shard, count), time.monotonic()
            self.advance(count - before)

    def bury(self, hand: _Hand, cause: str, error: object = "") -> None:
        """Take note that an actor has ended."""
        self.hands.remove(hand)
        self.ray.kill(hand.handle)  # it may only be out of reach
        logger.warning("A Ray actor has ended (%s). %s", cause, str(error).strip().replace("\n", " "))
        if hand.counted[1]:
            self.advance(-hand.counted[1])
        if not hand.is_ready:
            self.stillborn += 1
            if self.stillborn == STILLBORN:
                self.agenda.fail(
                    RuntimeError(
                        f"{STILLBORN} Ray actors in a row have ended before they had the model ({cause}): {error}"
                    )
                )
        self.agenda.died(hand.tasks, cause)

    def end(self) -> None:
        """End all actors."""
        for hand in self.hands:
            self.ray.kill(hand.handle)
        self.hands.clear()
