"""Images, ids and stores that mean harm: nothing is lost, and nothing is written outside OUT."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from fault_runs import Job, png, tell_memory
from pyarrow import csv, parquet
from tiny_store import jpeg, jpegs

from vertebra.cli import main
from vertebra.extraction.image_table import image_table
from vertebra.extraction.plan import open_plans
from vertebra.extraction.shard_file import read_metadata

SOME = 40
IDS = [
    "../../x",
    "/etc/passwd",
    "..",
    "shards/000000.safetensors",
    "x" * 4096,
    "a\nb",
    "a\x00b",
    "ünï☃\u202e",
    '"; --',
    " ",
]


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 files, three shards of them. Tests do not write into it."""
    return jpegs(tmp_path_factory.mktemp("few") / "photos", SOME)


def extract(source: object, model: Path, out: Path, *options: str) -> int:
    """The command in this process."""
    arguments = [
        "extract",
        str(source),
        str(out),
        "--model",
        str(model),
        "--engine",
        "inline",
        "--shard-bytes",
        "16KiB",
    ]
    return main([*arguments, *options])


def tree(folder: Path) -> dict[str, bytes | None]:
    """All there is below a folder."""
    return {
        path.relative_to(folder).as_posix(): None if path.is_dir() else path.read_bytes() for path in folder.rglob("*")
    }


def ids(out: Path) -> list[str]:
    """The ids of a store as the headers of its shards say them."""
    storage = open_plans(out)[0].storage
    headers = [read_metadata(storage, f"shards/{name}") for name in storage.names("shards")]
    return [id_ for header in headers for id_ in json.loads(header["ids"])]


def test_a_huge_image_costs_nothing(few: Path, model: Path, tmp_path: Path) -> None:
    """2.7 GB of pixels in 3 MB."""
    shutil.copytree(few, tmp_path / "photos")
    data = png(30_000, 30_000)
    assert 2**20 < len(data) < 2**22
    (tmp_path / "photos/huge.png").write_bytes(data)
    job = Job(tmp_path / "photos", model, tmp_path / "out", ("--engine", "inline"), before=tell_memory)
    assert job.run() == 3, job.said
    assert "huge.png" in job.said
    assert "900000000 pixels" in job.said or "30000 x 30000 pixels" in job.said
    grown = int(job.said.rpartition("grown by ")[2].split()[0])
    assert grown < 300
    assert len(ids(job.out)) == SOME


def test_what_a_huge_image_is(tmp_path: Path) -> None:
    """The recipe of the file above gives files that others can read."""
    from PIL import Image

    with Image.open(io.BytesIO(png(1300, 1100))) as picture:
        picture.load()
        assert (picture.size, picture.mode, picture.getextrema()) == ((1300, 1100), "RGB", ((0, 0),) * 3)


def test_hostile_ids(model: Path, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "image.jpg").write_bytes(jpeg(0))
    table = pa.table({"id": IDS, "uri": [str(tmp_path / "image.jpg")] * len(IDS)})
    parquet.write_table(table, tmp_path / "list.parquet")
    before = tree(tmp_path)
    assert extract(tmp_path / "list.parquet", model, tmp_path / "inner/out") == 0
    assert ids(tmp_path / "inner/out") == IDS
    after = tree(tmp_path)
    assert after.keys() - before.keys() == {
        f"inner/{name}" for name in (
            "out", "out/manifest.parquet", "out/plan-0000.json", "out/plan-0000.parquet", "out/quarantine.parquet",
            "out/shards", "out/shards/000000.safetensors",
        )
    }  # fmt: skip
    assert all(after[name] == content for name, content in before.items())


