"""What dead writers left goes, what others still write stays."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vertebra.extraction.leftovers import LONG, TEMPORARY, is_alive, machine, own_prefix, remove_leftovers, started
from vertebra.extraction.storage import open_storage
from vertebra.files import atomic_path


@pytest.mark.parametrize("asked", [True, False], ids=["gone", "zombie"])
def test_only_what_the_dead_left_is_removed(tmp_path: Path, asked: bool) -> None:
    child = subprocess.Popen(["true"])
    if asked:
        child.wait()
    deadline = time.monotonic() + 20
    while started(child.pid) is not None:
        assert time.monotonic() < deadline
    (tmp_path / "shards").mkdir()
    here, number = machine(), "0123456789ab.tmp"
    dead = [
        f".plan-0000.json.{here}-5.{child.pid}.{number}",
        f"shards/.000000.safetensors.{here}-5.{child.pid}.{number}",
        f"shards/.000001.safetensors.{here}-5.{os.getpid()}.{number}",  # the number is another process's now
        f"shards/.000002.safetensors.{'0' * 12}-5.1.{number}",  # of another machine, and old
    ]
    others = [
        "plan-0000.json", "shards/000000.safetensors", f"shards/000001.safetensors.{here}-5.{child.pid}.{number}",
        f"shards/.000000.safetensors.{number}", f"shards/.000000.safetensors.{here}-{started(os.getpid())}.{os.getpid()}.{number}",
        f"shards/.000003.safetensors.{'0' * 12}-5.1.{number}",
    ]  # fmt: skip
    for name in dead + others:
        (tmp_path / name).touch()
    old = time.time() - LONG - 60
    os.utime(tmp_path / dead[3], (old, old))
    assert remove_leftovers(open_storage(tmp_path)) == [name.rpartition("/")[2] for name in dead]
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")} == {"shards", *others}
    assert remove_leftovers(open_storage(tmp_path / "nowhere")) == []
    assert remove_leftovers(open_storage("memory://leftovers")) == []
    child.wait()


def test_a_writer_is_known(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    target = tmp_path / "shards/000007.safetensors"
    with atomic_path(target, own_prefix(target)) as temporary:
        found = TEMPORARY.fullmatch(temporary.name)
        assert found is not None
        assert (found["name"], found["process"]) == (target.name, str(os.getpid()))
        assert is_alive(found) is True
        assert remove_leftovers(open_storage(tmp_path)) == []
    assert target.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says when a process was started")
def test_when_a_process_was_started() -> None:
    before = started(os.getpid())
    with subprocess.Popen(["sleep", "30"]) as child:
        after = started(child.pid)
        child.kill()
    assert before is not None
    assert after is not None
    assert 0 < before < after
    assert started(child.pid) is None
