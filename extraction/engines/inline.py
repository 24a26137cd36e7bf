"""Shards computed by this process, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from vertebra.extraction.leftovers import remove_leftovers
from vertebra.extraction.plan import Plan
from vertebra.extraction.recipe import Recipe, pick_device
from vertebra.extraction.runtime import Runtime
from vertebra.extraction.worker import Advance, Receipt, extract_shards


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
    """Compute shards of a plan in this process; see `vertebra.extraction.engines.Engine`.

    An image that ends the process ends the run: only the other engines survive that.

    Raises:
        ValueError: `workers` or `devices` ask for more than one process; or the recipe is of another job than the plan.
        OSError: a shard cannot be written.
    """
    check(workers=workers, devices=devices)
    wanted = frozenset(shards)
    remove_leftovers(plan.storage)
    runtime = Runtime(replace(recipe, device=devices[0]) if devices else recipe)
    try:
        for receipt in extract_shards(plan, _until(stop, sorted(wanted)), runtime, advance=advance):
            if on_receipt is not None:
                on_receipt(receipt)
    finally:
        runtime.close()
        remove_leftovers(plan.storage)


def check(*, workers: int | None = None, devices: Sequence[str] | None = None) -> None:
    """Check the arguments of `run`. Raises ValueError."""
    if workers not in (None, 1) or (devices is not None and len(devices) != 1):
        raise ValueError(
            f"workers={workers} and devices={devices} ask for several processes, and the engine 'inline' is this one; take "
            f"the engine 'local'."
        )
    for device in devices or ():
        pick_device(device)


def _until(stop: Callable[[], bool] | None, shards: Iterable[int]) -> Iterator[int]:
    for shard in shards:
        if stop is not None and stop():
            return
        yield shard
