"""Stores that are begun, resumed, appended to, tried again: every id has one record."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from real import tiny_processor
from tiny_store import broken_jpegs, jpeg, jpegs, recipe

from vertebra.extraction.generations import Generations, expected_bytes, plan_run, settled
from vertebra.extraction.image_table import image_table
from vertebra.extraction.plan import open_plans
from vertebra.extraction.runtime import Runtime
from vertebra.extraction.shard_file import Failure, read_metadata, shard_name
from vertebra.extraction.worker import extract_shards

BYTES = 1920


@pytest.fixture
def job() -> Iterator[Runtime]:
    made = Runtime(recipe())
    yield made
    made.close()


def run(source: Any, out: Path, job: Runtime, compute: int | None = None, **options: Any) -> Generations:
    """Plan, and compute the shards that are missing, or the first `compute` of them."""
    found = image_table(source)
    job.recipe = replace(job.recipe, images=found.images)
    planned = plan_run(found, out, job, 3 * BYTES, **options)
    for plan in planned.ledger.plans:
        for receipt in extract_shards(plan, planned.ledger.missing(plan)[:compute], job):
            planned.ledger.add(plan, receipt.shard)
    return planned


def records(out: Path) -> dict[str, list[tuple[int, str]]]:
    """Of each id the generations that have it, and what became of it there."""
    found: dict[str, list[tuple[int, str]]] = {}
    for plan in open_plans(out):
        for shard in sorted(plan.done()):
            header = read_metadata(plan.storage, shard_name(shard))
            for id_ in json.loads(header["ids"]):
                found.setdefault(id_, []).append((plan.generation, "maps"))
            for id_, failure in json.loads(header["quarantine"]).items():
                found.setdefault(id_, []).append((plan.generation, f"{failure['stage']} {failure['tries']}"))
    return found


def test_resuming_computes_what_is_missing(tmp_path: Path, job: Runtime) -> None:
    source = jpegs(tmp_path / "photos", 10)
    first = run(source, tmp_path / "out", job, compute=2).ledger
    assert (first.done, first.extracted, first.planned) == ({0, 1}, 6, 10)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/shards").iterdir()}
    again = run(source, tmp_path / "out", job)
    assert (again.ledger.done, again.ledger.extracted, again.unplanned) == ({0, 1, 2, 3}, 10, 0)
    assert all(path.stat().st_mtime_ns == when for path, when in written.items())
    assert again.ledger.size_bytes == sum(path.stat().st_size for path in (tmp_path / "out/shards").iterdir())
    assert records(tmp_path / "out") == {f"{i:04d}.jpg": [(0, "maps")] for i in range(10)}


def test_images_that_went_are_quarantined_and_new_ones_wait(tmp_path: Path, job: Runtime) -> None:
    source = jpegs(tmp_path / "photos", 4)
    run(source, tmp_path / "out", job, compute=0)
    (source / "0001.jpg").unlink()
    (source / "0009.jpg").write_bytes(jpeg(9))
    resumed = run(source, tmp_path / "out", job)
    assert (resumed.unplanned, len(resumed.ledger.plans)) == (1, 1)
    assert records(tmp_path / "out")["0001.jpg"] == [(0, "read 1")]
    appended = run(source, tmp_path / "out", job, append=True)
    assert (appended.unplanned, appended.ledger.planned, appended.ledger.extracted) == (0, 5, 4)
    assert records(tmp_path / "out")["0009.jpg"] == [(1, "maps")]
    assert open_plans(tmp_path / "out")[1].record["kind"] == "append"
    assert len(run(source, tmp_path / "out", job, append=True).ledger.plans) == 2


def test_appending_another_folder(tmp_path: Path, job: Runtime) -> None:
    run([("a", jpeg(0))], tmp_path / "out", job)
    with pytest.raises(
        ValueError, match=r"holds the features of other images \('a'\); none of a list of 2 images is among"
    ):
        run([("b", jpeg(1)), ("c", jpeg(2))], tmp_path / "out", job)
    run([("b", jpeg(1)), ("c", jpeg(2))], tmp_path / "out", job, append=True)
    assert records(tmp_path / "out") == {"a": [(0, "maps")], "b": [(1, "maps")], "c": [(1, "maps")]}


def test_the_same_id_for_another_image_is_refused(tmp_path: Path, job: Runtime) -> None:
    run(jpegs(tmp_path / "photos", 3), tmp_path / "out", job)
    for append in (False, True):
        others = jpegs(tmp_path / f"others/{append}", 2)
        with pytest.raises(
            ValueError, match=r"The id '0000\.jpg' is the image '.*photos/0000\.jpg' in the store and '.*others"
        ):
            run(others, tmp_path / "out", job, append=append)
    assert len(open_plans(tmp_path / "out")) == 1


def test_quarantine_is_tried_again(tmp_path: Path, job: Runtime) -> None:
    source = jpegs(tmp_path / "photos", 2)
    broken = broken_jpegs(source)
    assert len(run(source, tmp_path / "out", job).ledger.failed) == 6
    (source / "cut.jpg").write_bytes(jpeg(7))  # repaired
    partly = run(source, tmp_path / "out", job, compute=1, retry_quarantined=True).ledger
    assert [plan.record["kind"] for plan in partly.plans] == ["first", "retry"]
    assert [image.tried for image in partly.plans[1].ids_of(3)] == [1, 1, 1]
    assert (partly.planned, partly.extracted, len(partly.failed)) == (8, 3, 5)
    # what an unfinished plan is still to try is not planned again, what it has tried is
    again = run(source, tmp_path / "out", job, compute=0, retry_quarantined=True).ledger
    assert [plan.ids for plan in again.plans] == [8, 6, 2]
    finished = run(source, tmp_path / "out", job).ledger
    assert (finished.planned, finished.extracted, len(finished.failed)) == (8, 3, 5)
    found = records(tmp_path / "out")
    assert found["cut.jpg"] == [(0, "decode 1"), (1, "maps")]
    assert found["empty.jpg"] == [(0, "decode 1"), (1, "decode 2"), (2, "decode 3")]
    assert finished.failed.keys() == broken.keys() - {"cut.jpg"}
    assert max(failure.tries for failure in finished.failed.values()) == 3


def test_nothing_to_try_again(tmp_path: Path, job: Runtime) -> None:
    source = jpegs(tmp_path / "photos", 2)
    assert len(run(source, tmp_path / "out", job, retry_quarantined=True).ledger.plans) == 1
    assert len(run(source, tmp_path / "out", job, retry_quarantined=True).ledger.plans) == 1


def test_another_job_is_refused(tmp_path: Path, job: Runtime) -> None:
    source = jpegs(tmp_path / "photos", 2)
    run(source, tmp_path / "out", job)
    other = Runtime(recipe(dtype="float32"))
    with pytest.raises(ValueError, match="dtype: stored 'float16', asked 'float32'"):
        run(source, tmp_path / "out", other, append=True)
    other.close()


def test_other_circumstances_are_told(tmp_path: Path, job: Runtime, caplog: pytest.LogCaptureFixture) -> None:
    source = jpegs(tmp_path / "photos", 4)
    run(source, tmp_path / "out", job, compute=1)
    path = tmp_path / "out/plan-0000.json"
    torch_now = json.loads(path.read_text())["record"]["versions"]["torch"]
    path.write_text(path.read_text().replace(f'"torch": "{torch_now}"', '"torch": "2.0.0"'))
    other = Runtime(recipe(batch_size=3))
    assert run(source, tmp_path / "out", other).ledger.extracted == 4
    other.close()
    assert "batch_size: stored 8, asked 3" in caplog.text
    assert f"versions.torch: stored '2.0.0', asked '{torch_now}'" in caplog.text
    assert "values may differ within rounding" in caplog.text


def test_dtypes_that_are_left_open_are_the_stores(tmp_path: Path, job: Runtime) -> None:
    made = Runtime(recipe(dtype="bfloat16", compute_dtype="float32"))
    run(jpegs(tmp_path / "photos", 2), tmp_path / "out", made)
    made.close()
    plans = open_plans(tmp_path / "out")
    assert settled(recipe(), []) == {}
    assert settled(recipe(), plans) == {"dtype": "bfloat16", "compute_dtype": "float32"}
    assert settled(recipe(dtype="float32"), plans) == {"compute_dtype": "float32"}


def test_bytes_are_those_of_the_images_own_sizes(tmp_path: Path) -> None:
    made = Runtime(recipe(processor=tiny_processor(do_resize=False)))
    found = image_table([(f"{i}", jpeg(i, (64, 32) if i % 2 else (32, 32))) for i in range(15)] + [("bad", b"")])
    made.recipe = replace(made.recipe, images=found.images)
    assert expected_bytes(found, made) == round((7 * made.bytes_at(32, 64) + 8 * made.bytes_at(32, 32)) / 15)
    nothing = image_table([("bad", b"")])
    made.recipe = replace(made.recipe, images=nothing.images)
    assert expected_bytes(nothing, made) == made.bytes_per_image()
    made.close()


def test_a_crash_keeps_its_count(tmp_path: Path, job: Runtime) -> None:
    source = [("a", jpeg(0)), ("b", jpeg(1))]
    found = image_table(source)
    job.recipe = replace(job.recipe, images=found.images)
    ledger = plan_run(found, tmp_path / "out", job).ledger
    crash = Failure("crash", "the process ended with signal 11", 3)
    list(extract_shards(ledger.plans[0], [0], job, crashed={"b": crash}))
    again = run(source, tmp_path / "out", job, retry_quarantined=True).ledger
    assert again.failed == {}
    assert [image.tried for image in again.plans[1].ids_of(1)] == [3]


def test_runs_that_begin_at_once_share_one_plan(tmp_path: Path) -> None:
    source, out = jpegs(tmp_path / "photos", 12), tmp_path / "out"
    start = threading.Barrier(4)
    jobs = [Runtime(recipe()) for _ in range(4)]

    def begin(job: Runtime) -> str:
        try:
            start.wait(60)
            return plan_run(image_table(source), out, job, BYTES).ledger.plans[0].digest
        finally:
            job.close()

    with ThreadPoolExecutor(4) as pool:
        digests = set(pool.map(begin, jobs))
    assert digests == {plan.digest for plan in open_plans(out)}
    assert len(open_plans(out)) == 1
