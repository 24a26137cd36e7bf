"""Shards computed by actors of a Ray cluster. Tasks and receipts cross its object store; images and maps never do."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch

from vertebra.extraction.engines.agenda import Agenda, Task
from vertebra.extraction.engines.local import IN_HAND, STILLBORN, pickle_job
from vertebra.extraction.engines.process import FAILED, READY, RECEIPT, SURVIVED, pack, unpack
from vertebra.extraction.leftovers import remove_leftovers
from vertebra.extraction.plan import Plan
from vertebra.extraction.recipe import Recipe
from vertebra.extraction.runtime import MAX_THREADS, Runtime
from vertebra.extraction.worker import Advance, Receipt, compute_shard, extract_shard

logger = logging.getLogger(__name__)

OBJECT_STORE = 128 * 2**20
"""Bytes of the object store of a cluster that is started here: it holds the recipe, tasks and receipts."""
PATIENCE = 60.0
"""Seconds without any actor after which that is said."""


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
) -> None:
    """Compute shards of a plan on a Ray cluster; see `vertebra.extraction.engines.Engine`.

    All machines must reach the images and the store's folder by the same paths, and have vertebra installed. An actor that ends
    is replaced; what ends three of them is searched for the image that does it, as by the engine `"local"`.

    Args:
        plan: The plan.
        recipe: How maps are computed. A model that is a name is read by each actor, a backbone is sent to it once.
        shards: Numbers of the shards.
        workers: Actors; None: one for each GPU of the cluster, or where a CPU computes, for each of its cores. More than fit wait
            for the cluster to grow.
        devices: One device for all, `["cuda"]` (a GPU for each actor) or `["cpu"]`; None: the recipe's, or else a GPU where the
            cluster has any.
        on_receipt: Called when a shard is on disk.
        advance: Called with the number of images of such a shard.
        stop: Asked before a shard is given out.
        address: Of a running cluster, `"auto"` for the one of this machine; None: `RAY_ADDRESS`, or else one is started, and
            stopped at the end. Where `ray.init` was called before, that cluster is used.

    Raises:
        ImportError: Ray is not installed.
        ValueError: several devices, or the recipe is of another job than the plan, or cannot be sent to another process.
        RuntimeError: the actors end before they have a model, or because of no single image.
        OSError: a shard cannot be written.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers={workers} must be at least 1.")
    if devices is not None and (len(devices) != 1 or ":" in devices[0]):
        raise ValueError(f"devices={list(devices)} must be ['cuda'] or ['cpu']: Ray decides which GPU an actor has.")
    wanted = frozenset(shards)
    if not wanted:
        return
    try:
        import ray
    except ImportError as error:
        raise ImportError("The engine 'ray' needs Ray: pip install 'vertebra[ray]'.") from error
    remove_leftovers(plan.folder, wanted)
    agenda = Agenda(plan, sorted(wanted), stop)
    job = pickle_job(plan, replace(recipe, device=devices[0]) if devices else recipe)
    started = not ray.is_initialized()
    if started:
        _connect(ray, address, len(job))
    try:
        crew = _Crew(ray, agenda, job, _shares(ray, recipe, workers, devices, len(wanted)))
        try:
            crew.work(on_receipt or (lambda receipt: None), advance or (lambda count: None))
        finally:
            crew.end()
    finally:
        if started:
            ray.shutdown()
        remove_leftovers(plan.folder, wanted)
    if agenda.failure is not None:
        raise agenda.failure


def _connect(ray: ModuleType, address: str | None, job_bytes: int) -> None:
    address = address or os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address:
        ray.init(address=address, **quiet)
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(include_dashboard=False, object_store_memory=OBJECT_STORE + 2 * job_bytes, **quiet)