def test_ids_that_come_twice(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    csv.write_csv(pa.table({"id": ["a", "b", "a"], "uri": ["x", "y", "z"]}), tmp_path / "list.csv")
    with tarfile.open(tmp_path / "twice.tar", "w") as file:
        for name in ("a.jpg", "b.jpg", "a.jpg"):
            member = tarfile.TarInfo(name)
            member.size = len(jpeg(0))
            file.addfile(member, io.BytesIO(jpeg(0)))
    for name, first in (("list.csv", "a"), ("twice.tar", "twice.tar/a.jpg")):
        assert extract(tmp_path / name, model, tmp_path / "out") == 1
        assert f"names '{first}' twice; every id has one record. 1 of 3 ids are repeats" in capsys.readouterr().err
    with pytest.raises(ValueError, match="names 'a' twice; every id has one record"):
        image_table(pair for pair in [("a", "/x"), ("a", "/x")])
    assert not (tmp_path / "out").exists()


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut": lambda data: data[:-1],
    "longer": lambda data: data + b"\0",
    "of zeros": lambda data: bytes(len(data)),
    "huge header": lambda data: b"\xff" * 8 + data[8:],
    "no JSON": lambda data: data[:8] + data[8:].replace(b"{", b"[", 1),
    "no list": lambda data: data.replace(b'"shape":[', b'"shape":{', 1),
    "other format": lambda data: data.replace(b'"format":"2"', b'"format":"7"', 1),
    "nothing ours": lambda data: data.replace(b'"__metadata__"', b'"__betadata__"', 1),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_shards_are_computed_anew(
    damage: str, few: Path, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert extract(few, model, tmp_path / "out") == 0
    before = tree(tmp_path / "out")
    shard = tmp_path / "out/shards/000001.safetensors"
    changed = DAMAGE[damage](shard.read_bytes())
    assert changed != shard.read_bytes()
    shard.write_bytes(changed)
    assert extract(few, model, tmp_path / "out") == 0
    assert "000001.safetensors" in caplog.text
    assert "the same extraction computes it anew." in caplog.text
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize("what", ["shard of another job", "other fingerprint", "other plan", "ids"])
def test_what_is_no_part_of_the_store_stays(
    what: str, few: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may be somebody's work: it is named, and left alone."""
    assert extract(few, model, tmp_path / "out") == 0
    shard = tmp_path / "out/shards/000001.safetensors"
    data = shard.read_bytes()
    if what == "shard of another job":
        assert extract(few, model, tmp_path / "other", "--pool", "2") == 0
        data = (tmp_path / "other/shards/000000.safetensors").read_bytes()
        differs = "fingerprint, plan, shard"
    elif what == "ids":
        shard = tmp_path / "out/plan-0000.parquet"
        data = shard.read_bytes().replace(b"0039.jpg", b"0038.jpg", 1)
    else:
        name = what.removeprefix("other ")
        at = data.index(f'"{name}":"'.encode()) + len(name) + 4
        data = data[:at] + (b"1" if data[at : at + 1] != b"1" else b"2") + data[at + 1 :]
        differs = name
    if what == "ids" and data == shard.read_bytes():
        data = data[:-12] + bytes([data[-12] ^ 1]) + data[-11:]
    shard.write_bytes(data)
    before = tree(tmp_path / "out")
    capsys.readouterr()
    assert extract(few, model, tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert shard.name in said
    if what != "ids":
        assert f"is not of this plan (it differs in {differs}). Move it away" in said
    assert tree(tmp_path / "out") == before


def test_an_image_that_changes_between_runs(few: Path, model: Path, tmp_path: Path) -> None:
    """A finished shard is not computed again; what is missing takes the image as it is now."""
    photos, out = tmp_path / "photos", tmp_path / "out"
    shutil.copytree(few, photos)
    assert extract(photos, model, out) == 0
    first, second = (out / f"shards/{number:06d}.safetensors" for number in range(2))
    before = first.read_bytes(), second.read_bytes()
    changed = [
        json.loads(read_metadata(open_plans(out)[0].storage, f"shards/{path.name}")["ids"])[0]
        for path in (first, second)
    ]
    for name in changed:
        (photos / name).write_bytes(jpeg(77))
    second.unlink()
    assert extract(photos, model, out) == 0
    assert first.read_bytes() == before[0]
    assert len(second.read_bytes()) == len(before[1])
    assert second.read_bytes() != before[1]


def test_a_link_in_the_place_of_a_shard(few: Path, model: Path, tmp_path: Path) -> None:
    """Whoever puts it there does not get another file overwritten."""
    assert extract(few, model, tmp_path / "out") == 0
    before = tree(tmp_path / "out")
    (tmp_path / "precious").write_text("do not touch")
    shard = tmp_path / "out/shards/000001.safetensors"
    shard.unlink()
    shard.symlink_to(tmp_path / "precious")
    assert extract(few, model, tmp_path / "out") == 0
    assert (tmp_path / "precious").read_text() == "do not touch"
    assert tree(tmp_path / "out") == before
    assert not shard.is_symlink()
