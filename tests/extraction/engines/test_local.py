"""Several processes leave the store that one leaves, whichever of them is killed, and whenever."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
import torch
from odd_images import Leaves, OddImages
from oracle import close
from safetensors.torch import load_file
from tiny_store import LEVELS, broken_jpegs, jpegs, recipe

from vertebra.extraction.engines import find_engine, local
from vertebra.extraction.engines.process import WorkerTraceback
from vertebra.extraction.plan import Plan, make_plan, open_plans
from vertebra.extraction.recipe import Recipe
from vertebra.extraction.runtime import Runtime
from vertebra.extraction.shard_file import read_metadata, shard_name
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
    files = (path for path in plan.folder.rglob("*") if path.is_file())
    return {path.relative_to(plan.folder).as_posix(): path.read_bytes() for path in files}


def moments(plan: Plan) -> dict[int, tuple[int, int]]:
    """Which file a finished shard is, and when it was written."""
    found = {}
    for shard in plan.done():
        state = (plan.folder / shard_name(shard)).stat()
        found[shard] = state.st_ino, state.st_mtime_ns
    return found


def check(plan: Plan, undisturbed: Store) -> None:
    """Every image is in one shard or in quarantine, once; the bytes are those of a run that nobody disturbed."""
    there: list[str] = []
    for shard in plan.shards:
        metadata = read_metadata(plan.folder / shard_name(shard))
        there += [*json.loads(metadata["ids"]), *json.loads(metadata["quarantine"])]
    assert sorted(there) == sorted(plan.table()["id"].to_pylist())
    assert len(set(there)) == IMAGES
    found = store(plan)
    assert found.keys() == undisturbed.keys()  # so there is no temporary file
    assert found == undisturbed


class Kills(threading.Thread):
    """Kills worker processes of this process at given moments, in seconds from when the first of them is there."""

    def __init__(self, seconds: list[float], choose: random.Random) -> None:
        super().__init__(daemon=True)
        self.seconds, self.choose = seconds, choose
        self.killed: list[int] = []
        self.over = threading.Event()

    def run(self) -> None:
        while not active_children() and not self.over.is_set():
            time.sleep(0.001)
        start = time.monotonic()
        for moment in self.seconds:
            if self.over.wait(max(0.0, start + moment - time.monotonic())):
                return
            children = [process.pid for process in active_children() if process.pid]
            if children:
                self.killed.append(self.choose.choice(children))
                os.kill(self.killed[-1], signal.SIGKILL)

    def __enter__(self) -> "Kills":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self.join()


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
    monkeypatch.setattr(local, "START", "spawn")
    plan, job = prepare(OddImages(folder), tmp_path)
    find_engine("local")(plan, job, plan.shards)
    check(plan, undisturbed)


def kill_a_worker(folder: Path, undisturbed: Store, out: Path, moment: float, seed: int) -> None:
    plan, job = prepare(OddImages(folder, seconds=0.004), out)
    with Kills([moment], random.Random(seed)) as kills:
        find_engine("local")(plan, job, plan.shards, workers=2)
    assert len(kills.killed) <= 1
    check(plan, undisturbed)


@pytest.mark.parametrize("seed", range(3))
def test_a_worker_is_killed(folder: Path, undisturbed: Store, tmp_path: Path, seed: int) -> None:
    kill_a_worker(folder, undisturbed, tmp_path, random.Random(seed).uniform(0, 0.8), seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(50))
def test_a_worker_is_killed_often(folder: Path, undisturbed: Store, tmp_path: Path, seed: int) -> None:
    kill_a_worker(folder, undisturbed, tmp_path, random.Random(100 + seed).uniform(0, 1.5), seed)


def test_kills_without_end(folder: Path, undisturbed: Store, tmp_path: Path) -> None:
    """So many that a run may give up: then the next one goes on, and what is done stays."""
    plan, job = prepare(OddImages(folder, seconds=0.004), tmp_path)
    rng, killed = random.Random(7), 0
    for _ in range(10):
        before = moments(plan)
        with Kills([0.25 * n + rng.uniform(0, 0.25) for n in range(4)], rng) as kills, suppress(RuntimeError):
            find_engine("local")(plan, job, sorted(set(plan.shards) - before.keys()), workers=2)
        killed += len(kills.killed)
        assert before.items() <= moments(plan).items()
        if plan.done() == set(plan.shards):
            break
    assert killed >= 2
    check(plan, undisturbed)


SCRIPT = """
import signal
import sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background inherit that it is ignored
sys.path.insert(0, sys.argv[3])
from multiprocessing import active_children
import torch
torch.set_num_threads(1)
from odd_images import OddImages
from tiny_store import recipe
from vertebra.extraction.engines import find_engine
from vertebra.extraction.plan import open_plans
job = recipe(images=OddImages(Path(sys.argv[1]), seconds=0.01))
(plan,) = open_plans(sys.argv[2])
find_engine("local")(plan, job, set(plan.shards) - plan.done(), workers=2, advance=lambda n: print(n, flush=True),
    on_receipt=lambda receipt: print("done", receipt.shard, flush=True))