def _shares(
    ray: ModuleType, recipe: Recipe, workers: int | None, devices: Sequence[str] | None, shards: int
) -> tuple[int, dict[str, float]]:
    """How many actors there are, and what of the cluster each takes."""
    resources = ray.cluster_resources()
    device = devices[0] if devices else recipe.device
    gpus = 0 if device is not None and not device.startswith("cuda") else int(resources.get("GPU", 0))
    cores = int(resources.get("CPU", 1))
    if device is not None and device.startswith("cuda") and not gpus:
        raise ValueError(f"device={device!r} cannot be used: the Ray cluster has no GPU. It has {cores} CPU cores.")
    count = max(1, min(workers or gpus or cores, shards))
    return count, {"num_cpus": max(1, cores // count), "num_gpus": 1 if gpus else 0}


class _Actor:
    """A process of the cluster. What goes wrong is returned, so that an exception is always the end of the process."""

    def __init__(self, job: bytes, threads: int) -> None:
        self.job, self.threads = job, threads

    def begin(self) -> tuple[str, Any]:
        try:
            torch.set_num_threads(self.threads)
            self.plan, recipe = pickle.loads(self.job)
            threads = recipe.decode_threads or min(MAX_THREADS, self.threads)
            self.runtime = Runtime(replace(recipe, decode_threads=threads))
            return READY, None
        except Exception as error:
            return FAILED, pack(error)

    def do(self, task: Task) -> tuple[str, Any]:
        try:
            if task.rows is None:
                return RECEIPT, extract_shard(self.plan, task.shard, self.runtime, crashed=task.crashed)
            compute_shard(self.plan.ids_of(task.shard)[slice(*task.rows)], self.runtime)
            return SURVIVED, None
        except Exception as error:
            return FAILED, pack(error)


class _Hand:
    """An actor and what it has in hand: its calls in order, with their tasks; None stands for its beginning."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.calls: dict[Any, Task | None] = {handle.begin.remote(): None}
        self.is_ready = False

    @property
    def tasks(self) -> list[Task]:
        return [task for task in self.calls.values() if task is not None]


class _Crew:
    """The actors."""

    def __init__(self, ray: ModuleType, agenda: Agenda, job: bytes, shares: tuple[int, dict[str, float]]) -> None:
        self.ray, self.agenda = ray, agenda
        self.count, share = shares
        self.job = ray.put(job)
        self.threads = int(share["num_cpus"])
        self.actor = ray.remote(**share, max_restarts=0, max_task_retries=0)(_Actor)
        self.hands: list[_Hand] = []
        self.stillborn = 0

    def work(self, on_receipt: Callable[[Receipt], Any], advance: Advance) -> None:
        """Do all tasks."""
        while True:
            for hand in self.hands:
                self.feed(hand)
            while len(self.hands) < self.count and len(self.agenda) > 0:
                self.hands.append(_Hand(self.actor.remote(self.job, self.threads)))
            if not len(self.agenda) and not any(hand.tasks for hand in self.hands):
                return
            calls = {call: hand for hand in self.hands for call in hand.calls}
            done, _ = self.ray.wait(list(calls), num_returns=1, timeout=PATIENCE)
            if not done and not any(hand.is_ready for hand in self.hands):
                free = self.ray.available_resources()
                logger.warning("Ray has placed no actor for %.0f s. Free in the cluster: %s.", PATIENCE, free)
            for call in done:
                receipt = self.listen(calls[call], call)
                if receipt is not None:
                    advance(receipt.ids)
                    on_receipt(receipt)

    def feed(self, hand: _Hand) -> None:
        """Give an actor what it can take."""
        most = IN_HAND if len(self.agenda) > self.count else 1
        while hand.is_ready and len(hand.tasks) < most and not any(task.alone for task in hand.tasks):
            task = self.agenda.take(not hand.tasks)
            if task is None:
                return
            hand.calls[hand.handle.do.remote(task)] = task

    def listen(self, hand: _Hand, call: Any) -> Receipt | None:
        """Take in what a call has brought."""
        try:
            kind, value = self.ray.get(call)
        except self.ray.exceptions.RayError as error:
            self.bury(hand, error)
            return None
        task = hand.calls.pop(call)
        if kind == READY:
            hand.is_ready, self.stillborn = True, 0
        elif kind == SURVIVED and task is not None:
            self.agenda.survived(task)
        elif kind == FAILED:
            self.agenda.fail(unpack(value))
        return value if kind == RECEIPT else None

    def bury(self, hand: _Hand, error: Exception) -> None:
        """Take note that an actor has ended."""
        self.hands.remove(hand)
        self.ray.kill(hand.handle)  # it may only be out of reach
        logger.warning("A Ray actor has ended: %s", str(error).strip().replace("\n", " "))
        cause = type(error).__name__
        if not hand.is_ready:
            self.stillborn += 1
            if self.stillborn == STILLBORN:
                self.agenda.fail(
                    RuntimeError(f"{STILLBORN} Ray actors in a row have ended before they had the model: {error}")
                )
        self.agenda.died(hand.tasks, cause)

    def end(self) -> None:
        """End all actors."""
        for hand in self.hands:
            self.ray.kill(hand.handle)
        self.hands.clear()
