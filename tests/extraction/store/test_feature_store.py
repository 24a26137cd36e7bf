"""Reading a store gives what safetensors reads and what the backbone computes, by row and by id, here and in other processes."""

import gc
import json
import os
import pickle
import random
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from oracle import close, same
from PIL import Image
from real import tiny_backbone, tiny_processor
from safetensors import safe_open
from tiny_store import LEVELS, broken_jpegs, jpeg, jpegs, recipe
from torch.utils.data import DataLoader

from vertebra.extraction.extract import extract
from vertebra.extraction.shard_file import Failure, shard_name
from vertebra.extraction.store import feature_store as store_module
from vertebra.extraction.store.feature_store import FeatureStore
from vertebra.extraction.store.manifest import MANIFEST, QUARANTINE, is_current
from vertebra.extraction.store.records import image_schema
from vertebra.extraction.store.rows import Ids, Rows

BYTES = 1920
SIZES = [(48, 32), (32, 32), (48, 32), (64, 32), (32, 32), (48, 32), (32, 32)]


def small(folder: Path, images: int = 10, broken: bool = True, **options: Any) -> Path:
    """A store of images of one size, five a shard, with six broken ones in the last shards."""
    source = jpegs(folder / "images", images)
    if broken:
        broken_jpegs(source)
    extract(source, folder / "out", recipe(**options), shard_bytes=5 * BYTES)
    return folder / "out"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of ten images and six broken ones. Tests do not write into it."""
    return small(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def sized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of images of three sizes, in two shards. Tests do not write into it."""
    folder = tmp_path_factory.mktemp("sized")
    (folder / "images").mkdir()
    for number, (width, height) in enumerate(SIZES):
        (folder / f"images/{number}.jpg").write_bytes(jpeg(number, (width, height)))
    job = recipe(processor=tiny_processor(do_resize=False), dtype="float32")
    extract(folder / "images", folder / "out", job, shard_bytes=1)
    (folder / "out").rename(folder / "single")
    extract(folder / "images", folder / "out", job)
    return folder / "out"


