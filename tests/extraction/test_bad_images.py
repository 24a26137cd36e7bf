"""`vertebra extract` over a folder of bad images: each is named with its reason, the others go on, memory is bounded."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hostile import png_claiming
from PIL import Image
from real import photos, tiny_backbone

from vertebra import FeatureStore
from vertebra.cli import main
from vertebra.image_processing.bit import BitImageProcessor

MIB = 2**10  # ru_maxrss counts KiB on Linux
COMMAND = """
import resource, sys, torch
torch.set_num_threads(1)
from vertebra.cli import main
import vertebra.extraction.extract, vertebra.auto.backbone, vertebra.auto.vision
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for decoder in ("pillow", "fast"):
    code = main(["extract", sys.argv[1], sys.argv[2] + decoder, *sys.argv[3:], "--decode", decoder])
    print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, end="\\0")
    print(end="\\0", file=sys.stderr)
"""
BAD = {
    "bomb.png": "DecompressionBombError: Image size (400000000 pixels) exceeds limit",
    "claims.png": "DecompressionBombError: Image size (3600000000 pixels) exceeds limit",
    "claims-less.png": "OSError: ",
    "cut.jpg": "OSError: ",
    "empty.jpg": "UnidentifiedImageError: cannot identify image file 'empty.jpg'",
    "text.jpg": "UnidentifiedImageError: cannot identify image file 'text.jpg'",
    "thin.png": "ValueError: An image of 2x10000 pixels (height x width) would be resized to 224x1120000, more than",
    "web.png": "UnidentifiedImageError: cannot identify image file 'web.png'",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_backbone().save_pretrained(folder)
    BitImageProcessor(size={"shortest_edge": 224}, crop_size=224).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    Image.new("1", (20_000, 20_000)).save(folder / "bomb.png")
    assert (folder / "bomb.png").stat().st_size < 100_000
    (folder / "claims.png").write_bytes(png_claiming(60_000, 60_000))
    (folder / "claims-less.png").write_bytes(png_claiming(9_000, 9_000))
    (folder / "cut.jpg").write_bytes((photos() / "daisy.jpg").read_bytes()[:9000])
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("no image")
    (folder / "web.png").write_text("<!DOCTYPE html><html></html>")
    Image.effect_noise((10_000, 2), 90).save(folder / "thin.png")
    frames = [Image.new("RGB", (32, 24), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    (folder / "good.jpg").write_bytes((photos() / "daisy.jpg").read_bytes())
    (folder / "notes.md").write_text("no image, and does not say so")
    return folder


@pytest.fixture(scope="module")
def done(bad: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str, str]]:
    """By decoder the store, and what the command says; both run in one process, whose memory grows by what both take."""
    out = tmp_path_factory.mktemp("out")
    run = subprocess.run(
        [sys.executable, "-c", COMMAND, str(bad), f"{out}/", "--model", str(model), "--json", "--engine", "inline"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    stores = [out / "pillow", out / "fast"]
    said = zip(stores, run.stdout.split("\0")[:-1], run.stderr.split("\0")[:2], strict=True)
    return {store.name: (store, printed, errors) for store, printed, errors in said}


@pytest.mark.parametrize("decoder", ["pillow", "fast"])
def test_bad_images_are_named_and_the_others_go_on(decoder: str, done: dict[str, tuple[Path, str, str]]) -> None:
    out, printed, errors = done[decoder]
    report, _, last = printed.strip().rpartition("\n")
    code, growth = map(int, last.split())
    assert code == 3
    assert growth < 700 * MIB
    failed = json.loads(report)["failed"]
    assert failed.keys() == BAD.keys()
    for name, reason in BAD.items():
        assert failed[name].startswith(reason), name
    assert "Traceback" not in errors
    assert "failed: bomb.png: DecompressionBombError" in errors
    store = FeatureStore(out)
    assert list(store.ids) == ["good.jpg", "moving.gif"]
    assert {id_: failure.error for id_, failure in store.quarantine.items()} == failed


def test_a_batch_is_not_poisoned(bad: Path, model: Path, tmp_path: Path) -> None:
    """The good image has the same maps with and without bad neighbours."""
    for source, out in ((bad, "all"), (bad / "good.jpg", "alone")):
        assert main(["extract", str(source), str(tmp_path / out), "--model", str(model)]) == (3 if out == "all" else 0)
    for level, map_ in FeatureStore(tmp_path / "alone").read("good.jpg").items():
        assert (FeatureStore(tmp_path / "all")[level]["good.jpg"] - map_).abs().max() < 1e-2 * map_.abs().max()


@pytest.mark.parametrize("files", [[], ["notes.md", "data.csv"]])
def test_folders_without_images(
    files: list[str], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    for name in files:
        (tmp_path / "photos" / name).touch()
    assert main(["extract", str(tmp_path / "photos"), str(tmp_path / "out"), "--model", str(model)]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    text = (
        f"error: No image among the folder '{tmp_path / 'photos'}' and its subfolders ({len(files)} files). Files count"
    )
    assert output.err.startswith(text)
    assert not (tmp_path / "out").exists()


def test_nothing_but_bad_images(bad: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["extract", str(bad / "empty.jpg"), str(tmp_path / "out"), "--model", str(model)]) == 1
    assert "failed: empty.jpg: UnidentifiedImageError" in capsys.readouterr().err
