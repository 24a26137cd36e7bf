"""Saving that is killed, or runs out of disk: the folder holds the old model or the new one, whole."""

import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from vertebra import ResNetConfig, ResNetModel

SAVER = """
import sys, torch
from vertebra import ResNetConfig, ResNetModel
folder, shard, start = sys.argv[1], sys.argv[2], int(sys.argv[3])
model = ResNetModel(ResNetConfig(embedding_size=32, hidden_sizes=[64, 128], depths=[2, 2], layer_type="basic"))
for value in range(start, 10**9):
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(value)
    model.save_pretrained(folder, max_shard_size=shard)
    print(value, flush=True)
"""


def value_of(folder: Path) -> int:
    """The number that fills every tensor of the model; an AssertionError where they differ."""
    model, info = ResNetModel.from_pretrained(folder, output_loading_info=True)
    assert info["missing_keys"] == info["unexpected_keys"] == []
    values = {float(value) for tensor in model.state_dict().values() for value in tensor.unique()}
    assert len(values) == 1, f"a mixture of saves: {values}"
    return int(values.pop())


def kill_saves(folder: Path, shard: str, times: int) -> list[int]:
    """Kill a process that saves on and on, at random moments; return what each kill left."""
    moments = random.Random(0)
    left = []
    for run in range(1, times + 1):
        arguments = [sys.executable, "-c", SAVER, str(folder), shard, str(1000 * run)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            saved = int(process.stdout.readline())
            time.sleep(moments.uniform(0.0, 0.3))
            process.send_signal(signal.SIGKILL)
        left.append(value_of(folder))
        assert left[-1] >= saved, "a kill brought an older model back"
    return left


@pytest.mark.parametrize("shard", ["5GB", "200KB"])
def test_killed(shard: str, tmp_path: Path) -> None:
    assert len(kill_saves(tmp_path, shard, times=10)) == 10


@pytest.mark.slow
@pytest.mark.parametrize("shard", ["5GB", "200KB"])
def test_killed_often(shard: str, tmp_path: Path) -> None:
    assert len(kill_saves(tmp_path, shard, times=50)) == 50


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Let no file of this process grow past `size` bytes: a write fails part of the way, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("shard", ["5GB", "200KB"])
@pytest.mark.parametrize("room", range(1, 200_000, 20_000))
def test_full_disk(shard: str, room: int, tmp_path: Path) -> None:
    model = ResNetModel(ResNetConfig(embedding_size=32, hidden_sizes=[64, 128], depths=[2, 2], layer_type="basic"))
    for value in (1, 2):
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor.fill_(value)
        if value == 1:
            model.save_pretrained(tmp_path, max_shard_size=shard)
    with files_up_to(room), pytest.raises(OSError, match=r"cannot be written: .*What was there before is intact"):
        model.save_pretrained(tmp_path, max_shard_size=shard)
    assert value_of(tmp_path) == 1
    assert not list(tmp_path.glob(".*.tmp"))
