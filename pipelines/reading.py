"""Taking items from whatever holds them, and preparing some of them ahead of the model."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


def items_of(inputs: Any, is_item: Callable[[Any], bool]) -> tuple[bool, Any]:
    """Whether `inputs` is one item, and the items.

    Anything that can be iterated over holds items, and so does what can be indexed and has a length (a dataset of torch).

    Raises:
        TypeError: it is neither an item nor holds some.
    """
    if is_item(inputs):
        return True, [inputs]
    if hasattr(inputs, "__iter__"):
        return False, inputs
    if hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__"):
        return False, Indexed(inputs)
    return True, [inputs]


class Indexed:
    """What can be indexed and has a length, as something to iterate over."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __iter__(self) -> Iterator[Any]:
        return (self.source[index] for index in range(len(self.source)))


def read_ahead(function: Callable[[Given], Made], items: Iterable[Given], workers: int, ahead: int) -> Iterator[Made]:
    """Apply a function to items, in order; with `workers` threads, to at most `ahead` items before they are asked for."""
    if workers == 0:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="pipeline")
    started: deque[Future[Made]] = deque()
    try:
        for item in items:
            started.append(pool.submit(function, item))
            if len(started) > ahead:
                yield started.popleft().result()
        while started:
            yield started.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
