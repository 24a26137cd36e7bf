"""Saving that is killed, or runs out of disk: the folder holds the old model or the new one, whole."""

import errno
import json
import os
import random
import re
import resource
import shutil
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
from vertebra.change import JOURNAL

SAVER = """
import os, sys, tempfile, torch
torch.set_num_threads(1)
from vertebra import ResNetConfig, ResNetModel
folder, shard = sys.argv[1:]
model = ResNetModel(ResNetConfig(embedding_size=32, hidden_sizes=[64, 128], depths=[2, 2], layer_type="basic"))
with tempfile.TemporaryDirectory() as other:
    model.save_pretrained(other)  # imports what a save needs, once for all processes
for line in sys.stdin:
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        print("gone", flush=True)
        continue
    for value in range(int(line), 10**9):
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor.fill_(value)
        model.save_pretrained(folder, max_shard_size=shard)
        os.write(1, f"{os.getpid()} {value}\\n".encode())  # whole lines, whatever the kill
"""
"""For each number it reads, starts a process that saves on and on, from that number up."""


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
    arguments = [sys.executable, "-c", SAVER, str(folder), shard]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        for run in range(1, times + 1):
            parent.stdin.write(f"{1000 * run}\n")
            child, saved = map(int, parent.stdout.readline().split())
            time.sleep(moments.uniform(0.0, 0.3))
            os.kill(child, signal.SIGKILL)
            while (line := parent.stdout.readline()) != "gone\n":
                assert line, "the process that starts the others has ended"
            left.append(value_of(folder))
            assert left[-1] >= saved, "a kill brought an older model back"
    return left


@pytest.mark.parametrize("shard", [pytest.param("5GB", marks=pytest.mark.slow), "200KB"])
def test_killed(shard: str, tmp_path: Path) -> None:
    assert len(kill_saves(tmp_path, shard, times=10)) == 10


@pytest.mark.slow
@pytest.mark.parametrize("shard", ["5GB", "200KB"])
def test_killed_often(shard: str, tmp_path: Path) -> None:
    assert len(kill_saves(tmp_path, shard, times=50)) == 50


DEATHS = """
import os, pathlib, shutil, sys, torch
torch.set_num_threads(1)
from vertebra import ResNetConfig, ResNetModel
config = dict(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")

def filled(value):
    model = ResNetModel(ResNetConfig(**config, downsample_in_bottleneck=value == 2))
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(value)
    return model

def dying(real, left):
    def call(*args, **kwargs):
        if left[0] == 0:
            os._exit(9)
        left[0] -= 1
        return real(*args, **kwargs)
    return call

root, sizes = pathlib.Path(sys.argv[1]), dict(one="5GB", many="20KB")
ones, twos = filled(1), filled(2)
(root / "old" / "none").mkdir(parents=True)
for name, size in sizes.items():
    ones.save_pretrained(root / "old" / name, max_shard_size=size)
for before in ("none", *sizes):
    for after in sizes:
        for step in range(1000):
            folder = root / f"{before}-{after}" / f"{step:03d}"
            shutil.copytree(root / "old" / before, folder)
            child = os.fork()
            if not child:
                left = [step]
                pathlib.Path.replace = dying(pathlib.Path.replace, left)
                pathlib.Path.unlink = dying(pathlib.Path.unlink, left)
                twos.save_pretrained(folder, max_shard_size=sizes[after])
                os._exit(0)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            assert status in (0, 9), status
            if status == 0:
                break
"""
"""Saves twos over ones (or over nothing) once for every rename and removal there is, and dies just before it.

The configuration changes too, in a key that no shape tells."""


