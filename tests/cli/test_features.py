"""`vertebra features`: a store from the command line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from real import tiny_backbone, tiny_processor
from tiny_store import LEVELS, broken_jpegs, jpeg, jpegs, recipe

from vertebra import FeatureStore
from vertebra.cli import build_parser, main
from vertebra.extraction.extract import extract
from vertebra.extraction.leftovers import machine
from vertebra.extraction.shard_file import shard_name

BYTES = 1920
ACTIONS = ("status", "verify", "index", "append", "merge", "export", "show")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, images (six of them broken), and a store that the command has made of them."""
    folder = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    tiny_backbone(out_features=LEVELS).save_pretrained(folder / "model")
    tiny_processor().save_pretrained(folder / "model")
    broken_jpegs(jpegs(folder / "images", 6))
    command = ["extract", str(folder / "images"), str(folder / "out"), "--model", str(folder / "model")]
    options = [
        "--features",
        ",".join(LEVELS),
        "--shard-bytes",
        str(4 * BYTES),
        "--engine",
        "inline",
        "--batch-size",
        "3",
    ]
    assert main([*command, *options]) == 3
    return folder


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """A copy of the store."""
    return Path(shutil.copytree(made / "out", tmp_path / "out"))


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["features"]) == 2
    text = capsys.readouterr().out
    assert text.startswith("usage: vertebra features")
    assert all(f"\n    {action} " in text for action in ACTIONS)
    for action in ACTIONS:
        with pytest.raises(SystemExit) as ended:
            build_parser().parse_args(["features", action, "--help"])
        assert ended.value.code == 0
        assert "OUT" in capsys.readouterr().out


