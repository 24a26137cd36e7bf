"""Threads that read and write make room for the forward pass."""

import os
import sys

import pytest
from tiny_store import recipe

from vertebra.extraction.runtime import STEP, Runtime


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a priority is the whole process's")
def test_reading_and_writing_are_less_urgent_than_computing() -> None:
    runtime = Runtime(recipe(device="cpu"))
    before = os.getpriority(os.PRIO_PROCESS, 0)
    for pool in (runtime.threads, runtime.writer):
        assert pool.submit(os.getpriority, os.PRIO_PROCESS, 0).result() == min(19, before + STEP)
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
    runtime.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a priority is the whole process's")
def test_where_priorities_are_forbidden_threads_work_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*arguments: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "setpriority", forbidden)
    runtime = Runtime(recipe(device="cpu"))
    assert runtime.threads.submit(len, "abc").result() == 3
    runtime.close()
