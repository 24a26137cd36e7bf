"""One shard, computed and written: the whole unit of work, whoever schedules it."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vertebra.extraction.images import ImageRef
from vertebra.extraction.plan import Plan, refuse_another_job
from vertebra.extraction.recipe import Recipe as Recipe
from vertebra.extraction.runtime import BadImage, Flight, Prepared, Runtime, no_memory
from vertebra.extraction.shard_file import Failure, Shard, Size, shard_name

logger = logging.getLogger(__name__)

AHEAD = 2
"""Batches that are decoded before they are needed."""
Advance = Callable[[int], Any]


@dataclass(frozen=True)
class Receipt:
    """What became of a shard. Small, so that it travels.

    Args:
        shard: Its number.
        ids: How many images it has.
        quarantined: How many of them have no maps.
        bytes: Size of its file.
        seconds: Wall time.
        smallest_batch: The size that batches were cut to where memory was short; 0 where it was not.
    """

    shard: int
    ids: int
    quarantined: int
    bytes: int
    seconds: float
    smallest_batch: int = 0


def extract_shard(
    plan: Plan,
    k: int,
    runtime: Runtime,
    *,
    crashed: Mapping[str, Failure] | None = None,
    advance: Advance | None = None,
) -> Receipt:
    """Compute shard `k` of a plan and write it with one rename; see `extract_shards`. Done again it gives the same bytes."""
    return next(iter(extract_shards(plan, [k], runtime, crashed=crashed, advance=advance)))


def extract_shards(
    plan: Plan,
    shards: Iterable[int],
    runtime: Runtime,
    *,
    crashed: Mapping[str, Failure] | None = None,
    advance: Advance | None = None,
) -> Iterator[Receipt]:
    """Compute shards of a plan one after the other, and yield a receipt when one is on disk.

    While the maps of a shard are computed, the one before it is written and images of the next one are decoded; so `shards`
    is asked for a number before the shard before it is done, and two shards may be in memory. Batches are formed of a shard's
    own images in their order, so that its bytes depend neither on what else the process computes nor on the order of
    shards; they are equal on equal machines with equal software and batch size.

    Args:
        plan: The plan.
        shards: Numbers of shards.
        runtime: What computes; of the plan's job.
        crashed: Images that are not touched, since they end the process, and what is recorded of them.
        advance: Called with the number of images that are done, for progress.

    Raises:
        ValueError: the runtime is of another job than the plan.
        OSError: a shard cannot be written.
        MemoryError: there is not memory enough for a single image, and never was.
    """
    refuse_another_job(plan, runtime)
    started = time.monotonic()
    written: deque[tuple[_Collector, int, int, Future[int]]] = deque()

    def receipt() -> Receipt:
        nonlocal started
        collector, k, ids, size = written.popleft()
        before, started = started, time.monotonic()
        return Receipt(k, ids, len(collector.shard.quarantine), size.result(), started - before, collector.smallest)

    wanted = ((k, plan.ids_of(k)) for k in shards)
    for (k, images), collector in _collect(wanted, runtime, crashed or {}, advance or (lambda count: None)):
        while written and (collector is not None or written[0][-1].done()):
            yield receipt()
        if collector is None:
            continue
        written.append((collector, k, len(images), runtime.writer.submit(write_shard, plan, k, collector.shard)))
    while written:
        yield receipt()


def write_shard(plan: Plan, k: int, shard: Shard) -> int:
    """Write a shard to its place, and return its size in bytes."""
    with plan.storage.write(shard_name(k)) as file:
        return shard.write(file, plan.facts(k))


def compute_shard(
    images: Sequence[ImageRef],
    runtime: Runtime,
    *,
    crashed: Mapping[str, Failure] | None = None,
    advance: Advance | None = None,
) -> tuple[Shard, int]:
    """Compute the maps of images, in memory.

    Returns:
        The shard, and the size that batches were cut to where memory was short (0 where it was not).
    """
    found = _collect([(0, images)], runtime, crashed or {}, advance or (lambda count: None))
    collector = next(collector for _, collector in found if collector is not None)
    return collector.shard, collector.smallest


Wanted = tuple[int, Sequence[ImageRef]]


def _collect(
    shards: Iterable[Wanted], runtime: Runtime, crashed: Mapping[str, Failure], advance: Advance
) -> Iterator[tuple[Wanted, _Collector | None]]:
    """Compute shards one after the other; images are prepared across their borders.

    There is an entry for every image, without a collector, and one for the end of every shard.
    """
    collector = _Collector(runtime, advance)
    for shard, image, future in _prepare(shards, runtime, crashed):
        if image is None or future is None:
            collector.finish()
            collector.shard.quarantine.update(
                {image.id: crashed[image.id] for image in shard[1] if image.id in crashed}
            )
            yield shard, collector
            collector = _Collector(runtime, advance)
            continue
        try:
            prepared = future.result()
        except BadImage as error:
            collector.fail(image, error.stage, error.error)
        else:
            collector.take(image, prepared)
        yield shard, None


def _prepare(
    shards: Iterable[Wanted], runtime: Runtime, crashed: Mapping[str, Failure]
) -> Iterator[tuple[Wanted, ImageRef | None, Future[Prepared] | None]]:
    """Prepare images on the runtime's threads, in order; only so many are in memory as the next batches need.

    The end of a shard is an entry without an image.
    """
    window = AHEAD * runtime.recipe.batch_size + runtime.thread_count
    waiting: deque[tuple[Wanted, ImageRef | None, Future[Prepared] | None]] = deque()
    try:
        for shard in shards:
            for image in shard[1]:
                if image.id not in crashed:
                    waiting.append((shard, image, runtime.threads.submit(runtime.prepare, image)))
                while len(waiting) >= window:
                    yield waiting.popleft()
            waiting.append((shard, None, None))
        while waiting:
            yield waiting.popleft()
    finally:
        for _, _, future in waiting:
            if future is not None:
                future.cancel()


Item = tuple[ImageRef, Prepared]


class _Collector:
    """Forms batches of images of one size, runs them, and puts what comes back into a shard."""

    def __init__(self, runtime: Runtime, advance: Advance) -> None:
        self.runtime, self.advance = runtime, advance
        self.shard = Shard()
        self.waiting: dict[tuple[Size, torch.dtype], list[Item]] = {}
        self.flying: deque[tuple[list[Item], Flight]] = deque()
        self.limits: dict[Size, int] = {}

    @property
    def smallest(self) -> int:
        """The size that batches were cut to; 0 where they were not."""
        return min(self.limits.values(), default=0)

    def fail(self, image: ImageRef, stage: str, error: str) -> None:
        self.shard.quarantine[image.id] = Failure(stage, error, image.tried + 1)
        self.advance(1)

    def take(self, image: ImageRef, prepared: Prepared) -> None:
        size = prepared.size
        if refusal := self.runtime.refusal(size):
            self.fail(image, "forward", f"ValueError: {refusal}")
            return
        kind = size, prepared.pixels.dtype
        batch = self.waiting.setdefault(kind, [])
        batch.append((image, prepared))
        if len(batch) >= self.limits.get(size, self.runtime.recipe.batch_size):
            self.run(self.waiting.pop(kind))

    def finish(self) -> None:
        for batch in self.waiting.values():
            self.run(batch)
        self.waiting.clear()
        self.land()

    def run(self, batch: list[Item]) -> None:
        """Start a batch, and take in those before it; where memory is short, in halves."""
        try:
            flight = self.start(batch)
        except (MemoryError, RuntimeError) as error:
            if not no_memory(error):
                raise
            short = str(error)
        else:
            self.land(keep=1)
            self.flying.append((batch, flight))
            return
        self.land()  # outside the handler, whose traceback keeps the tensors alive
        self.runtime.free()
        self.halve(batch, short)

    def start(self, batch: list[Item]) -> Flight:
        return self.runtime.run([prepared.pixels for _, prepared in batch])

    def halve(self, batch: list[Item], short: str) -> None:
        size, half = batch[0][1].size, len(batch) // 2
        if half:
            self.limits[size] = min(half, self.limits.get(size, half))
            logger.warning("Memory is short for %d images of %dx%d at once; going on with %d.", len(batch), *size, half)
            for start in range(0, len(batch), half):
                self.run(batch[start : start + half])
        elif self.runtime.has_run:
            self.fail(
                batch[0][0], "forward", f"MemoryError: not enough memory for this image of {size[0]}x{size[1]} pixels."
            )
        else:
            raise MemoryError(
                f"There is not memory enough on {self.runtime.device} for one image of {size[0]}x{size[1]} pixels ({short}). "
                f"Give a smaller size, another device or another dtype, or free the device."
            )

    def land(self, keep: int = 0) -> None:
        """Take in batches under way, all but the last `keep`."""
        while len(self.flying) > keep:
            batch, flight = self.flying.popleft()
            self.store(batch, flight.land(), flight.finite)

    def store(self, batch: list[Item], maps: dict[str, Tensor], finite: Tensor | None) -> None:
        good = list(range(len(batch)))
        if finite is not None and not bool(finite.all()):
            for row in [row for row in good if not bool(finite[row].all())]:
                good.remove(row)
                levels = [name for name, fine in zip(maps, finite[row].tolist(), strict=True) if not fine]
                self.fail(batch[row][0], "forward", self.nonfinite(levels))
            maps = {name: level[good] for name, level in maps.items()}
        for row in good:
            image, prepared = batch[row]
            self.shard.sizes[image.id] = prepared.original
        if good:
            self.shard.add(batch[0][1].size, [batch[row][0].id for row in good], maps)
        self.advance(len(good))

    def nonfinite(self, levels: list[str]) -> str:
        hint = " bfloat16 and float32 reach further." if self.runtime.dtype == "float16" else ""
        return f"ValueError: values of {', '.join(levels)} are not finite as {self.runtime.dtype}.{hint}"
