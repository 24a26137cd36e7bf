"""A store in a bucket, on a server that speaks S3: the same as in a folder, and it goes on after a run that was cut off."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from s3_server import ACCESS, bucket
from tiny_store import broken_jpegs, jpeg, jpegs, recipe

from vertebra.extraction.extract import Extraction, extract
from vertebra.extraction.ledger import Ledger
from vertebra.extraction.plan import open_plans
from vertebra.extraction.storage import Storage, open_storage

BYTES = 1920


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with bucket() as uri:
        yield uri


@pytest.fixture
def out(s3: str) -> str:
    return f"{s3}/{uuid.uuid4().hex}/features"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = jpegs(tmp_path / "photos", 10)
    broken_jpegs(folder)
    return folder


def run(source: Any, out: Any, **options: Any) -> Extraction:
    return extract(source, out, recipe(), shard_bytes=4 * BYTES, progress=False, **options)


def content(storage: Storage) -> dict[str, bytes]:
    names = [f"shards/{name}" for name in storage.names("shards")]
    plans = [name for name in storage.names() if name.startswith("plan-") and name.endswith(".parquet")]
    return {name: storage.read(name) for name in plans + names}


def test_a_bucket_holds_what_a_folder_does(photos: Path, out: str, tmp_path: Path) -> None:
    there, here = run(photos, out), run(photos, tmp_path / "out")
    assert str(there.out) == out
    assert (there.extracted, there.exit_code, there.shards) == (10, 3, 4)
    assert there.failed == here.failed
    assert there.size_bytes == here.size_bytes
    assert content(open_storage(out)) == content(open_storage(tmp_path / "out"))
    again = run(photos, out)
    assert (again.computed, again.extracted) == (0, 10)


def interrupt_after(shards: int) -> Any:
    add, left = Ledger.add, iter(range(shards - 1))

    def add_or_stop(ledger: Ledger, *args: Any) -> None:
        add(ledger, *args)
        if next(left, None) is None:
            raise KeyboardInterrupt

    return add_or_stop


def test_a_run_that_was_cut_off_goes_on(photos: Path, out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(photos, f"{out}-whole")
    monkeypatch.setattr(Ledger, "add", interrupt_after(2))
    with pytest.raises(KeyboardInterrupt):
        run(photos, out)
    monkeypatch.undo()
    storage = open_storage(out)
    before = {name: storage.version(f"shards/{name}") for name in storage.names("shards")}
    assert 2 <= len(before) < 4
    assert run(photos, out).computed == 16 - 4 * len(before)
    assert {name: storage.version(f"shards/{name}") for name in before} == before
    assert content(storage) == content(open_storage(str(first.out)))


def test_processes_write_there_too(photos: Path, out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the process that they are forked from was started before anybody had credentials."""
    for name in ACCESS:
        monkeypatch.delenv(name)
    run(photos, tmp_path / "out", engine="local")
    monkeypatch.undo()
    done = run(photos, out, engine="local", workers=2)
    assert (done.extracted, len(done.failed), done.missing) == (10, 6, 0)
    (photos / "new.jpg").write_bytes(jpeg(77))
    assert run(photos, out, append=True).extracted == 11
    assert [plan.ids for plan in open_plans(out)] == [16, 1]


def test_what_is_there_already_is_respected(photos: Path, out: str) -> None:
    with open_storage(out).write("thesis.tex") as file:
        file.write(b"years of work")
    with pytest.raises(FileExistsError, match=r"holds other files \(thesis\.tex\)"):
        run(photos, out)
    run(photos, f"{out}-2")
    with open_storage(f"{out}-2").write("shards/000001.safetensors") as file:
        file.write(b"damaged")
    assert run(photos, f"{out}-2").computed == 4
    with pytest.raises(ValueError, match="holds the features of another job"):
        extract(photos, f"{out}-2", recipe(), dtype="float32", progress=False)
