"""Exports hold the maps as safetensors reads them; they are there whole or not at all."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from real import tiny_processor
from safetensors import safe_open
from tiny_store import LEVELS, broken_jpegs, jpeg, jpegs, recipe

from vertebra.extraction.extract import extract
from vertebra.extraction.store import export as export_module
from vertebra.extraction.store.export import export
from vertebra.extraction.store.feature_store import FeatureStore

BYTES = 1920
Maps = dict[str, dict[str, torch.Tensor]]


def make(folder: Path, dtype: str = "float16") -> FeatureStore:
    """Seven images in two shards, and six broken ones."""
    source = jpegs(folder / "images", 7)
    broken_jpegs(source)
    extract(source, folder / "out", recipe(dtype=dtype), shard_bytes=4 * BYTES)
    return FeatureStore(folder / "out")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return make(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def sized(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Images of two sizes."""
    folder = tmp_path_factory.mktemp("sized")
    (folder / "images").mkdir()
    for number, size in enumerate([(32, 32), (48, 32), (32, 32), (48, 32), (32, 32)]):
        (folder / f"images/{number}.jpg").write_bytes(jpeg(number, size))
    extract(folder / "images", folder / "out", recipe(processor=tiny_processor(do_resize=False)), shard_bytes=4000)
    return FeatureStore(folder / "out")


def stored(store: FeatureStore) -> Maps:
    """All maps by id and level, read by safetensors."""
    found: Maps = {}
    for path in sorted((Path(str(store.storage)) / "shards").iterdir()):
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            for key, ids in file.metadata().items():
                kind, at, size = key.partition("@")
                for row, id_ in enumerate(json.loads(ids)) if kind == "ids" else ():
                    levels = {name.partition("@")[0]: name for name in names if name.endswith(at + size)}
                    found[id_] = {level: file.get_tensor(name)[row] for level, name in levels.items()}
    return found


def check(found: dict[str, dict[str, np.ndarray]], expected: Maps, levels: list[str] = LEVELS) -> None:
    assert found.keys() == expected.keys()
    for id_, maps in found.items():
        assert list(maps) == levels
        for level, map_ in maps.items():
            wanted = expected[id_][level]
            assert map_.dtype == (np.float16 if wanted.dtype == torch.float16 else np.float32)
            assert np.array_equal(map_, wanted.float().numpy().astype(map_.dtype)), (id_, level)


