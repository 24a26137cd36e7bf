"""Several processes leave the store that one leaves, and what ends them is found. For kills at any moment see `faults`."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
import torch
from odd_images import Leaves, OddImages, Waits
from oracle import close
from safetensors.torch import load_file
from tiny_store import LEVELS, broken_jpegs, jpegs, recipe

from vertebra.extraction.engines import find_engine, local
from vertebra.extraction.engines import server as start_method
from vertebra.extraction.engines.process import WorkerTraceback
from vertebra.extraction.plan import Plan, make_plan
from vertebra.extraction.recipe import Recipe
from vertebra.extraction.runtime import Runtime
from vertebra.extraction.shard_file import Failure, read_metadata, shard_name
from vertebra.extraction.storage import open_storage
from vertebra.extraction.worker import Receipt

ROOT = Path(__file__).parents[3]
PER_IMAGE = 1920
IMAGES, PER_SHARD = 200, 10
Store = dict[str, bytes]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 JPEG files, six of them broken. Tests do not write into it."""
    folder = jpegs(tmp_path_factory.mktemp("images") / "images", IMAGES - 6)
    broken_jpegs(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def server() -> None:
    """What workers are forked from has imported torch, so that the tests of silence need not wait for that."""
    process = start_method.context().Process(target=int)
    process.start()
    process.join(120)
    assert process.exitcode == 0


@pytest.fixture(scope="module")
def undisturbed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store that this process leaves."""
    plan, job = prepare(OddImages(folder), tmp_path_factory.mktemp("inline"))
    find_engine("inline")(plan, job, plan.shards)
    return store(plan)


def prepare(images: OddImages, out: Path, per_shard: int = PER_SHARD, **options: Any) -> tuple[Plan, Recipe]:
    job = recipe(images=images, **options)
    runtime = Runtime(job)
    plan = make_plan(images, out / "out", runtime, per_shard * PER_IMAGE)
    return plan, job


def store(plan: Plan) -> Store:
    """All files of a store."""
    files = (path for path in plan.storage.folder.rglob("*") if path.is_file())
    return {path.relative_to(plan.storage.folder).as_posix(): path.read_bytes() for path in files}


def check(plan: Plan, undisturbed: Store) -> None:
    """Every image is in one shard or in quarantine, once; the bytes are those of a run that nobody disturbed."""
    there: list[str] = []
    for shard in plan.shards:
        metadata = read_metadata(plan.storage, shard_name(shard))
        there += [*json.loads(metadata["ids"]), *json.loads(metadata["quarantine"])]
    assert sorted(there) == sorted(plan.table()["id"].to_pylist())
    assert len(set(there)) == IMAGES
    found = store(plan)
    assert found.keys() == undisturbed.keys()  # so there is no temporary file
    assert found == undisturbed


@pytest.mark.parametrize("workers", [1, 2])
def test_same_store_as_one_process(folder: Path, undisturbed: Store, tmp_path: Path, workers: int) -> None:
    plan, job = prepare(OddImages(folder), tmp_path)
    receipts: list[Receipt] = []
    steps: list[int] = []
    find_engine("local")(plan, job, plan.shards, workers=workers, on_receipt=receipts.append, advance=steps.append)
    check(plan, undisturbed)
    assert sorted(receipt.shard for receipt in receipts) == list(plan.shards)
    assert sum(receipt.quarantined for receipt in receipts) == 6
    assert sum(receipt.ids for receipt in receipts) == sum(steps) == IMAGES
    assert not active_children()


@pytest.mark.slow
def test_processes_that_are_spawned(folder: Path, undisturbed: Store, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(start_method, "START", "spawn")
    plan, job = prepare(OddImages(folder), tmp_path)
    find_engine("local")(plan, job, plan.shards)
    check(plan, undisturbed)


def test_images_that_end_the_process(folder: Path, tmp_path: Path, caplog: Any) -> None:
    deadly = ("0013.jpg", "0017.jpg")
    (tmp_path / "few").mkdir()
    for n in range(10, 22):
        (tmp_path / f"few/{n:04d}.jpg").write_bytes((folder / f"{n:04d}.jpg").read_bytes())
    plan, job = prepare(OddImages(tmp_path / "few", deadly=deadly), tmp_path, per_shard=6)
    receipts: list[Receipt] = []
    steps: list[int] = []
    find_engine("local")(plan, job, plan.shards, workers=2, on_receipt=receipts.append, advance=steps.append)
    assert sorted((receipt.shard, receipt.quarantined) for receipt in receipts) == [(0, 1), (1, 1)]
    assert sum(steps) == 12
    text = "SIGKILL ended the process whenever this image was computed"
    failures = plan.quarantine()
    assert {id_: (each.stage, each.error, each.tries) for id_, each in failures.items()} == dict.fromkeys(
        deadly, ("crash", text, 3)
    )
    assert "Shard 0 has ended its process 3 times (SIGKILL); looking for the image that does." in caplog.messages
    assert "'0013.jpg' ends its process (SIGKILL); it goes into quarantine." in caplog.messages
    good, job = prepare(OddImages(tmp_path / "few"), tmp_path / "good", per_shard=6)
    find_engine("inline")(good, job, good.shards)
    for shard in plan.shards:
        mine, all_of_them = (read(each, shard) for each in (plan, good))
        assert mine.keys() == all_of_them.keys() - set(deadly)
        for id_, maps in mine.items():
            close(maps, all_of_them[id_], name=id_)


def test_images_that_never_end(folder: Path, tmp_path: Path, caplog: Any) -> None:
    """As on a network drive that does not answer: whoever reads them is ended, and found out."""
    (tmp_path / "few").mkdir()
    for n in range(10, 14):
        (tmp_path / f"few/{n:04d}.jpg").write_bytes((folder / f"{n:04d}.jpg").read_bytes())
    plan, job = prepare(OddImages(tmp_path / "few", stuck=("0013.jpg",)), tmp_path, per_shard=2)
    find_engine("local")(plan, job, plan.shards, workers=2, stall=1.0)
    assert plan.done() == {0, 1}
    (failure,) = plan.quarantine().items()
    text = "silence for 1 s ended the process whenever this image was computed"
    assert failure == ("0013.jpg", Failure("crash", text, 3))
    assert (
        "Shard 1 has ended its process 3 times (silence for 1 s); looking for the image that does." in caplog.messages
    )
    assert not active_children()


def test_a_drive_that_never_answers(folder: Path, tmp_path: Path) -> None:
    """Not even to a process that begins."""
    plan, job = prepare(OddImages(folder), tmp_path)
    with pytest.raises(
        RuntimeError, match=r"3 worker processes in a row have ended .*\(the last: silence for 0\.5 s\)"
    ):
        find_engine("local")(plan, replace(job, images=Waits()), plan.shards, stall=0.5)
    assert not active_children()


def read(plan: Plan, shard: int) -> dict[str, tuple[torch.Tensor, ...]]:
    """The maps of a shard by id, in float32."""
    path = plan.storage.folder / shard_name(shard)
    tensors = load_file(path)
    ids = json.loads(read_metadata(open_storage(path.parent), path.name)["ids"])
    return {id_: tuple(tensors[level][row].float() for level in LEVELS) for row, id_ in enumerate(ids)}


def test_what_a_worker_raises_ends_the_run(folder: Path, tmp_path: Path) -> None:
    plan, job = prepare(OddImages(folder, seconds=0.01, broken=("0105.jpg",)), tmp_path)
    receipts: list[Receipt] = []
    with pytest.raises(ZeroDivisionError, match=r"^division of 0105\.jpg by zero$") as caught:
        find_engine("local")(plan, job, plan.shards, workers=2, on_receipt=receipts.append)
    assert isinstance(caught.value.__cause__, WorkerTraceback)
    assert "in __getitem__" in str(caught.value.__cause__)
    assert {receipt.shard for receipt in receipts} <= plan.done()  # the process that failed may have written one more
    assert 10 not in plan.done()
    assert len(plan.done()) >= 7  # it was given out after eight others, of which the same process may have lost one
    assert not active_children()


def test_a_disk_that_refuses(folder: Path, tmp_path: Path) -> None:
    plan, job = prepare(OddImages(folder), tmp_path)
    (plan.storage.folder / shard_name(3)).mkdir(parents=True)  # nothing can be renamed to it
    with pytest.raises(OSError, match=r"000003\.safetensors") as caught:
        find_engine("local")(plan, job, plan.shards)
    assert isinstance(caught.value, IsADirectoryError)
    assert not [name for name in store(plan) if name.endswith(".tmp")]


def test_stop(folder: Path, tmp_path: Path) -> None:
    plan, job = prepare(OddImages(folder, seconds=0.002), tmp_path)
    receipts: list[Receipt] = []
    find_engine("local")(plan, job, plan.shards, workers=2, on_receipt=receipts.append, stop=lambda: len(receipts) >= 3)
    assert {receipt.shard for receipt in receipts} == plan.done()
    assert 3 <= len(receipts) <= 3 + 2 * local.IN_HAND  # what was in hand


def test_an_error_of_the_caller_ends_the_processes(folder: Path, tmp_path: Path) -> None:
    plan, job = prepare(OddImages(folder, seconds=0.002), tmp_path)

    def refuse(receipt: Receipt) -> None:
        raise LookupError(f"too many bad images, {receipt.shard}")

    with pytest.raises(LookupError, match="too many bad images"):
        find_engine("local")(plan, job, plan.shards, workers=2, on_receipt=refuse)
    assert not active_children()
    assert not [name for name in store(plan) if name.endswith(".tmp")]


def test_bad_arguments(folder: Path, tmp_path: Path) -> None:
    plan, job = prepare(OddImages(folder), tmp_path)
    run = find_engine("local")
    with pytest.raises(ValueError, match=r"workers=0 must be at least 1\."):
        run(plan, job, plan.shards, workers=0)
    with pytest.raises(ValueError, match=r"devices='cuda' must be a list of devices, such as \['cuda:0', 'cuda:1'\]\."):
        run(plan, job, plan.shards, devices="cuda")
    with pytest.raises(ValueError, match=r"device='cuda:77' cannot be used here: .* 'cpu' always works"):
        run(plan, job, plan.shards, devices=["cuda:77"])
    with pytest.raises(ValueError, match=r"stall=0 must be more than 0 seconds\."):
        run(plan, job, plan.shards, stall=0)
    lonely = replace(job, images={"a": lambda: None})
    with pytest.raises(ValueError, match=r"cannot be sent to other processes \(.*lambda.* take the engine 'inline'\."):
        run(plan, lonely, plan.shards)
    with pytest.raises(ValueError, match=r"(?s)holds the features of another job:.*upright"):
        run(plan, replace(job, upright=False), plan.shards)
    run(plan, job, [])
    assert plan.done() == set()
    with pytest.raises(ValueError, match=r"engine='lokal' must be one of inline, local, ray\. Did you mean 'local'\?"):
        find_engine("lokal")


def test_processes_that_never_begin(folder: Path, tmp_path: Path) -> None:
    plan, job = prepare(OddImages(folder), tmp_path)
    with pytest.raises(
        RuntimeError, match=r"3 worker processes in a row have ended before they had the model .*exit code 9"
    ):
        find_engine("local")(plan, replace(job, images=Leaves()), plan.shards, workers=2)
    assert not active_children()


def test_cores_are_shared() -> None:
    assert local._places(None, None, 10) == [None]
    assert local._places(3, None, 2) == [None, None]
    assert local._places(None, ["cuda:0", "cuda:1"], 10) == ["cuda:0", "cuda:1"]
    assert local._places(3, ["cuda:0", "cuda:1"], 10) == ["cuda:0", "cuda:1", "cuda:0"]


def test_a_process_that_cannot_be_started(
    folder: Path, undisturbed: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As where what it is forked from was killed in that moment."""
    calls: list[int] = []
    worker = local._Worker

    def start(*args: Any) -> Any:
        calls.append(len(calls))
        if len(calls) in failing:
            raise EOFError("unexpected EOF")
        return worker(*args)

    monkeypatch.setattr(local, "_Worker", start)
    failing = {1, 2, 4}
    plan, job = prepare(OddImages(folder), tmp_path)
    find_engine("local")(plan, job, plan.shards)
    check(plan, undisturbed)
    assert len(calls) == 3
    assert "A worker process has ended before it had the model: EOFError: unexpected EOF." in caplog.messages
    failing = set(range(100))
    with pytest.raises(RuntimeError, match=r"3 worker processes in a row .*\(the last: EOFError: unexpected EOF\)"):
        find_engine("local")(plan, job, plan.shards)


EARLY = """
import time
from vertebra.extraction.engines.server import start_early
start_early()
print("started", flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_while_the_first_process_imports_shows_no_traceback() -> None:
    """It reaches every process of the terminal."""
    with subprocess.Popen(
        [sys.executable, "-c", EARLY],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # background jobs ignore it
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "started\n"
        time.sleep(0.5)
        os.killpg(run.pid, signal.SIGINT)
        assert run.communicate(timeout=60) == ("interrupted\n", "")