def by_safetensors(out: Path) -> dict[str, dict[str, torch.Tensor]]:
    """All maps of a store of images of one size, read by the format's own library."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for path in sorted((out / "shards").glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for row, id_ in enumerate(json.loads(file.metadata()["ids"])):
                found[id_] = {level: file.get_slice(level)[row] for level in file.keys()}  # noqa: SIM118
    return found


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_maps_are_those_of_safetensors(tmp_path: Path, dtype: str) -> None:
    out = small(tmp_path, dtype=dtype)
    expected = by_safetensors(out)
    store = FeatureStore(out)
    assert list(store.ids) == list(store) == list(expected)
    for row, (id_, levels) in enumerate(expected.items()):
        assert store.read(id_).keys() == set(LEVELS) == levels.keys()
        for level, map_ in levels.items():
            same(store[level][row], map_)
            same(store[level][id_], map_)
            same(store.read(row, [level])[level], map_)
    assert store["stem"][0].dtype == getattr(torch, dtype)


def test_maps_are_those_of_the_backbone(sized: Path) -> None:
    store = FeatureStore(sized)
    job = recipe(processor=tiny_processor(do_resize=False))
    assert len(store) == len(SIZES)
    for number, (width, height) in enumerate(SIZES):
        id_ = f"{number}.jpg"
        pixels = job.processor(Image.open(sized.parent / "images" / id_), return_tensors="pt")
        with torch.inference_mode():
            expected = job.model(**pixels).feature_maps
        close(tuple(store.read(id_).values()), tuple(level[0] for level in expected), name=id_)
        assert store.place(id_).size == store.image_size(id_) == (height, width)


def test_rows_are_in_the_order_of_the_disk(sized: Path, out: Path) -> None:
    store = FeatureStore(sized)
    places = [store.place(row) for row in range(len(store))]
    assert places == sorted(places, key=lambda place: (place.shard, place.size, place.row))
    assert [(place.size, place.row) for place in places] == [
        ((32, 32), 0), ((32, 32), 1), ((32, 32), 2), ((32, 48), 0), ((32, 48), 1), ((32, 48), 2), ((32, 64), 0)
    ]  # fmt: skip
    assert list(store.ids) == ["1.jpg", "4.jpg", "6.jpg", "0.jpg", "2.jpg", "5.jpg", "3.jpg"]
    assert FeatureStore(out).place("0007.jpg") == (1, 2, (32, 48))


def test_what_a_store_says(out: Path) -> None:
    store = FeatureStore(out)
    assert len(store) == 10
    assert "0003.jpg" in store
    assert "cut.jpg" not in store
    assert 3 not in store
    assert store.levels == {stage.name: stage for stage in tiny_backbone(out_features=LEVELS).output_stages}
    assert store["stage2"].stage == store.levels["stage2"]
    assert store.fingerprint == store.plans[0].fingerprint
    assert (store.meaning["dtype"], store.record["batch_size"], store.missing) == ("float16", 8, 0)
    assert store.quarantine.keys() == {"cut.jpg", "empty.jpg", "head.jpg", "page.jpg", "shifted.jpg", "tables.jpg"}
    assert store.quarantine["page.jpg"].stage == "decode"
    assert store.image_size(-1) == (30, 40)
    assert store.uri(3) == store.uri("0003.jpg") == str(out.parent / "images/0003.jpg")
    assert store.uri("cut.jpg") == str(out.parent / "images/cut.jpg")
    assert repr(store) == f"<FeatureStore {str(out)!r}: 10 images, stem, stage1, stage2>"
    assert repr(store["stem"]) == f"<LevelView 'stem' of 10 images in {str(out)!r}>"


def test_ids_are_a_sequence(out: Path) -> None:
    ids = FeatureStore(out).ids
    plain = [f"{number:04d}.jpg" for number in range(10)]
    assert (ids[0], ids[-1], ids[2:4], ids[::-3]) == (plain[0], plain[-1], plain[2:4], plain[::-3])
    assert (ids.index("0004.jpg"), ids.count("0004.jpg"), list(reversed(ids))) == (4, 1, plain[::-1])
    assert ids == plain
    assert ids != plain[1:]
    (first, second) = FeatureStore(out)["stem"].blocks()
    assert (first.ids, second.ids) == (plain[:5], plain[5:])
    assert (second.ids[0], second.ids[-1], second.ids.index("0007.jpg"), "0004.jpg" in second.ids) == (
        plain[5],
        plain[9],
        2,
        False,
    )
    assert repr(ids) == "<10 ids: '0000.jpg', '0001.jpg', '0002.jpg', …>"
    for missing in ("cut.jpg", "none", 7):
        with pytest.raises(ValueError, match="There is no image"):
            ids.index(missing)
    with pytest.raises(ValueError, match="There is no image"):
        ids.index("0004.jpg", 5)
    with pytest.raises(IndexError):
        ids[10]


@pytest.mark.parametrize("seed", range(4))
def test_searched_text_against_a_dictionary(seed: int) -> None:
    """Any text, in any order, and in pieces of a larger column."""
    choose = random.Random(seed)
    letters = "ab/.é漢🙂\x00\x7f ~"
    ids = sorted({"".join(choose.choices(letters, k=choose.randrange(1, 9))) for _ in range(3000)}, key=str.encode)
    places = list(range(len(ids)))
    choose.shuffle(places)
    failed = set(choose.sample(places, 100))
    order = sorted(
        (place // 100, choose.choice([(8, 8), (8, 16), (24, 8)]), place) for place in places if place not in failed
    )
    rows: dict[tuple[int, Any], int] = {}
    columns: dict[int, dict[str, Any]] = {}
    for shard, size, place in order:
        row = rows[shard, size] = rows.get((shard, size), -1) + 1
        columns[place] = {"status": "maps", "shard": shard, "row": row, "size": "{}x{}".format(*size)}
    for place in failed:
        columns[place] = {"status": "read", "shard": place // 100, "row": -1, "size": None}
    rest = {"height": 1, "width": 1, "generation": 0}
    table = pa.Table.from_pylist(
        [{"id": id_, **columns[place], **rest} for id_, place in zip(ids, places, strict=True)]
    )
    table = table.set_column(4, "size", pa.array(table["size"].to_pylist()).dictionary_encode())
    table = table.set_column(1, "status", table["status"].dictionary_encode())
    found = Rows(table.cast(image_schema()).combine_chunks())
    named = dict(zip(places, ids, strict=True))
    expected = [named[place] for _, _, place in order]
    assert Ids(found) == expected
    assert [found.find(id_) for id_ in expected] == list(range(len(expected)))
    assert all(found.find(named[place]) == -1 for place in failed)
    for row in choose.sample(range(len(expected)), 50):
        entry = columns[order[row][2]]
        assert found.place(row) == (entry["shard"], entry["row"], order[row][1])
    runs = list(found.runs())
    assert [run.start for run in runs[1:]] == [run.stop for run in runs[:-1]]
    assert {(run.shard, run.size, run.row) for run in runs} == {(shard, size, 0) for shard, size, _ in order}
    for strange in ("", "zzz", "a" * 50, "\ud800"):
        if strange not in ids:
            with pytest.raises(KeyError):
                found.find(strange)


def test_gather(out: Path, sized: Path) -> None:
    store = FeatureStore(out)
    view = store["stage2"]
    for keys in ([7, 0, "0003.jpg", -1, 7], torch.tensor([2, 9]), np.array([5])):
        expected = torch.stack([view[key] for key in (keys if isinstance(keys, list) else keys.tolist())])
        same(view.gather(keys), expected)
    view.gather([0])[:] = 0
    assert view[0].abs().max() > 0
    with pytest.raises(ValueError, match="There is nothing to gather; give rows or ids"):
        view.gather([])
    same(FeatureStore(sized)["stem"].gather(["6.jpg", "1.jpg"])[1], FeatureStore(sized)["stem"]["1.jpg"])
    with pytest.raises(
        ValueError,
        match=r"The maps of stem differ in size.*processed at 32x48 \('0\.jpg'\), 32x32 \('1\.jpg'\)\. Gather those of one size",
    ):
        FeatureStore(sized)["stem"].gather(["0.jpg", "1.jpg"])


def test_blocks(out: Path, sized: Path) -> None:
    for folder in (out, sized):
        store = FeatureStore(folder)
        blocks = list(store["stage1"].blocks())
        assert [id_ for block in blocks for id_ in block.ids] == list(store.ids)
        same(tuple(map_ for block in blocks for map_ in block.maps), tuple(store["stage1"]))
    assert [len(block.ids) for block in FeatureStore(sized)["stem"].blocks()] == [3, 3, 1]


def test_rows_are_the_file_itself(tmp_path: Path) -> None:
    out = small(tmp_path, broken=False)
    before = {path: path.read_bytes() for path in (out / "shards").iterdir()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store = FeatureStore(out)
        first, second = store["stem"][0], store["stem"][1]
    assert second.data_ptr() - first.data_ptr() == first.nbytes
    assert store["stem"][0].data_ptr() == first.data_ptr()
    first.zero_()  # a private mapping
    assert {path: path.read_bytes() for path in (out / "shards").iterdir()} == before
    del store
    gc.collect()
    assert second.isfinite().all()  # the tensor keeps its file mapped


def test_shards_are_closed_when_there_are_too_many(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "OPEN_SHARDS", 1)
    store = FeatureStore(out)
    maps = [store["stem"][row] for row in (0, 9, 1, 8)]
    assert len(store._shards) == 1
    opened = [os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()]
    assert not [name for name in opened if name.endswith(".safetensors")]  # processes may have 1024 of them
    same(maps, [FeatureStore(out)["stem"][row] for row in (0, 9, 1, 8)])


def test_a_repaired_image_is_read_from_its_last_shard(tmp_path: Path) -> None:
    out = small(tmp_path, images=3)
    source = tmp_path / "images"
    old = FeatureStore(out)
    (source / "cut.jpg").write_bytes(jpeg(7))
    extract(source, out, recipe(), retry_quarantined=True)
    for store in (FeatureStore(out), _without_manifest(out)):
        assert (len(store), len(store.quarantine), store.missing) == (4, 5, 0)
        assert store.ids[-1] == "cut.jpg"
        assert store.place("cut.jpg") == (2, 0, (32, 48))
        assert store.uri("cut.jpg") == str(source / "cut.jpg")
        assert store.quarantine["empty.jpg"].tries == 2
        same(store["stem"]["cut.jpg"], by_safetensors(out)["cut.jpg"]["stem"])
    with pytest.raises(KeyError, match=r"'cut\.jpg' has no features, its extraction failed \(decode\)"):
        old["stem"]["cut.jpg"]  # what was on disk when it was opened


def _without_manifest(out: Path) -> FeatureStore:
    (out / MANIFEST).unlink()
    return FeatureStore(out)


def test_a_store_that_is_being_written(tmp_path: Path) -> None:
    source = jpegs(tmp_path / "images", 10)
    extract(source, tmp_path / "out", recipe(), shard_bytes=2 * BYTES, shard_index=1, shard_count=2)
    early = FeatureStore(tmp_path / "out")
    assert (list(early.ids), early.missing) == (["0002.jpg", "0003.jpg", "0006.jpg", "0007.jpg"], 6)
    with pytest.raises(
        KeyError, match=r"There is no image '0000\.jpg'.* 4 images are stored; .* 6 more are still to be"
    ):
        early.read("0000.jpg")
    extract(source, tmp_path / "out", recipe(), shard_index=0, shard_count=2)
    assert len(early) == 4
    assert len(FeatureStore(tmp_path / "out")) == 10


def test_a_store_without_any_map(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    broken_jpegs(tmp_path / "images")
    extract(tmp_path / "images", tmp_path / "out", recipe())
    for _ in range(2):
        store = FeatureStore(tmp_path / "out")
        assert (len(store), list(store.ids), len(store.quarantine), store.missing) == (0, [], 6, 0)
        assert list(store["stem"].blocks()) == []
        (tmp_path / "out/shards/000000.safetensors").rename(tmp_path / "shard")
        planned = FeatureStore(tmp_path / "out")
        assert (len(planned), planned.missing, planned.quarantine) == (0, 6, {})
        (tmp_path / "shard").rename(tmp_path / "out/shards/000000.safetensors")
        store.index()


def test_the_manifest_is_a_cache(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = small(tmp_path)
    whole = {name: (out / name).read_bytes() for name in (MANIFEST, QUARANTINE)}
    table = pa.parquet.read_table(out / MANIFEST)
    assert table["id"].to_pylist() == sorted([*FeatureStore(out).ids, *FeatureStore(out).quarantine])
    failed = pa.parquet.read_table(out / QUARANTINE).to_pylist()
    assert failed[0] == {
        "id": "cut.jpg", "uri": str(tmp_path / "images/cut.jpg"), "stage": "decode", "tries": 1, "shard": 2, "generation": 0,
        "error": FeatureStore(out).quarantine["cut.jpg"].error,
    }  # fmt: skip
    shard = out / shard_name(1)
    content, written = shard.read_bytes(), shard.stat()
    shard.write_bytes(b"x" * len(content))
    os.utime(shard, ns=(written.st_atime_ns, written.st_mtime_ns))
    assert len(FeatureStore(out)) == 10  # no header is read
    assert not caplog.records
    os.utime(shard)
    assert (len(FeatureStore(out)), FeatureStore(out).missing) == (5, 5)  # newer than the manifest, so looked at
    assert "000001.safetensors' is not a whole safetensors file" in caplog.text
    assert "the same extraction computes it anew" in caplog.text
    shard.unlink()
    assert is_current(FeatureStore(out).plans) is False
    shard.write_bytes(content)
    (out / MANIFEST).unlink()
    assert is_current(FeatureStore(out).plans) is False
    (out / QUARANTINE).unlink()
    assert is_current(FeatureStore(out).plans) is None
    assert FeatureStore(out).index() == 16
    assert {name: (out / name).read_bytes() for name in (MANIFEST, QUARANTINE)} == whole
    caplog.clear()
    (out / MANIFEST).write_bytes(whole[MANIFEST][:100])
    assert len(FeatureStore(out)) == 10
    assert "manifest.parquet' cannot be read" in caplog.text
    assert "`vertebra features index" in caplog.text


def test_shards_that_the_manifest_does_not_know_are_added(tmp_path: Path) -> None:
    out = small(tmp_path)
    last = out / shard_name(2)
    content = last.read_bytes()
    last.unlink()
    FeatureStore(out).index()
    assert len(FeatureStore(out).quarantine) == 1
    last.write_bytes(content)
    added = FeatureStore(out)
    known = added._manifest
    added.index()
    rebuilt = FeatureStore(out)._manifest
    assert known.records.images.equals(rebuilt.records.images)
    assert known.records.failures.equals(rebuilt.records.failures)
    assert known.shards == rebuilt.shards


def test_a_manifest_of_another_store_is_not_believed(tmp_path: Path, out: Path) -> None:
    other = small(tmp_path, images=4, broken=False)
    for name in (MANIFEST, QUARANTINE):
        (other / name).write_bytes((out / name).read_bytes())
    assert list(FeatureStore(other).ids) == [f"000{number}.jpg" for number in range(4)]


def test_sent_to_other_processes(out: Path) -> None:
    store = FeatureStore(out)
    store["stem"][0]
    again: FeatureStore = pickle.loads(pickle.dumps(store))
    assert not again._shards
    assert list(again.ids) == list(store.ids)
    same(tuple(again.read("0007.jpg").values()), tuple(store.read("0007.jpg").values()))
    assert again.quarantine == store.quarantine
    assert pickle.loads(pickle.dumps(store["stem"]))[3].equal(store["stem"][3])
    assert pickle.loads(pickle.dumps(store.ids)) == list(store.ids)


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_data_loader(out: Path, context: str) -> None:
    store = FeatureStore(out)
    expected = by_safetensors(out)
    seen = []
    for batch in DataLoader(
        store.dataset(["stem", "stage2"]), 4, shuffle=True, num_workers=2, multiprocessing_context=context
    ):
        assert batch.keys() == {"id", "stem", "stage2"}
        seen += batch["id"]
        same(batch["stage2"], torch.stack([expected[id_]["stage2"] for id_ in batch["id"]]))
    assert sorted(seen) == list(store.ids)
    single = DataLoader(store["stem"], batch_size=None, num_workers=1, multiprocessing_context=context)
    for row, map_ in enumerate(single):
        same(map_, store["stem"][row])
        assert map_.untyped_storage().nbytes() == map_.nbytes  # not the file


def test_dataset_of_some_images(out: Path) -> None:
    store = FeatureStore(out)
    dataset = store.dataset(keys=["0008.jpg", 2])
    assert [dataset[0]["id"], dataset[1]["id"], len(dataset)] == ["0008.jpg", "0002.jpg", 2]
    assert dataset[0].keys() == {"id", *LEVELS}
    assert [item["id"] for item in dataset.__getitems__([1, 0, 1])] == ["0002.jpg", "0008.jpg", "0002.jpg"]
    assert [item["id"] for item in dataset] == ["0008.jpg", "0002.jpg"]
    with pytest.raises(KeyError, match="There is no image 'none'"):
        store.dataset(keys=["none"])
    with pytest.raises(KeyError, match="There is no level 'stage3'"):
        store.dataset(["stage3"])


def test_a_store_that_is_far_away(sized: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    where = f"memory://{sized.parent.name}/store"
    files = fsspec.filesystem("memory")
    files.put(str(sized), where, recursive=True)
    near, far = FeatureStore(sized), FeatureStore(where)
    for store in (far, pickle.loads(pickle.dumps(far))):
        assert list(store.ids) == list(near.ids)
        for id_ in near.ids:
            same(tuple(store.read(id_).values()), tuple(near.read(id_).values()))
        same(
            tuple(block.maps for block in store["stem"].blocks()), tuple(block.maps for block in near["stem"].blocks())
        )
        same(store["stage1"].gather([0, 2]), near["stage1"].gather([0, 2]))
    assert far.uri("3.jpg") == near.uri("3.jpg")
    files.rm(f"{where}/{MANIFEST}")
    assert FeatureStore(where).index() == len(near)
    assert files.exists(f"{where}/{MANIFEST}")


def test_one_row_of_a_far_store_is_one_range(sized: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec")
    where = f"memory://{sized.parent.name}/ranges"
    fsspec.filesystem("memory").put(str(sized), where, recursive=True)
    store = FeatureStore(where)
    reader = store.shard(0)
    read = reader.storage.read
    asked: list[int] = []

    class Counting:
        def read(self, name: str, start: int, end: int) -> bytes:
            asked.append(end - start)
            return read(name, start, end)

    reader.storage = Counting()  # type: ignore[assignment]
    assert store["stem"][2].nbytes == sum(asked)
    assert len(asked) == 1


def test_unknown_images_and_levels(out: Path) -> None:
    store = FeatureStore(out)
    for key, error, text in (
        (
            "0011.jpg",
            KeyError,
            r"There is no image '0011\.jpg'\. Did you mean '00.*10 images are stored; \.ids lists them",
        ),
        ("cut.jpg", KeyError, r"'cut\.jpg' has no features, its extraction failed \(decode\): "),
        (10, IndexError, "There is no row 10; the store has 10 images with maps"),
        (-11, IndexError, "There is no row -11; the store has 10 images with maps"),
    ):
        for call in (
            store["stem"].__getitem__,
            store.read,
            store.place,
            store.image_size,
            lambda k: store["stem"].gather([k]),
        ):
            with pytest.raises(error, match=text):
                call(key)  # type: ignore[operator]
    with pytest.raises(KeyError, match="There is no image 'none'"):
        store.uri("none")
    for key in (1.0, slice(2), None, [1], True, np.bool_(True), torch.tensor([1, 2])):
        with pytest.raises(
            TypeError, match=r"is neither a row \(a whole number\) nor an id \(text\)\. Several at once: store"
        ):
            store["stem"][key]  # type: ignore[index]
    with pytest.raises(TypeError, match="False is neither a row"):
        store["stem"].gather(torch.arange(len(store)) == 3)
    same(store["stem"].gather("0003.jpg"), store["stem"].gather([3]))
    same(store["stem"][np.int64(3)], store["stem"][torch.tensor(3)])  # type: ignore[index]
    with pytest.raises(
        KeyError, match=r"There is no level 'stage3'\. Did you mean 'stage2', 'stage1'.*Stored are stem, stage1"
    ):
        store["stage3"]
    with pytest.raises(
        KeyError, match=r"There is no level '0003\.jpg'.* '0003\.jpg' is an image: store\.read\('0003\.jpg'\)"
    ):
        store["0003.jpg"]


def test_what_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"holds no features: it has no plan\. `vertebra extract SRC OUT --model M`"
    ):
        FeatureStore(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no features"):
        FeatureStore(tmp_path / "none")
    out = small(tmp_path, broken=False)
    plan = out / "plan-0000.json"
    plan.write_text(re.sub('"format": 2', '"format": 9', plan.read_text(), count=1))
    with pytest.raises(ValueError, match="has format 9; this version of vertebra reads 2"):
        FeatureStore(out)


def test_damaged_shards(tmp_path: Path) -> None:
    out = small(tmp_path, broken=False)
    shard = out / shard_name(1)
    whole = shard.read_bytes()

    def opened() -> FeatureStore:
        """A store that knows the shard as it was."""
        shard.write_bytes(whole)
        return FeatureStore(out)

    store = opened()
    shard.unlink()
    with pytest.raises(OSError, match=r"000001\.safetensors' is damaged or missing .*`vertebra features verify"):
        store["stem"][5]
    same(store["stem"][0], FeatureStore(out)["stem"][0])  # the others can be read
    store = opened()
    shard.write_bytes(whole[:-10])
    with pytest.raises(OSError, match=r"is damaged or missing .*its tensors take"):
        store["stem"]["0005.jpg"]
    store = opened()
    shard.write_bytes((out / shard_name(0)).read_bytes())
    with pytest.raises(OSError, match=r"000001\.safetensors' is not of this store's plan: its shard differ"):
        store["stem"][5]
    with pytest.raises(FileExistsError, match="is not of this plan"):
        FeatureStore(out)
    store = opened()
    shard.write_bytes(whole.replace(b'"stem":', b'"stum":'))
    with pytest.raises(OSError, match=r"it has no maps of 'stem' at 32x48 pixels, only stum, stage1, stage2"):
        store["stem"][5]
    store = opened()
    shard.write_bytes(
        whole.replace(b'"stem":{"dtype":"F16","shape":[5,4,8,12]', b'"stem":{"dtype":"F16","shape":[4,5,8,12]')
    )
    assert store["stem"][8].shape == (5, 8, 12)
    with pytest.raises(OSError, match="it has 4 maps of 'stem', not 5"):
        store["stem"][9]


def test_a_header_that_lacks_something_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = small(tmp_path, broken=False)
    shard = out / shard_name(1)
    shard.write_bytes(shard.read_bytes().replace(b'"sizes":', b'"sized":'))
    store = FeatureStore(out)
    assert (len(store), store.missing) == (5, 5)
    assert re.search(r"The header of '.*000001\.safetensors' is damaged: KeyError\('sizes'\)", caplog.text)


def test_failures_are_kept_whole(out: Path) -> None:
    with safe_open(out / shard_name(2), framework="pt") as file:
        stored = json.loads(file.metadata()["quarantine"])
    quarantine = FeatureStore(out).quarantine
    assert {id_: quarantine[id_] for id_ in stored} == {id_: Failure(**facts) for id_, facts in stored.items()}
    assert replace(quarantine["cut.jpg"], tries=2).tries == 2
