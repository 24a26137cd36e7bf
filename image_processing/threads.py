"""Several images at once, where what is done to one holds neither the interpreter nor threads of its own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch

Given = TypeVar("Given")
Made = TypeVar("Made")

MUCH_WORK = 2**21
"""Pixels to resize, or values to normalise, from which threads are worth their start."""


def each(function: Callable[[Given], Made], items: Iterable[Given], threads: int | None = None) -> list[Made]:
    """Apply a function to all items, and return the results in order; the first item that fails raises.

    Threads live as long as the call, so that none is missing after a fork; the caller's is one of them.

    Args:
        function: What is done to an item.
        items: The items.
        threads: How many work at once; None for as many as torch's operations take (`torch.get_num_threads()`), so that who
            limits those limits these.
    """
    given = list(items)
    count = min(torch.get_num_threads() if threads is None else threads, len(given))
    if count < 2:
        return [function(item) for item in given]
    left = deque(enumerate(given))
    made: dict[int, Made] = {}
    failed: dict[int, Exception] = {}

    def work() -> None:
        while True:
            try:
                index, item = left.popleft()
            except IndexError:
                return
            try:
                made[index] = function(item)
            except Exception as error:  # raised below, in the caller's thread
                failed[index] = error
                left.clear()

    helpers = [threading.Thread(target=work, name=f"images-{number}") for number in range(1, count)]
    for helper in helpers:
        helper.start()
    try:
        work()
    finally:  # an interrupt ends the others after what they are at
        left.clear()
        for helper in helpers:
            helper.join()
    if failed:
        raise failed[min(failed)]
    return [made[index] for index in range(len(given))]
