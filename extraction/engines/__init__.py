"""Who computes the shards of a plan: this process, other processes of this machine, or a Ray cluster.

Engines schedule numbers of shards and know nothing of images. All have the signature of `Engine`, and leave the same store.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from vertebra.errors import did_you_mean, listing

if TYPE_CHECKING:  # `server` is imported before torch is
    from vertebra.extraction.plan import Plan
    from vertebra.extraction.recipe import Recipe
    from vertebra.extraction.worker import Advance, Receipt

ENGINES = {
    "inline": "vertebra.extraction.engines.inline",
    "local": "vertebra.extraction.engines.local",
    "ray": "vertebra.extraction.engines.ray",
}
"""Where an engine is, by its name: a module with `run` and `check`, which has the arguments of `run` that can be wrong."""
COMMON = ("workers", "devices")
"""What `check` is asked of every engine; its other arguments are the engine's own."""


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
        **options: Any,
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
            **options: Of the engine.

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
    engine: Engine = _module(name).run
    return engine


def check_engine(
    name: str,
    workers: int | None = None,
    devices: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Check what an engine is to be run with, before anything is computed or written.

    Args:
        name: A key of `ENGINES`.
        workers: How many processes are to take part.
        devices: What they are to run on.
        options: Further arguments of the engine's `run`.

    Raises:
        ValueError: there is no such engine, option, number of workers or device.
        ImportError: the engine needs a package that is not installed.
        ConnectionError: it cannot be reached.
    """
    check = _module(name).check
    known = [option for option in inspect.signature(check).parameters if option not in COMMON]
    for option in options or {}:
        if option not in known:
            has = f"has {listing(known)}" if known else "has none"
            raise ValueError(f"The engine {name!r} has no option {option!r}; it {has}.{did_you_mean(option, known)}")
    check(workers=workers, devices=devices, **(options or {}))


def _module(name: str) -> Any:
    if name not in ENGINES:
        raise ValueError(f"engine={name!r} must be one of {listing(ENGINES)}.{did_you_mean(name, ENGINES)}")
    return import_module(ENGINES[name])