"""


def session(leader: int) -> set[int]:
    """The living processes that belong to a session."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, group = path.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(group) == leader and state not in "ZX":
            found.add(int(path.parent.name))
    return found


@pytest.fixture
def engine(folder: Path) -> Iterator[Callable[[Plan], subprocess.Popen[str]]]:
    """Starts a process that computes a plan with two workers, and returns once the first shard is on disk."""
    started: list[subprocess.Popen[str]] = []

    def start(plan: Plan) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SCRIPT, str(folder), str(plan.folder), str(ROOT / "tests")]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        started.append(process)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("done"):
                break
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def kill_the_engine(
    folder: Path, undisturbed: Store, out: Path, engine: Callable[..., subprocess.Popen[str]], how: str, moment: float
) -> None:
    plan, job = prepare(OddImages(folder), out)
    process = engine(plan)
    assert len(session(process.pid)) >= 3
    time.sleep(moment)
    if how == "all":
        os.killpg(process.pid, signal.SIGKILL)
    elif how == "engine":
        os.kill(process.pid, signal.SIGKILL)
    else:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does for Ctrl-C
    _, said = process.communicate(timeout=30)
    if how == "Ctrl-C":
        assert "KeyboardInterrupt" in said
        assert said.count("Traceback") == 1, said
        assert not [name for name in store(plan) if name.endswith(".tmp")]
    deadline = time.monotonic() + 20
    while session(process.pid):
        assert time.monotonic() < deadline, "processes outlive their parent"
        time.sleep(0.01)
    before = moments(plan)
    assert 1 <= len(before) < len(plan.shards)
    (again,) = open_plans(plan.folder)
    find_engine("local")(again, job, sorted(set(again.shards) - before.keys()), workers=2)
    assert before.items() <= moments(again).items()
    check(again, undisturbed)


@pytest.mark.parametrize("how", ["all", "engine", "Ctrl-C"])
def test_the_engine_is_killed(folder: Path, undisturbed: Store, tmp_path: Path, engine: Any, how: str) -> None:
    kill_the_engine(folder, undisturbed, tmp_path, engine, how, random.Random(how).uniform(0, 0.4))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["all", "engine"])
@pytest.mark.parametrize("seed", range(25))
def test_the_engine_is_killed_often(
    folder: Path, undisturbed: Store, tmp_path: Path, engine: Any, how: str, seed: int
) -> None:
    kill_the_engine(folder, undisturbed, tmp_path, engine, how, random.Random(seed).uniform(0, 0.5))


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


def read(plan: Plan, shard: int) -> dict[str, tuple[torch.Tensor, ...]]:
    """The maps of a shard by id, in float32."""
    path = plan.folder / shard_name(shard)
    tensors = load_file(path)
    ids = json.loads(read_metadata(path)["ids"])
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
    (plan.folder / shard_name(3)).mkdir()  # nothing can be renamed to it
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
