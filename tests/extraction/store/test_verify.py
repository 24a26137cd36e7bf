"""Whatever is done to a file of a store, `verify` finds it, and says what to do; a store that is whole is sound."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from real import tiny_processor
from tiny_store import broken_jpegs, jpeg, jpegs, recipe

from vertebra.extraction.extract import extract
from vertebra.extraction.leftovers import machine, started
from vertebra.extraction.shard_file import NO_CHECKSUM, shard_name
from vertebra.extraction.store.feature_store import FeatureStore
from vertebra.extraction.store.findings import Report
from vertebra.extraction.store.manifest import MANIFEST
from vertebra.extraction.store.verify import remove_damaged, verify_store

BYTES = 1920


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two plans and a retry: ten images, six broken ones, two new ones; beside it its images and another store."""
    folder = tmp_path_factory.mktemp("whole")
    source = jpegs(folder / "images", 10)
    broken_jpegs(source)
    extract(source, folder / "out", recipe(), shard_bytes=4 * BYTES)
    for number in (10, 11):
        (source / f"{number:04d}.jpg").write_bytes(jpeg(number))
    (source / "cut.jpg").write_bytes(jpeg(20))
    extract(source, folder / "out", recipe(), append=True, retry_quarantined=True)
    extract(source / "0000.jpg", folder / "other", recipe())
    return folder


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    """A copy of it to be damaged."""
    return Path(shutil.copytree(whole / "out", tmp_path / "out"))


def kinds(report: Report) -> dict[str, str]:
    return {finding.name: finding.kind for finding in report.problems}


def test_a_whole_store_is_sound(whole: Path) -> None:
    before = {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (whole / "out").rglob("*") if path.is_file()
    }
    report = verify_store(whole / "out")
    assert report.is_sound
    assert not report.findings
    assert (report.planned, report.extracted, report.quarantined, report.shards) == (18, 13, 5, 6)
    assert report.size_bytes == sum(path.stat().st_size for path in (whole / "out/shards").iterdir())
    assert str(report).splitlines() == [
        f"13 images with maps and 5 in quarantine, of 18 planned, in 6 sound shards (0.0 MiB) of {whole / 'out'}",
        "sound",
    ]
    assert report.to_json()["sound"] is True
    assert FeatureStore(whole / "out").verify() == report
    assert before == {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before}


def flip(path: Path, place: int) -> None:
    """Change one byte, and leave the file's times as they were."""
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def header(path: Path, old: bytes, new: bytes) -> None:
    """Change the header as somebody would who knows the format, but for the checksum."""
    content = path.read_bytes()
    assert old in content
    assert len(old) == len(new)
    path.write_bytes(content.replace(old, new, 1))


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda path: flip(path, -1), "its bytes are not those that were written"),
        (lambda path: flip(path, -3000), "its bytes are not those that were written"),
        (lambda path: flip(path, 9), "its header"),
        (lambda path: header(path, b"0004.jpg", b"0014.jpg"), "its bytes are not those that were written"),
        (lambda path: header(path, b'"shard":"1"', b'"shard":"2"'), "its bytes are not those that were written"),
        (lambda path: header(path, b'"shape":[4', b'"shape":[5'), "does not take the"),
        (cut, "its tensors take"),
        (lambda path: path.write_bytes(b""), "it has 0 bytes"),
        (lambda path: path.write_bytes(b"\x02" + bytes(7) + b"[]"), "its header is a JSON list"),
        (lambda path: path.write_bytes(b"<html></html>"), "This is a web page"),
    ],
)
def test_damaged_shards(out: Path, whole: Path, damage: Callable[[Path], None], text: str) -> None:
    shard = out / shard_name(1)
    original = shard.read_bytes()
    damage(shard)
    report = verify_store(out)
    assert not report.is_sound
    assert kinds(report) == {shard_name(1): "damaged"}
    (finding,) = report.problems
    assert text in finding.text
    assert finding.advice == (
        f"`vertebra features verify {out} --remove-damaged` removes it; the same extraction then computes it anew."
    )
    assert (report.extracted, report.shards) == (9, 5)
    assert f"damaged: {shard_name(1)}: " in str(report)
    assert str(report).endswith("NOT SOUND: 1 problem")
    assert shard.exists()
    assert remove_damaged(report) == [shard_name(1)]
    assert kinds(verify_store(out)) == {"plan-0000": "missing"}
    assert extract(whole / "images", out, recipe()).computed == 4
    assert shard.read_bytes() == original
    assert verify_store(out).is_sound


