"""Memory that is kept stays with the process, and is used again."""

import ctypes
import platform
import subprocess
import sys

import pytest

from vertebra.extraction.memory import keep_memory

COMMAND = """
import os
from vertebra.extraction.memory import keep_memory
{}
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
def layers():
    return [bytes([1]) * 20 * 2**20 for _ in range(10)]
before = resident()
layers()
kept = resident() - before
for _ in range(3):
    layers()
print(kept, resident() - before)
"""


def run(command: str) -> list[int]:
    """MiB that are still there after 200 MiB were taken and freed, once and three times more."""
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True, timeout=60)
    return list(map(int, done.stdout.split()))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_what_is_freed_is_kept_and_used_again() -> None:
    assert max(run(COMMAND.format(""))) < 100
    once, again = run(COMMAND.format("assert keep_memory()"))
    assert 180 < once <= again < 240
    assert max(run(COMMAND.format("assert keep_memory(2**20)"))) < 100


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_memory()
