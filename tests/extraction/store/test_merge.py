"""Stores that were computed apart become one, with every map as it was."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from oracle import same
from safetensors.torch import load_file
from tiny_store import broken_jpegs, jpeg, jpegs, recipe

from vertebra.extraction.extract import extract
from vertebra.extraction.plan import open_plans
from vertebra.extraction.shard_file import read_metadata, shard_name
from vertebra.extraction.storage import open_storage
from vertebra.extraction.store.feature_store import FeatureStore
from vertebra.extraction.store.merge import merge
from vertebra.extraction.store.verify import verify_store

BYTES = 1920


def pairs(folder: Path, part: slice) -> list[Any]:
    return [(path.name, path) for path in sorted(folder.iterdir())[part]]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores `a` (one plan and a retry, other shard size), `b` (two plans) and `c` of 20 images, six broken ones among them."""
    folder = tmp_path_factory.mktemp("parts")
    images = jpegs(folder / "images", 14)
    broken_jpegs(images)
    extract(pairs(images, slice(13, 20)), folder / "a", recipe(), shard_bytes=5 * BYTES)
    (images / "cut.jpg").write_bytes(jpeg(30))
    extract(pairs(images, slice(13, 20)), folder / "a", recipe(), retry_quarantined=True)
    extract(pairs(images, slice(0, 5)), folder / "b", recipe(), shard_bytes=2 * BYTES)
    extract(pairs(images, slice(0, 9)), folder / "b", recipe(), append=True, shard_bytes=3 * BYTES)
    extract(pairs(images, slice(9, 13)), folder / "c", recipe())
    return folder


def test_every_map_is_there(parts: Path, tmp_path: Path) -> None:
    stores = [parts / name for name in "abc"]
    plans = merge(stores, tmp_path / "out")
    assert [(plan.generation, plan.first, plan.count, plan.record["kind"]) for plan in plans] == [
        (0, 0, 2, "first"), (1, 2, 1, "retry"), (2, 3, 3, "append"), (3, 6, 2, "append"), (4, 8, 1, "append")
    ]  # fmt: skip
    assert plans == open_plans(tmp_path / "out")
    assert verify_store(tmp_path / "out").is_sound
    merged = FeatureStore(tmp_path / "out")
    assert (len(merged), len(merged.quarantine), merged.missing) == (15, 5, 0)
    for path in stores:
        store = FeatureStore(path)
        for id_ in store.ids:
            same(tuple(merged.read(id_).values()), tuple(store.read(id_).values()), name=id_)
            assert (merged.uri(id_), merged.image_size(id_)) == (store.uri(id_), store.image_size(id_))
        assert store.quarantine.items() <= merged.quarantine.items()
    assert plans[2].record["merged_from"] == str(parts / "b")
    assert plans[2].record["versions"] == open_plans(parts / "b")[0].record["versions"]


def test_shards_differ_in_what_they_are_a_part_of_alone(parts: Path, tmp_path: Path) -> None:
    merge([parts / "b", parts / "c"], tmp_path / "out")
    for number in range(5):
        there, here = (
            read_metadata(open_storage(folder), shard_name(number)) for folder in (parts / "b", tmp_path / "out")
        )
        assert {key for key in there if there[key] != here[key]} <= {"plan", "checksum", "generation"}
        old, new = (load_file(folder / shard_name(number)) for folder in (parts / "b", tmp_path / "out"))
        assert all(old[name].equal(new[name]) for name in old.keys() | new.keys())


def test_merging_goes_on_where_it_stopped(parts: Path, tmp_path: Path) -> None:
    stores = [parts / "a", parts / "b"]
    merge(stores, tmp_path / "out")
    whole = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    for name in (shard_name(1), shard_name(4), "plan-0003.json", "manifest.parquet"):
        (tmp_path / "out" / name).unlink()
    kept = (tmp_path / "out" / shard_name(0)).stat().st_mtime_ns
    merge(stores, tmp_path / "out")
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == whole
    assert (tmp_path / "out" / shard_name(0)).stat().st_mtime_ns == kept


