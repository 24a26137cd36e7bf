"""Actors of a Ray cluster of this machine. For kills see `faults`; the tests that start a cluster here are slow."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_runs import Quiet
from odd_images import OddImages
from tiny_store import broken_jpegs, jpegs, recipe

from vertebra.extraction.engines import find_engine
from vertebra.extraction.plan import Plan, make_plan
from vertebra.extraction.recipe import Recipe
from vertebra.extraction.runtime import Runtime
from vertebra.extraction.shard_file import Failure
from vertebra.extraction.worker import Receipt

TESTS = Path(__file__).parents[2]


def prepare(images: OddImages, out: Path, per_shard: int) -> tuple[Plan, Recipe]:
    job = recipe(images=images)
    return make_plan(images, out / "out", Runtime(job), per_shard * 1920), job


def store(plan: Plan) -> dict[str, bytes]:
    files = (path for path in plan.storage.folder.rglob("*") if path.is_file())
    return {path.relative_to(plan.storage.folder).as_posix(): path.read_bytes() for path in files}


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
    import ray

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


@pytest.mark.ray
@pytest.mark.slow
def test_progress_inside_shards(folder: Path, undisturbed: dict[str, bytes], tmp_path: Path, cluster: None) -> None:
    plan, job = prepare(OddImages(folder, seconds=0.15), tmp_path, 60)
    receipts: list[Receipt] = []
    steps: list[int] = []
    find_engine("ray")(plan, job, plan.shards, workers=1, on_receipt=receipts.append, advance=steps.append)
    assert sorted(receipt.shard for receipt in receipts) == list(plan.shards)
    assert sum(steps) == sum(receipt.ids for receipt in receipts) == 60
    assert len(steps) > 2  # of one shard


@pytest.mark.ray
@pytest.mark.slow
def test_an_image_that_never_ends(folder: Path, tmp_path: Path, cluster: None) -> None:
    plan, job = prepare(OddImages(folder, stuck=("0001.jpg",)), tmp_path, 2)
    steps: list[int] = []
    find_engine("ray")(plan, job, [0, 1], workers=2, stall=3.0, advance=steps.append)
    assert plan.done() == {0, 1}
    (failure,) = plan.quarantine().items()
    assert failure == (
        "0001.jpg", Failure("crash", "silence for 3 s ended the process whenever this image was computed", 3),
    )  # fmt: skip
    assert sum(steps) == 4


@pytest.mark.ray
@pytest.mark.slow
def test_an_image_that_ends_its_actor(folder: Path, tmp_path: Path, cluster: None) -> None:
    plan, job = prepare(OddImages(folder, deadly=("0001.jpg",)), tmp_path, 2)
    find_engine("ray")(plan, job, [0, 1], workers=2)
    assert plan.done() == {0, 1}
    failures = plan.quarantine()
    assert {id_: (failure.stage, failure.tries) for id_, failure in failures.items()} == {"0001.jpg": ("crash", 3)}
    assert failures["0001.jpg"].error == "ActorDiedError ended the process whenever this image was computed"


@pytest.mark.ray
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


@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_that_runs(folder: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    """It is found by its address, used, and left running."""
    quiet = Quiet(tempfile.mkdtemp(prefix="v"))
    environment = {**os.environ, **quiet.environment, "PYTHONPATH": str(TESTS)}
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    head = [
        "start",
        "--head",
        f"--port={port}",
        "--num-cpus=2",
        "--include-dashboard=false",
        f"--temp-dir={quiet.folder}",
    ]
    plan, _ = prepare(OddImages(folder), tmp_path, 4)
    command = [sys.executable, "-c", SCRIPT, str(folder), str(plan.storage.local("."))]
    try:
        ray = [sys.executable, "-m", "ray.scripts.scripts"]
        subprocess.run([*ray, *head], env=environment, check=True, capture_output=True, timeout=120)
        address = next(Path(quiet.folder).rglob("ray_current_cluster")).read_text().strip()
        assert address.endswith(f":{port}")
        for rest in ("0", "1"):  # half of the shards each; the second run finds the cluster as the first has left it
            done = subprocess.run(
                [*command, address, rest], env=environment, capture_output=True, text=True, timeout=200, check=False
            )
            assert done.returncode == 0, done.stderr
    finally:
        quiet.end()
    assert store(plan) == undisturbed


SCRIPT = """
import sys
from pathlib import Path
import torch
from fault_runs import Quiet
from odd_images import OddImages
from tiny_store import recipe
from vertebra.extraction.engines import find_engine
from vertebra.extraction.plan import open_plans
(plan,) = open_plans(sys.argv[2])
shards = [k for k in plan.shards if k % 2 == int(sys.argv[4])]
find_engine("ray")(plan, recipe(images=OddImages(Path(sys.argv[1]))), shards, workers=2, address=sys.argv[3])
"""


def test_bad_arguments(folder: Path, tmp_path: Path) -> None:
    plan, job = prepare(OddImages(folder), tmp_path, 4)
    run = find_engine("ray")
    with pytest.raises(
        ValueError, match=r"devices=\['cuda:0', 'cuda:1'\] must be \['cuda'\] or \['cpu'\]: Ray decides"
    ):
        run(plan, job, plan.shards, devices=["cuda:0", "cuda:1"])
    with pytest.raises(ValueError, match=r"workers=0 must be at least 1\."):
        run(plan, job, plan.shards, workers=0)