def test_what_cannot_be_read_is_not_removed(out: Path) -> None:
    (out / shard_name(1)).unlink()
    (out / shard_name(1)).symlink_to("/proc/self/mem")  # a file that gives an error when it is read
    report = verify_store(out)
    assert kinds(report) == {shard_name(1): "unreadable"}
    assert report.problems[0].advice == "Make it readable, and verify again."
    assert remove_damaged(report) == []
    with pytest.raises(OSError, match="Input/output error"):
        FeatureStore(out)


def rewrite(path: Path, change: Callable[[dict[str, str]], None]) -> None:
    """Change the metadata of a shard, with a checksum that fits."""
    import hashlib

    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    change(header["__metadata__"])
    header["__metadata__"]["checksum"] = NO_CHECKSUM
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    text = len(text).to_bytes(8, "little") + text
    digest = hashlib.sha256(text + data).hexdigest()
    path.write_bytes(text.replace(NO_CHECKSUM.encode(), digest.encode()) + data)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ('"0004.jpg"', '"none.jpg"', "it has no record of '0004.jpg', which the plan gives to it"),
        ('"0004.jpg"', '"0004.jpg","none.jpg"', "it has records of 'none.jpg', which the plan does not give to it"),
        ('"0004.jpg"', '"0004.jpg","0004.jpg"', "it has more than one record of '0004.jpg'"),
        ('"0004.jpg",', "", "it has no record of '0004.jpg'"),
        ('["0004.jpg"', "[4", "its header lacks what a shard says"),
    ],
)
def test_ids_that_are_not_those_of_the_plan(out: Path, old: str, new: str, text: str) -> None:
    def change(metadata: dict[str, str]) -> None:
        assert old in metadata["ids"]
        metadata["ids"] = metadata["ids"].replace(old, new)
        metadata["sizes"] = metadata["sizes"].replace("{", '{"none.jpg":[1,1],', 1)

    rewrite(out / shard_name(1), change)
    (finding,) = verify_store(out).problems
    assert (finding.kind, finding.name) == ("damaged", shard_name(1))
    assert text in finding.text


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ('"stem"', '"stum"', "it holds the tensors stum, stage1, stage2, not stem, stage1, stage2"),
        (
            '"shape": [4, 4, 8, 12]',
            '"shape": [4, 8, 4, 12]',
            "the shape of 'stem' is [4, 8, 4, 12], not [4, 4, 'h', 'w']",
        ),
        (
            '"shape": [4, 4, 8, 12]',
            '"shape": [2, 8, 8, 12]',
            "the shape of 'stem' is [2, 8, 8, 12], not [4, 4, 'h', 'w']",
        ),
        ('"dtype": "F16"', '"dtype": "BF16"', "'stem' is BF16, and the plan says float16"),
        ('"dtype": "F16"', '"dtype": "I16"', "its maps are I16"),
    ],
)
def test_tensors_that_are_not_those_of_the_plan(out: Path, old: str, new: str, text: str) -> None:
    """Files whose checksum fits: somebody has written them with another program."""
    path = out / shard_name(1)
    rewrite(path, lambda metadata: None)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    changed = content[8 : 8 + length].decode().replace(old, new, 1).encode()
    changed = changed.rstrip() + b" " * (-len(changed.rstrip()) % 8)
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + content[8 + length :])
    rewrite(path, lambda metadata: None)
    (finding,) = verify_store(out).problems
    assert (finding.kind, finding.name) == ("damaged", shard_name(1))
    assert text in finding.text


