"""A Ray cluster: an actor is killed, then the driver; the same command goes on, and leaves what one process does."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_runs import Job, Quiet, Store, wait_until


@pytest.fixture
def quiet() -> Iterator[Quiet]:
    """A cluster of which nothing is left behind."""
    quiet = Quiet(tempfile.mkdtemp(prefix="v"))
    yield quiet
    quiet.end()


@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.parametrize("then", ["inline", pytest.param("ray", marks=pytest.mark.slow)])
def test_an_actor_and_the_driver_are_killed(
    images: Path, model: Path, undisturbed: Store, tmp_path: Path, quiet: Quiet, then: str
) -> None:
    """A second cluster takes as long as the first; that another process goes on is shown without one as well."""
    job = Job(images, model, tmp_path / "out", ("--engine", "ray", "--workers", "2"), quiet)
    total = sum(name.endswith(".safetensors") for name in undisturbed)

    def actors() -> list[int]:
        return sorted(process for process, name in quiet.processes().items() if name.startswith("ray::_Actor"))

    try:
        job.start()
        wait_until(lambda: job.done() > 5 or not job.is_running, "the fifth shard")
        victim = actors()[0]
        os.kill(victim, signal.SIGKILL)
        wait_until(
            lambda: (set(actors()) - {victim} and job.done() > 30) or not job.is_running, "the thirtieth shard", 0.02
        )
        assert job.is_running, job.said
        job.process.kill()
        job.process.join(60)
        before = job.shards()
        assert 30 < len(before) < total
        wait_until(lambda: not quiet.processes(), "the end of all that the driver has started", 0.1)
        before = job.shards()
        if then == "inline":
            job.options = ("--engine", "inline")
        job.start()
        job.process.join(120)
        assert job.process.exitcode == 3, job.said
    finally:
        job.end()
    assert before.items() <= job.shards().items()
    assert "A Ray actor has ended" in job.said
    job.check(undisturbed)
    wait_until(lambda: not quiet.processes(), "the end of the cluster", 0.1)
