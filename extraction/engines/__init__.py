"""Who computes the shards of a plan: this process, other processes of this machine, or a Ray cluster.

Engines schedule numbers of shards and know nothing of images. All have the signature of `Engine`, and leave the same store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import Any, Protocol

from vertebra.errors import did_you_mean, listing
from vertebra.extraction.plan import Plan
from vertebra.extraction.recipe import Recipe
from vertebra.extraction.worker import Advance, Receipt

ENGINES = {
    "inline": "vertebra.extraction.engines.inline",
    "local": "vertebra.extraction.engines.local",
    "ray": "vertebra.extraction.engines.ray",
}
"""Where an engine's `run` is, by the engine's name."""


class Engine(Protocol):
    """Computes shards."""

    def __call__(
        self,
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
        """Compute shards of a plan; returns when all are on disk.

        Args:
            plan: The plan.
            recipe: How maps are computed; of the plan's job.
            shards: Numbers of the shards to compute, in any order; finished ones are computed again, so leave them out.
            workers: How many processes take part; None: one for each device.
            devices: What the processes run on, in turn, e.g. `["cuda:0", "cuda:1"]`; None: the recipe's device.
            on_receipt: Called in this process when a shard is on disk. What it raises ends the run.
            advance: Called in this process with a number of images that are done, for progress inside shards; with a
                negative number where a process ended and its images have to be done again.
            stop: Asked before a shard is given out; once it returns true no further one is, and `run` returns when those
                that were given out are on disk.

        Raises:
            ValueError: the recipe is of another job than the plan, or there are no such workers or devices.
            OSError: a shard cannot be written. What fails in one process ends the run when the shards in the other
                processes are done.
        """


def find_engine(name: str) -> Engine:
    """Return the `run` of an engine.

    Args:
        name: A key of `ENGINES`.

    Raises:
        ValueError: there is no such engine.
    """
    if name not in ENGINES:
        raise ValueError(f"engine={name!r} must be one of {listing(ENGINES)}.{did_you_mean(name, ENGINES)}")
    engine: Engine = import_module(ENGINES[name]).run
    return engine