def test_swapped_shards(out: Path, whole: Path) -> None:
    one, two = out / shard_name(0), out / shard_name(1)
    one.rename(out / "x")
    two.rename(one)
    (out / "x").rename(two)
    report = verify_store(out)
    assert kinds(report) == {shard_name(0): "misplaced", shard_name(1): "misplaced"}
    assert report.problems[0].text == "it is shard 1 of this plan."
    assert report.problems[0].advice.startswith("Give it its right name. Or: `vertebra features verify")
    assert remove_damaged(report) == [shard_name(0), shard_name(1)]
    extract(whole / "images", out, recipe())
    assert verify_store(out).is_sound


def test_a_shard_of_another_store(out: Path, whole: Path) -> None:
    shutil.copy(whole / "other" / shard_name(0), out / shard_name(2))
    report = verify_store(out)
    assert kinds(report) == {shard_name(2): "misplaced"}
    assert report.problems[0].text == "it is of another plan: its plan, shard differ."
    assert report.problems[0].advice == "Move it away; the same extraction then computes this one."
    assert remove_damaged(report) == []


def test_missing_shards(out: Path) -> None:
    for number in (0, 2, 4):
        (out / shard_name(number)).unlink()
    report = verify_store(out)
    assert kinds(report) == {"plan-0000": "missing", "plan-0001": "missing"}
    assert report.problems[0].text == "2 of 4 shards are not on disk (8 images): 0, 2."
    assert report.problems[0].advice == "The same extraction computes them."
    assert (report.extracted, report.quarantined, report.planned) == (5, 5, 18)


def test_no_shards_at_all(out: Path) -> None:
    shutil.rmtree(out / "shards")
    assert kinds(verify_store(out)) == {"plan-0000": "missing", "plan-0001": "missing", "plan-0002": "missing"}


def test_the_ids_of_another_plan(out: Path, whole: Path) -> None:
    shutil.copy(whole / "other/plan-0000.parquet", out / "plan-0000.parquet")
    report = verify_store(out)
    assert kinds(report) == {"plan-0000.parquet": "plan"}
    assert "is not the file that plan-0000.json was written with" in report.problems[0].text
    assert report.problems[0].advice.startswith("Put the original back")
    flip(out / shard_name(0), -1)  # shards are checked nevertheless
    assert kinds(verify_store(out)) == {"plan-0000.parquet": "plan", shard_name(0): "damaged"}
    (out / "plan-0000.parquet").unlink()
    assert kinds(verify_store(out)) == {"plan-0000.parquet": "plan", shard_name(0): "damaged"}


def test_the_facts_of_another_plan(out: Path, whole: Path) -> None:
    shutil.copy(whole / "other/plan-0000.json", out / "plan-0000.json")
    found = kinds(verify_store(out))
    assert found["plan-0000.parquet"] == "plan"
    assert found["plan-0001.json"] == "plan"  # its shards do not follow those of the first
    assert found[shard_name(0)] == "misplaced"
    assert "no plan has a shard of this number." in str(verify_store(out))


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ('"float16"', '"float32"', "its meaning was changed, it no longer fits its fingerprint"),
        ('"format": 2', '"format": 3', "has format 3"),
        ("{", "", "is damaged: JSONDecodeError"),
        ('"count": 1', '"count": 0', "is damaged: a plan has images and shards, at least one of each"),
    ],
)
def test_damaged_plans(out: Path, old: str, new: str, text: str) -> None:
    path = out / "plan-0001.json"
    path.write_text(path.read_text().replace(old, new, 1))
    (finding,) = verify_store(out).problems
    assert finding.kind == "plan"
    assert text in finding.text
    assert finding.advice.startswith("Put the original back")


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        ('"first": 4', '"first": 5', {"plan-0001.json", "plan-0001.parquet"}),
        ('"count": 1', '"count": 2', {"plan-0001.json"}),
        ('"ids": 2', '"ids": 1', {"plan-0001.parquet"}),
        ('"generation": 1', '"generation": 2', {"plan-0001.json", shard_name(4)}),
    ],
)
def test_plans_with_wrong_numbers(out: Path, old: str, new: str, wrong: set[str]) -> None:
    path = out / "plan-0001.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert wrong <= kinds(verify_store(out)).keys()


