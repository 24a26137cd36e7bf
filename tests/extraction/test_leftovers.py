"""What dead writers left goes, what others still write stays."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from vertebra.extraction.leftovers import is_alive, own_prefix, remove_leftovers
from vertebra.files import atomic_path


@pytest.mark.parametrize("asked", [True, False], ids=["gone", "zombie"])
def test_only_what_the_dead_left_is_removed(tmp_path: Path, asked: bool) -> None:
    child = subprocess.Popen(["true"])
    if asked:
        child.wait()
    deadline = time.monotonic() + 20
    while is_alive(child.pid):
        assert time.monotonic() < deadline
    shards = tmp_path / "shards"
    shards.mkdir()
    dead = [f".00000{n}.safetensors.{child.pid}.0123456789ab.tmp" for n in range(3)]
    others = [
        "000000.safetensors", f"000001.safetensors.{child.pid}.0123456789ab.tmp", f".notes.{child.pid}.0123456789ab.tmp",
        ".000000.safetensors.0123456789ab.tmp", f".000000.safetensors.{os.getpid()}.0123456789ab.tmp",
    ]  # fmt: skip
    for name in dead + others:
        (shards / name).touch()
    assert remove_leftovers(tmp_path, range(2)) == dead[:2]
    assert {path.name for path in shards.iterdir()} == {dead[2], *others}
    assert remove_leftovers(tmp_path / "nowhere", range(2)) == []
    child.wait()


def test_a_writer_carries_its_number(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    target = tmp_path / "shards/000007.safetensors"
    with atomic_path(target, own_prefix(target)) as temporary:
        assert temporary.name.startswith(f".000007.safetensors.{os.getpid()}.")
        assert remove_leftovers(tmp_path, [7]) == []
    assert target.exists()