@pytest.fixture(scope="module")
def deaths(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for each way to save, in it one for each moment of death; the last of them was not interrupted."""
    root = tmp_path_factory.mktemp("deaths")
    subprocess.run([sys.executable, "-c", DEATHS, str(root)], check=True, timeout=120)
    return root


def save_ones(folder: Path, shard: str = "5GB", variant: str | None = None) -> None:
    """What the process above saves first."""
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    model = ResNetModel(config)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(1)
    model.save_pretrained(folder, max_shard_size=shard, variant=variant)


def whole_value(folder: Path) -> int:
    """The number of the model in `folder`, after a check that weights and configuration are of one save."""
    value = value_of(folder)
    assert ResNetConfig.from_pretrained(folder).downsample_in_bottleneck == (value == 2), "config and weights differ"
    return value


def interrupted(ways: Path) -> Iterator[Path]:
    """The folders in which a death left a journal."""
    yield from (folder for folder in sorted(ways.iterdir()) if (folder / JOURNAL).exists())


@pytest.mark.parametrize("after", ["one", "many"])
@pytest.mark.parametrize("before", ["one", "many"])
def test_every_moment_of_death_leaves_the_old_or_the_new(deaths: Path, before: str, after: str) -> None:
    folders = sorted((deaths / f"{before}-{after}").iterdir())
    assert len(folders) >= 5
    values = [whole_value(folder) for folder in folders]
    assert values == sorted(values), "a later death brought the old model back"
    assert {*values} == {1, 2}
    for folder in folders:
        config = json.loads((folder / "config.json").read_text())
        transformers_sees_a_mixture = (folder / JOURNAL).exists() and whole_value(folder) == 2
        assert transformers_sees_a_mixture or config["downsample_in_bottleneck"] == (whole_value(folder) == 2)
    assert not [path.name for path in folders[-1].iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("after", ["one", "many"])
def test_a_death_in_the_first_save_leaves_nothing_or_the_model(deaths: Path, after: str) -> None:
    folders = sorted((deaths / f"none-{after}").iterdir())
    loads = []
    for folder in folders:
        try:
            loads.append(whole_value(folder) == 2)
        except OSError as error:
            assert re.match(r"The folder '.*' has no file 'config\.json'\.$", str(error))  # noqa: PT017
            loads.append(False)
    assert loads == sorted(loads)
    assert {*loads} == {False, True}


@pytest.mark.parametrize("after", ["one", "many"])
@pytest.mark.parametrize("before", ["one", "many"])
def test_the_next_save_finishes(deaths: Path, tmp_path: Path, before: str, after: str) -> None:
    folders = list(interrupted(deaths / f"{before}-{after}"))
    assert folders
    for folder in folders:
        again = shutil.copytree(folder, tmp_path / folder.name)  # keeps times
        assert whole_value(again) == 2
        save_ones(again, variant="other")  # the plain weights are not touched by it
        assert value_of(again) == 2
        assert not (again / JOURNAL).exists()
        assert not list(again.glob(".vertebra-new-*"))
        save_ones(again)
        assert whole_value(again) == 1


def test_transformers_reads_what_was_finished(deaths: Path, tmp_path: Path) -> None:
    from transformers import ResNetModel as Theirs

    for number, folder in enumerate(interrupted(deaths / "one-many")):
        again = shutil.copytree(folder, tmp_path / str(number))
        save_ones(again)
        model = Theirs.from_pretrained(again)
        assert {float(v) for tensor in model.state_dict().values() for v in tensor.unique()} == {1.0}


def test_what_something_else_wrote_after_a_death_is_not_guessed_over(deaths: Path, tmp_path: Path) -> None:
    pending = next(interrupted(deaths / "one-one"))
    steps = json.loads((pending / JOURNAL).read_text())["files"]
    name = next(name for name, step in steps.items() if step["new"] and (pending / step["new"]).exists())
    folder = shutil.copytree(pending, tmp_path / "copy")
    os.utime(folder / name)
    text = f"A save into '{folder}' was interrupted, and {name!r} has changed since"
    with pytest.raises(OSError, match=re.escape(text) + r".*Save again; or remove '\.vertebra-save\.json' there"):
        value_of(folder)
    save_ones(folder)
    assert whole_value(folder) == 1


@pytest.mark.parametrize(
    "journal",
    [
        "",
        "[]",
        "{}",
        '{"files": 3}',
        '{"files": {"config.json": {"new": "../secret", "was": null}}}',
        '{"files": {"../secret": {"new": null, "was": null}}}',
        '{"files": {"link/secret": {"new": null, "was": null}}}',
        '{"files": {"config.json": {"new": "link/../secret", "was": null}}}',
        '{"files": {"config.json": {"new": 7, "was": null}}}',
        '{"files": {"config.json": {"new": null, "was": 5}}}',
        '{"files": {"config.json": {}}}',
    ],
)
def test_a_damaged_journal_is_an_error_with_words(tmp_path: Path, journal: str) -> None:
    (tmp_path / "secret").write_text("{}")
    save_ones(tmp_path / "model")
    (tmp_path / "model" / JOURNAL).write_text(journal)
    with pytest.raises(ValueError, match=r"vertebra-save\.json' should say what an interrupted save left undone, and"):
        value_of(tmp_path / "model")
    assert (tmp_path / "secret").exists()


def test_a_configuration_alone_finishes_what_was_interrupted(deaths: Path, tmp_path: Path) -> None:
    for number, pending in enumerate(interrupted(deaths / "one-many")):
        folder = shutil.copytree(pending, tmp_path / str(number))
        config = ResNetConfig.from_pretrained(folder)
        config.output_hidden_states = True
        config.save_pretrained(folder)
        assert whole_value(folder) == 2
        assert ResNetConfig.from_pretrained(folder).output_hidden_states
        assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_what_a_kill_before_the_moment_left_goes_with_the_next_save(deaths: Path, tmp_path: Path) -> None:
    """A temporary file is as large as the model, and a training job may be killed often."""
    pending = sorted((deaths / "one-many").iterdir())[0]
    assert not (pending / JOURNAL).exists()
    assert list(pending.glob(".vertebra-new-*"))
    folder = shutil.copytree(pending, tmp_path / "copy")
    (folder / ".new-notes").touch()
    save_ones(folder)
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", ".new-notes"}


SAVERS = """
import os, sys, torch
torch.set_num_threads(1)
from vertebra import ResNetConfig, ResNetModel
import huggingface_hub.serialization, safetensors.torch
config = dict(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
pids = []
for start in (100, 200):
    pids.append(os.fork())
    if not pids[-1]:
        for value in range(start, start + 12):
            model = ResNetModel(ResNetConfig(**config, downsample_in_bottleneck=value % 2 == 0))
            with torch.no_grad():
                for tensor in model.state_dict().values():
                    tensor.fill_(value)
            model.save_pretrained(sys.argv[1], max_shard_size="20KB")
        os._exit(0)
assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0]
"""


def test_two_processes_that_save_take_turns(tmp_path: Path) -> None:
    """Each knows what the other one left: nothing is a mixture, and no shard stays that no index names."""
    subprocess.run([sys.executable, "-c", SAVERS, str(tmp_path)], check=True, timeout=120)
    value = value_of(tmp_path)
    assert value in (111, 211)
    assert ResNetConfig.from_pretrained(tmp_path).downsample_in_bottleneck == (value % 2 == 0)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    names = {"config.json", "model.safetensors.index.json", *index["weight_map"].values()}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_a_file_system_that_can_neither_sync_nor_lock_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):  # noqa: PTH112
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr("os.fsync", fsync)
    monkeypatch.setattr("fcntl.flock", flock)
    (tmp_path / ".vertebra-new-of-another").touch()
    for shard in ("5GB", "20KB", "5GB"):
        save_ones(tmp_path, shard)
        assert value_of(tmp_path) == 1
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"config.json", "model.safetensors", ".vertebra-new-of-another"}  # which may be being written


def test_files_have_the_permissions_of_any_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_ones(tmp_path)
    finally:
        os.umask(before)
    assert {oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()} == {"0o640"}


def test_a_folder_in_the_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(
        IsADirectoryError, match=r"config\.json' cannot be written: there is a folder of this name\. What"
    ):
        save_ones(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_the_same_configuration_is_one_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a training loop does needs no journal, so it is never a mixture for any reader."""
    save_ones(tmp_path)
    renamed: list[str] = []
    real = Path.replace
    monkeypatch.setattr(
        Path, "replace", lambda self, target: (renamed.append(Path(target).name), real(self, target))[1]
    )
    save_ones(tmp_path)
    assert renamed == ["model.safetensors"]


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Let no file of this process grow past `size` bytes: a write fails part of the way, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def fill_disks(folder: Path, shard: str, rooms: range) -> None:
    """Save over a model with so much room for each file in turn; the old one stays, and the new one comes in the end."""
    model = ResNetModel(ResNetConfig(embedding_size=32, hidden_sizes=[64, 128], depths=[2, 2], layer_type="basic"))
    for value in (1, 2):
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor.fill_(value)
        if value == 1:
            model.save_pretrained(folder, max_shard_size=shard)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for room in rooms:
        with files_up_to(room), pytest.raises(OSError, match=r"cannot be written: .*What was there before is intact"):
            model.save_pretrained(folder, max_shard_size=shard)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert value_of(folder) == 1
    model.save_pretrained(folder, max_shard_size=shard)
    assert value_of(folder) == 2


@pytest.mark.parametrize("shard", ["5GB", "200KB"])
def test_full_disk(shard: str, tmp_path: Path) -> None:
    fill_disks(tmp_path, shard, range(1, 200_000, 20_000))


@pytest.mark.slow
@pytest.mark.parametrize("shard", ["5GB", "200KB"])
def test_full_disk_often(shard: str, tmp_path: Path) -> None:
    fill_disks(tmp_path, shard, range(0, 200_000, 4_000))


def test_no_room_for_the_configuration_or_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_ones(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    real = Path.write_text
    model = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic"))
    for full in ("config.json", JOURNAL):

        def write(path: Path, text: str, full: str = full, **options: str) -> int:
            if full in path.name:
                real(path, text[: len(text) // 2], **options)
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(path, text, **options)

        monkeypatch.setattr(Path, "write_text", write)
        text = r"cannot be written: No space left on device\. What was there before is intact"
        with pytest.raises(OSError, match=text):
            model.save_pretrained(tmp_path)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