def test_what_a_store_lacks_is_computed_later(parts: Path, tmp_path: Path) -> None:
    part = Path(shutil.copytree(parts / "b", tmp_path / "part"))
    (part / shard_name(1)).unlink()
    merge([parts / "c", part], tmp_path / "out")
    assert FeatureStore(tmp_path / "out").missing == 2
    done = extract(pairs(parts / "images", slice(0, 13)), tmp_path / "out", recipe())
    assert (done.computed, done.missing) == (2, 0)
    assert verify_store(tmp_path / "out").is_sound


def test_other_jobs_are_refused(parts: Path, tmp_path: Path) -> None:
    extract(pairs(parts / "images", slice(0, 1)), tmp_path / "other", recipe(dtype="bfloat16"))
    with pytest.raises(
        ValueError, match=r"hold the features of different jobs:\n  dtype: the first 'float16', the other 'bfloat"
    ):
        merge([parts / "a", tmp_path / "other"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_common_images_are_refused(parts: Path, tmp_path: Path) -> None:
    extract(pairs(parts / "images", slice(4, 7)), tmp_path / "other", recipe())
    with pytest.raises(
        ValueError, match=r"3 images of '.*other' are in a store before it as well: '0004\.jpg', '0005\.jpg'"
    ):
        merge([parts / "b", tmp_path / "other"], tmp_path / "out")
    with pytest.raises(ValueError, match=r"9 images of .* are in a store before it as well"):
        merge([parts / "b", parts / "b"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_stores_are_refused(parts: Path, tmp_path: Path) -> None:
    part = Path(shutil.copytree(parts / "b", tmp_path / "part"))
    path = part / shard_name(2)
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)
    with pytest.raises(
        OSError, match=r"000002\.safetensors' is damaged: its bytes are not those that were written\. Repair"
    ):
        merge([part, parts / "c"], tmp_path / "out")
    shutil.copy(part / shard_name(1), path)
    with pytest.raises(OSError, match=r"000002\.safetensors' is not of its store's plan"):
        merge([part, parts / "c"], tmp_path / "again")


def test_other_places_are_refused(parts: Path, tmp_path: Path) -> None:
    merge([parts / "a", parts / "b"], tmp_path / "out")
    for stores in (["b", "a"], ["b", "c"]):
        with pytest.raises(FileExistsError, match="holds another store; give a new or an empty folder"):
            merge([parts / name for name in stores], tmp_path / "out")
    merge([parts / name for name in "abc"], tmp_path / "out")  # it begins with the same two
    with pytest.raises(FileExistsError, match="holds another store, with more plans"):
        merge([parts / "a", parts / "b"], tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes").touch()
    with pytest.raises(FileExistsError, match="holds other files"):
        merge([parts / "a", parts / "b"], tmp_path / "full")
    with pytest.raises(ValueError, match="There are 1 stores to merge; give two or more"):
        merge([parts / "a"], tmp_path / "x")
    with pytest.raises(FileNotFoundError, match="holds no features"):
        merge([parts / "a", tmp_path / "none"], tmp_path / "x")


def test_out_is_no_store_of_the_merge(parts: Path, tmp_path: Path) -> None:
    """It would be a store of its own images twice as soon as the merge had begun, and could not go on."""
    shutil.copytree(parts / "b", tmp_path / "b")
    (tmp_path / "link").symlink_to(tmp_path / "b")
    for out in ("b", "link"):
        with pytest.raises(ValueError, match=r"is one of the stores to merge; OUT has to be a new or an empty folder"):
            merge([tmp_path / "b", parts / "c"], tmp_path / out)
    assert len(open_plans(tmp_path / "b")) == 2


def test_far_away(parts: Path, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    where = f"memory://{tmp_path.name}"
    fsspec.filesystem("memory").put(str(parts / "b"), f"{where}/b", recursive=True)
    merge([f"{where}/b", parts / "c"], f"{where}/out")
    assert verify_store(f"{where}/out").is_sound
    assert len(FeatureStore(f"{where}/out")) == 13