def test_status(out: Path, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["features", "status", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    size = sum(path.stat().st_size for path in (out / "shards").iterdir())
    assert lines == [
        f"{out}: complete",
        f"  model       {made / 'model'} (ResNetBackbone), float16, fingerprint {FeatureStore(out).fingerprint[:12]}",
        "  images      6 of 12 with maps, 6 in quarantine (6 decode), 0 still to be computed",
        f"  shards      3 of 3 on disk, {size / 2**20:.1f} MiB",
        "  level       stem             4 channels  stride 4",
        "  level       stage1           4 channels  stride 4",
        "  level       stage2           8 channels  stride 8",
        f"  generation  0 (first): 12 images of {made / 'images'}, 3 shards",
        "  manifest    current",
    ]
    (out / shard_name(1)).unlink()
    (out / f"shards/.000001.safetensors.{machine()}-5.4194303.abc.tmp").touch()
    assert main(["features", "status", str(out)]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{out}: not complete\n")
    assert "12 images of" in text
    assert "3 shards, 1 missing: 1\n  writing     shard 1: process 4194303 was killed\n  manifest    stale" in text
    assert main(["features", "status", str(out), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["complete"], facts["planned"], facts["extracted"], facts["missing"]) == (False, 12, 4, 4)
    assert facts["quarantined"] == {"decode": 4}
    assert facts["generations"][0]["missing"] == [1]
    assert facts["writers"] == [{"process": 4194303, "shard": 1, "is_alive": False}]
    assert facts["levels"]["stage2"]["channels"] == 8


def test_verify(out: Path, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["features", "verify", str(out)]) == 0
    assert capsys.readouterr().out.endswith("\nsound\n")
    path = out / shard_name(0)
    path.write_bytes(path.read_bytes()[:-2] + b"xy")
    assert main(["features", "verify", str(out)]) == 1
    text = capsys.readouterr().out
    assert f"damaged: {shard_name(0)}: its bytes are not those that were written" in text
    assert text.endswith("NOT SOUND: 1 problem\n")
    assert path.exists()
    assert main(["features", "verify", str(out), "--json", "--remove-damaged"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["sound"], report["removed"], report["findings"][0]["kind"]) == (False, [shard_name(0)], "damaged")
    assert not path.exists()
    assert main(["features", "append", str(out), "--engine", "inline"]) == 3  # what is missing is computed, too
    assert main(["features", "verify", str(out)]) == 0
    assert path.read_bytes() == (made / "out" / shard_name(0)).read_bytes()


def test_index(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {name: (out / name).read_bytes() for name in ("manifest.parquet", "quarantine.parquet")}
    for name in files:
        (out / name).unlink()
    assert main(["features", "index", str(out)]) == 0
    assert capsys.readouterr().out == f"12 images -> {out}/manifest.parquet, {out}/quarantine.parquet\n"
    assert {name: (out / name).read_bytes() for name in files} == files


@pytest.mark.parametrize("engine", ["inline", pytest.param("local", marks=pytest.mark.slow)])
def test_append(out: Path, made: Path, tmp_path: Path, engine: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = Path(shutil.copytree(made / "images", tmp_path / "images"))
    assert main(["features", "append", str(out), "--engine", engine]) == 3
    assert "nothing was left to do" in capsys.readouterr().out
    more = jpegs(tmp_path / "more", 0)
    for number in (20, 21):
        (more / f"{number:04d}.jpg").write_bytes(jpeg(number))
    assert main(["features", "append", str(out), str(more), "--json", "--engine", engine]) == 3
    done = json.loads(capsys.readouterr().out)
    assert (done["computed"], done["extracted"], done["planned"]) == (2, 8, 14)
    store = FeatureStore(out)
    assert [plan.record["kind"] for plan in store.plans] == ["first", "append"]
    first, second = (plan.record["recipe"] for plan in store.plans)
    assert second == first | {"dtype": "float16", "compute_dtype": "float32"}  # another machine would choose others
    assert store.plans[1].record["batch_size"] == 3
    command = ["extract", str(more), str(tmp_path / "alone"), "--model", str(made / "model"), "--engine", "inline"]
    assert main([*command, "--features", ",".join(LEVELS), "--batch-size", "3"]) == 0
    alone = FeatureStore(tmp_path / "alone")
    for id_ in alone.ids:
        assert all(map_.equal(alone[level][id_]) for level, map_ in store.read(id_).items())
    assert source.exists()


def test_append_in_vain(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["features", "append", str(tmp_path / "none")]) == 1
    assert "holds no features" in capsys.readouterr().err
    jpegs(tmp_path / "images", 2)
    extract([("a", tmp_path / "images/0000.jpg")], tmp_path / "memory", recipe())
    assert main(["features", "append", str(tmp_path / "memory"), "--engine", "inline"]) == 1
    assert "was made of a list of 1 images, which cannot be found from here; give SRC." in capsys.readouterr().err
    assert main(["features", "append", str(tmp_path / "memory"), str(tmp_path / "images"), "--engine", "inline"]) == 1
    assert "was computed by a backbone in memory, so its plan cannot name it" in capsys.readouterr().err


def test_merge(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jpegs(tmp_path / "images", 8)
    for number in range(6):
        (tmp_path / f"images/{number:04d}.jpg").unlink()
    command = ["extract", str(tmp_path / "images"), str(tmp_path / "other"), "--model", str(made / "model")]
    assert main([*command, "--features", ",".join(LEVELS), "--engine", "inline"]) == 0
    capsys.readouterr()
    assert main(["features", "merge", str(tmp_path / "out"), str(made / "out"), str(tmp_path / "other")]) == 0
    assert "images      8 of 14 with maps, 6 in quarantine" in capsys.readouterr().out
    assert main(["features", "merge", str(tmp_path / "x"), str(made / "out"), str(made / "out")]) == 1
    assert "error: 12 images of" in capsys.readouterr().err


def test_export(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (out / shard_name(0)).unlink()
    assert main(["features", "export", str(out), str(tmp_path / "npy"), "--format", "npy", "--levels", "stem"]) == 0
    output = capsys.readouterr()
    assert output.out == f"{tmp_path / 'npy'}\n"
    assert output.err == "4 images of OUT are not computed yet; they are not in it.\n"
    assert sorted(path.name for path in (tmp_path / "npy").iterdir()) == ["ids.json", "stem.npy", "store.json"]
    assert main(["features", "export", str(out), str(tmp_path / "x"), "--levels", "stm"]) == 1
    assert capsys.readouterr().err.startswith("error: There is no level 'stm'. Did you mean 'stem'?")


@pytest.mark.parametrize("action", ["status", "verify", "index"])
def test_no_store(action: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["features", action, str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"error: '{tmp_path}' holds no features: it has no plan.")
