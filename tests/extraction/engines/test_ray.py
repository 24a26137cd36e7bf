"""A Ray cluster of this machine leaves the same store, whatever of it is killed. The tests that start one are slow."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from odd_images import OddImages
from tiny_store import broken_jpegs, jpegs, recipe

from vertebra.extraction.engines import find_engine
from vertebra.extraction.plan import Plan, make_plan
from vertebra.extraction.recipe import Recipe
from vertebra.extraction.runtime import Runtime
from vertebra.extraction.worker import Receipt

TESTS = Path(__file__).parents[2]


def prepare(images: OddImages, out: Path, per_shard: int) -> tuple[Plan, Recipe]:
    job = recipe(images=images)
    return make_plan(images, out / "out", Runtime(job), per_shard * 1920), job


def store(plan: Plan) -> dict[str, bytes]:
    files = (path for path in plan.folder.rglob("*") if path.is_file())
    return {path.relative_to(plan.folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 JPEG files, six of them broken. Tests do not write into it."""
    folder = jpegs(tmp_path_factory.mktemp("images") / "images", 54)
    broken_jpegs(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    plan, job = prepare(OddImages(folder), tmp_path_factory.mktemp("inline"), 4)
    find_engine("inline")(plan, job, plan.shards)
    return store(plan)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    path = os.pathsep.join(map(str, [TESTS, *filter(None, [os.environ.get("PYTHONPATH")])]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)  # for the processes of the cluster
        patch.setenv("OMP_NUM_THREADS", "1")
        ray.init(
            num_cpus=2, include_dashboard=False, object_store_memory=2**27, log_to_driver=False, logging_level="error"
        )
    yield
    ray.shutdown()


def actors() -> list[int]:
    """The processes of this machine that are actors of ours."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::_Actor"):
                found.append(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@pytest.mark.slow
def test_same_store_though_an_actor_is_killed(
    folder: Path, undisturbed: dict[str, bytes], tmp_path: Path, cluster: None
) -> None:
    plan, job = prepare(OddImages(folder, seconds=0.05), tmp_path, 4)
    receipts: list[Receipt] = []
    steps: list[int] = []
    killed: list[int] = []

    def on_receipt(receipt: Receipt) -> None:
        receipts.append(receipt)
        if len(receipts) == 3:
            killed.extend(actors()[:1])
            os.kill(killed[0], signal.SIGKILL)

    find_engine("ray")(plan, job, plan.shards, workers=2, on_receipt=on_receipt, advance=steps.append)
    assert len(killed) == 1
    assert store(plan) == undisturbed
    assert sorted(receipt.shard for receipt in receipts) == list(plan.shards)
    assert sum(receipt.quarantined for receipt in receipts) == 6
    assert sum(steps) == 60


@pytest.mark.slow
def test_an_image_that_ends_its_actor(folder: Path, tmp_path: Path, cluster: None) -> None:
    plan, job = prepare(OddImages(folder, deadly=("0001.jpg",)), tmp_path, 2)
    find_engine("ray")(plan, job, [0, 1], workers=2)
    assert plan.done() == {0, 1}
    failures = plan.quarantine()
    assert {id_: (failure.stage, failure.tries) for id_, failure in failures.items()} == {"0001.jpg": ("crash", 3)}
    assert failures["0001.jpg"].error == "ActorDiedError ended the process whenever this image was computed"


@pytest.mark.slow
def test_what_an_actor_raises_ends_the_run(folder: Path, tmp_path: Path, cluster: None) -> None:
    plan, job = prepare(OddImages(folder, broken=("0005.jpg",)), tmp_path, 4)
    with pytest.raises(ZeroDivisionError, match=r"^division of 0005\.jpg by zero$"):
        find_engine("ray")(plan, job, plan.shards, workers=1)
    assert plan.done() == {0, 2}  # 2 was in hand as well
    with pytest.raises(
        ValueError, match=r"device='cuda' cannot be used: the Ray cluster has no GPU\. It has 2 CPU cores\."
    ):
        find_engine("ray")(plan, job, plan.shards, devices=["cuda"])


SCRIPT = """
import sys
from pathlib import Path
import torch
from odd_images import OddImages
from tiny_store import recipe
from vertebra.extraction.engines import find_engine
from vertebra.extraction.plan import open_plans
(plan,) = open_plans(sys.argv[2])
find_engine("ray")(plan, recipe(images=OddImages(Path(sys.argv[1]), seconds=0.05)), set(plan.shards) - plan.done(),
    workers=1, on_receipt=lambda receipt: print("done", receipt.shard, flush=True))
"""


@pytest.mark.slow
def test_the_driver_is_killed(folder: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    """The script starts a cluster of its own, and again."""
    pytest.importorskip("ray")
    plan, _ = prepare(OddImages(folder), tmp_path, 4)
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(folder), str(plan.folder)]
    first = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert first.stdout is not None
    for line in first.stdout:
        if line.startswith("done"):
            first.kill()
            break
    first.communicate()
    before = {shard: (plan.folder / f"shards/{shard:06d}.safetensors").stat().st_mtime_ns for shard in plan.done()}
    assert 1 <= len(before) < len(plan.shards)
    deadline = time.monotonic() + 60
    while actors():
        assert time.monotonic() < deadline, "actors outlive their driver"
        time.sleep(0.1)
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=200)
    for shard, moment in before.items():
        assert (plan.folder / f"shards/{shard:06d}.safetensors").stat().st_mtime_ns == moment
    assert store(plan) == undisturbed


def test_without_ray(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    plan, job = prepare(OddImages(folder), tmp_path, 4)
    with pytest.raises(ImportError, match=r"The engine 'ray' needs Ray: pip install 'vertebra\[ray\]'\."):
        find_engine("ray")(plan, job, plan.shards)


def test_bad_arguments(folder: Path, tmp_path: Path) -> None:
    plan, job = prepare(OddImages(folder), tmp_path, 4)
    run = find_engine("ray")
    with pytest.raises(
        ValueError, match=r"devices=\['cuda:0', 'cuda:1'\] must be \['cuda'\] or \['cpu'\]: Ray decides"
    ):
        run(plan, job, plan.shards, devices=["cuda:0", "cuda:1"])
    with pytest.raises(ValueError, match=r"workers=0 must be at least 1\."):
        run(plan, job, plan.shards, workers=0)
