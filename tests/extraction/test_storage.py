"""A folder, a bucket and fsspec's memory answer alike: files are there whole or not at all."""

import pickle
import uuid
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from s3_server import bucket

from vertebra.extraction.storage import LocalStorage, RemoteStorage, Storage, open_storage


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with bucket() as uri:
        yield uri


@pytest.fixture(params=["folder", "s3", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        return open_storage(tmp_path / "out")
    root = request.getfixturevalue("s3") if request.param == "s3" else "memory:/"
    return open_storage(f"{root}/{uuid.uuid4().hex}/out/")


def put(storage: Storage, name: str, data: bytes, new: bool = False) -> None:
    with storage.write(name, new=new) as file:
        file.write(data)


def test_files(storage: Storage) -> None:
    assert storage.names() == storage.names("shards") == []
    put(storage, "plan.json", b"plan")
    put(storage, "shards/000001.bin", bytes(range(256)))
    put(storage, "shards/000000.bin", b"")
    assert storage.names() == ["plan.json", "shards/"]
    assert storage.names("shards") == ["000000.bin", "000001.bin"]
    assert (storage.size("plan.json"), storage.size("shards/000000.bin")) == (4, 0)
    assert storage.read("plan.json") == b"plan"
    assert storage.read("shards/000001.bin", 3, 7) == bytes(range(3, 7))
    assert storage.read("shards/000001.bin", 250) == bytes(range(250, 256))
    with storage.open("shards/000001.bin") as file:
        file.seek(16)
        assert file.read(2) == b"\x10\x11"
    before = storage.version("plan.json")
    assert storage.version("plan.json") == before
    put(storage, "plan.json", b"another")
    assert storage.read("plan.json") == b"another"
    assert storage.version("plan.json") != before
    storage.remove("plan.json")
    storage.remove("plan.json")
    assert storage.names() == ["shards/"]


def test_a_file_that_exists_is_not_replaced_by_a_new_one(storage: Storage) -> None:
    put(storage, "plan.json", b"first", new=True)
    with pytest.raises(FileExistsError, match=r"plan\.json' exists already"):
        put(storage, "plan.json", b"second", new=True)
    assert storage.read("plan.json") == b"first"
    assert storage.names() == ["plan.json"]


def fail_halfway(storage: Storage, name: str) -> None:
    with storage.write(name) as file:
        file.write(b"ha")
        file.flush()
        raise RuntimeError("power")


def test_what_fails_leaves_nothing(storage: Storage) -> None:
    put(storage, "shards/000000.bin", b"whole")
    for name in ("shards/000000.bin", "shards/000001.bin"):
        with pytest.raises(RuntimeError, match="power"):
            fail_halfway(storage, name)
    assert storage.names("shards") == ["000000.bin"]
    assert storage.read("shards/000000.bin") == b"whole"


@pytest.mark.parametrize("ask", ["size", "version", "read"])
def test_missing_files(storage: Storage, ask: str) -> None:
    put(storage, "here", b"")
    with pytest.raises(FileNotFoundError):
        getattr(storage, ask)("gone")


def test_it_goes_to_other_processes(storage: Storage) -> None:
    put(storage, "plan.json", b"plan")
    again = pickle.loads(pickle.dumps(storage))
    assert again == storage
    assert hash(again) == hash(storage)
    assert again.read("plan.json") == b"plan"


def test_where_files_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = open_storage("out")
    assert isinstance(here, LocalStorage)
    assert (str(here), here.local("a")) == ("out", tmp_path / "out/a")
    assert (here.free_bytes() or 0) > 0
    assert not (tmp_path / "out").exists()
    assert open_storage(here) is here
    assert open_storage(f"file://{tmp_path}/with%20space").local("a") == tmp_path / "with space/a"
    there = open_storage("memory://store/")
    assert isinstance(there, RemoteStorage)
    assert (str(there), there.local("a"), there.free_bytes()) == ("memory://store", None, None)


def test_concurrent_writers_of_one_new_object(s3: str) -> None:
    """The server itself refuses the second, where both have seen that there is none."""
    first = open_storage(f"{s3}/race")
    writing = first.write("plan.json", new=True)
    writing.__enter__().write(b"late")
    boto3.client("s3").put_object(Bucket=s3.removeprefix("s3://"), Key="race/plan.json", Body=b"early")
    with pytest.raises(FileExistsError, match="exists already"):
        writing.__exit__(None, None, None)
    assert first.read("plan.json") == b"early"


def test_places_that_cannot_be_opened(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ValueError, match=r"'wrong://x' cannot be opened: Protocol not known: wrong.* Give a folder, or a uri"
    ):
        open_storage("wrong://x")
    with pytest.raises(OSError, match="bucket"):
        put(open_storage("s3://no-such-bucket/out"), "plan.json", b"")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="is a file; give the folder"):
        open_storage(tmp_path / "file").names()