def test_a_plan_is_missing(out: Path) -> None:
    (out / "plan-0001.json").unlink()
    report = verify_store(out)
    assert kinds(report) == {"plan-0002.json": "plan", "plan-0002.parquet": "plan"}
    assert report.problems[0].text == "a plan before it is missing: plan-0001.json."
    assert {finding.name: finding.text for finding in report.findings if finding.is_harmless} == {
        "plan-0001.parquet": "it has no .json: making a plan was interrupted.",
        MANIFEST: "it is older than what is on disk.",
        shard_name(4): "no plan has a shard of this number.",
        shard_name(5): "no plan has a shard of this number.",
    }


def test_a_manifest_that_lies(out: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    written = (out / MANIFEST).stat()
    table = parquet.read_table(out / MANIFEST)
    rows = table["row"].to_pylist()
    rows[0], rows[1] = rows[1], rows[0]
    table = table.set_column(table.column_names.index("row"), "row", pa.array(rows, pa.int32()))
    parquet.write_table(table, out / MANIFEST)
    os.utime(out / MANIFEST, ns=(written.st_atime_ns, written.st_mtime_ns + 10**9))
    report = verify_store(out)
    assert kinds(report) == {MANIFEST: "manifest"}
    assert report.problems[0].text == "it does not say what the shards say."
    assert f"`vertebra features index {out}`" in report.problems[0].advice
    FeatureStore(out).index()
    assert verify_store(out).is_sound


def test_what_is_harmless(out: Path) -> None:
    (out / "notes.txt").touch()
    (out / "shards/x.bin").touch()
    (out / "shards/000099.safetensors").touch()
    ours, another = f"{machine()}-{started(os.getpid())}", f"{'0' * 12}-1"
    temporary = {
        f"shards/.000001.safetensors.{ours}.{os.getpid()}.abc.tmp": f"process {os.getpid()} is writing it.",
        f"shards/.000002.safetensors.{ours}.4194303.abc.tmp": "process 4194303 was killed and left it.",
        f".plan-0003.json.{another}.7.abc.tmp": "process 7 of another machine, or of this one before it was started anew, writes "
        "it or has left it.",
    }
    for name in temporary:
        (out / name).touch()
    report = verify_store(out)
    assert report.is_sound
    assert {finding.name: (finding.kind, finding.text) for finding in report.findings} == {
        "notes.txt": ("strange", "it is no part of a store."),
        "shards/x.bin": ("strange", "it is no shard."),
        "shards/000099.safetensors": ("strange", "no plan has a shard of this number."),
        **{name: ("leftover", text) for name, text in temporary.items()},
    }
    assert remove_damaged(report) == []
    assert str(report).endswith("\nsound")


def test_maps_of_several_sizes(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number, size in enumerate([(32, 32), (48, 32), (32, 32), (48, 32)]):
        (tmp_path / f"images/{number}.jpg").write_bytes(jpeg(number, size))
    job = recipe(processor=tiny_processor(do_resize=False))
    extract(tmp_path / "images", tmp_path / "out", job, shard_bytes=4000)
    assert verify_store(tmp_path / "out").is_sound

    def change(metadata: dict[str, str]) -> None:
        metadata["ids@32x32"], metadata["ids@32x48"] = metadata["ids@32x48"], metadata["ids@32x32"]

    rewrite(tmp_path / "out" / shard_name(0), change)
    assert verify_store(tmp_path / "out").is_sound  # nobody can know
    rewrite(tmp_path / "out" / shard_name(0), lambda metadata: metadata.update({"ids@32x32": '["0.jpg","1.jpg"]'}))
    (finding,) = verify_store(tmp_path / "out").problems
    assert (finding.kind, finding.name) == ("damaged", shard_name(0))


def test_a_shard_computed_again_after_a_repair(out: Path, whole: Path) -> None:
    """The image that had failed there has two records with maps then; the newer one counts."""
    (out / shard_name(2)).unlink()
    extract(whole / "images", out, recipe())
    report = verify_store(out)
    assert report.is_sound
    (finding,) = report.findings
    assert finding.text == "1 images have maps in two shards, since they were tried again: 'cut.jpg'."
    assert FeatureStore(out).place("cut.jpg").shard == 5
    assert len(FeatureStore(out)) == 13


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no features: it has no plan"):
        verify_store(tmp_path)