def read_tars(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """As webdataset does: files that lie beside each other and agree up to the first dot are one sample."""
    samples: list[tuple[str, dict[str, bytes]]] = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, kind = member.name.partition(".")
                if not samples or samples[-1][0] != key:
                    samples.append((key, {}))
                content = tar.extractfile(member)
                assert content is not None
                samples[-1][1][kind] = content.read()
    assert len({key for key, _ in samples}) == len(samples)
    found = {}
    for _, parts in samples:
        facts = json.loads(parts.pop("json"))
        found[facts["id"]] = {kind.removesuffix(".npy"): np.load(io.BytesIO(data)) for kind, data in parts.items()}
        assert facts.keys() == {"id", "size", "original"}
    return found


def read_arrays(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    found: dict[str, dict[str, np.ndarray]] = {}
    for path in sorted(folder.glob("ids*.json")):
        ending = path.stem.removeprefix("ids")
        for level in LEVELS:
            for id_, map_ in zip(json.loads(path.read_text()), np.load(folder / f"{level}{ending}.npy"), strict=True):
                found.setdefault(id_, {})[level] = map_
    return found


def read_tables(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    from pyarrow import parquet

    found = {}
    for path in sorted(folder.glob("*.parquet")):
        table = parquet.read_table(path)
        levels = {name: table[name].combine_chunks().to_numpy_ndarray() for name in table.column_names[1:]}
        for row, id_ in enumerate(table["id"].to_pylist()):
            found[id_] = {name: maps[row] for name, maps in levels.items()}
    return found


READERS = {"webdataset": read_tars, "npy": read_arrays, "parquet": read_tables}


@pytest.mark.parametrize("format", READERS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_maps_are_those_of_the_store(tmp_path: Path, format: str, dtype: str) -> None:
    store = make(tmp_path, dtype)
    folder = export(store, tmp_path / "new/export", format)
    assert folder == tmp_path / "new/export"
    check(READERS[format](folder), stored(store))
    facts = json.loads((folder / "store.json").read_text())
    assert (facts["fingerprint"], facts["images"], facts["missing"]) == (store.fingerprint, 7, 0)
    assert facts["quarantine"].keys() == store.quarantine.keys()
    assert facts["meaning"] == store.meaning
    assert not [path for path in folder.parent.iterdir() if path != folder]


@pytest.mark.parametrize("format", ["webdataset", "npy"])
def test_several_sizes(sized: FeatureStore, tmp_path: Path, format: str) -> None:
    check(READERS[format](export(sized, tmp_path / "export", format)), stored(sized))


def test_several_sizes_are_no_table(sized: FeatureStore, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"tensors of one shape, and images were processed at 32x32, 32x48 pixels; take the"
    ):
        export(sized, tmp_path / "export", "parquet")
    assert not list(tmp_path.iterdir())


def test_some_levels(store: FeatureStore, tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()  # an empty folder is fine
    folder = export(store, tmp_path / "export", levels=["stage2", "stem"])
    check(read_tars(folder), stored(store), ["stage2", "stem"])
    assert [path.name for path in sorted(folder.iterdir())] == ["000000.tar", "000001.tar", "store.json"]


def test_arrays_in_pieces(store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vertebra.extraction.store.export_formats.BLOCK", 1)
    check(read_arrays(export(store, tmp_path / "export", "npy")), stored(store))


def test_tars_are_equal_every_time(store: FeatureStore, tmp_path: Path) -> None:
    one, two = (export(store, tmp_path / name) for name in ("one", "two"))
    assert (one / "000001.tar").read_bytes() == (two / "000001.tar").read_bytes()


def test_nothing_is_there_after_an_error(store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        (arguments[2] / "000000.tar").touch()  # type: ignore[operator]
        raise OSError("No space left on device")

    monkeypatch.setitem(export_module.FORMATS, "webdataset", fail)
    with pytest.raises(OSError, match="No space left"):
        export(store, tmp_path / "export")
    assert not list(tmp_path.iterdir())


KILLED = """
import sys, time
from vertebra.extraction.store import export as e
from vertebra.extraction.store.feature_store import FeatureStore

def slow(store, levels, folder, advance):
    (folder / "000000.tar").touch()
    print("begun", flush=True)
    time.sleep(60)

e.FORMATS["webdataset"] = slow
e.export(FeatureStore(sys.argv[1]), sys.argv[2])
"""


def test_what_a_killed_export_left_is_removed(store: FeatureStore, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(store.storage), str(tmp_path / "export")], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        assert not (tmp_path / "export").exists()
        export(store, tmp_path / "export2")
        assert len(list(tmp_path.iterdir())) == 2  # what is being written stays
        os.kill(process.pid, signal.SIGKILL)
    time.sleep(0.01)
    export(store, tmp_path / "export")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "export2"]


def test_bad_arguments(store: FeatureStore, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"format='npi' must be one of webdataset, npy, parquet\. Did you mean 'npy'"):
        export(store, tmp_path / "export", "npi")
    with pytest.raises(KeyError, match=r"There is no level 'stm'\. Did you mean 'stem'"):
        export(store, tmp_path / "export", levels=["stm"])
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    for name in ("full", "full/x"):
        with pytest.raises(FileExistsError, match="exists and is no empty folder; give a new one"):
            export(store, tmp_path / name)
    assert not (tmp_path / "export").exists()


def test_too_little_space(store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 7 * BYTES - 1

    monkeypatch.setattr("shutil.disk_usage", lambda place: Usage)
    with pytest.raises(OSError, match=r"The maps take 0\.0 GiB, and 0\.0 GiB are free at .*Export fewer levels"):
        export(store, tmp_path / "export")
    Usage.free += 1
    export(store, tmp_path / "export")
