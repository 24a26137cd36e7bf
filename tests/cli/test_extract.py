"""`vertebra extract` and `vertebra picture` on real photos with real weights."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from real import lite0, photos

from vertebra import FeatureStore
from vertebra.cli import main


def test_all_levels_by_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["extract", str(photos()), str(tmp_path / "out"), "--model", str(lite0())]) == 0
    text = capsys.readouterr().out
    assert text.startswith("5 of 5 images, float16, 3.3 MiB in 1 shard, ")
    assert "  blocks.4       112 channels  stride 16\n" in text
    features = FeatureStore(tmp_path / "out")
    shapes = {level: tuple(map_.shape) for level, map_ in features.read("cat.png").items()}
    assert shapes == {
        "blocks.0": (16, 112, 112),
        "blocks.1": (24, 56, 56),
        "blocks.2": (40, 28, 28),
        "blocks.4": (112, 14, 14),
        "blocks.6": (320, 7, 7),
    }


@pytest.mark.parametrize(
    ("selection", "levels"),
    [
        (["--features", "blocks.1,blocks.4"], ["blocks.1", "blocks.4"]),
        (["--indices=2,-1"], ["blocks.2", "blocks.6"]),
        (["--strides", "16,32"], ["blocks.4", "blocks.6"]),
    ],
)
def test_selections(selection: list[str], levels: list[str], tmp_path: Path) -> None:
    arguments = [
        "extract",
        str(photos() / "cat.png"),
        str(tmp_path / "out"),
        "--model",
        str(lite0()),
        "--size",
        "64x96",
    ]
    assert main([*arguments, *selection]) == 0
    assert list(FeatureStore(tmp_path / "out").levels) == levels


def test_some_images_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos(), folder)
    for number in range(6):
        (folder / f"bad{number}.jpg").write_bytes((photos() / "daisy.jpg").read_bytes()[:9000])
    arguments = [
        str(folder),
        str(tmp_path / "out"),
        "--model",
        str(lite0()),
        "--json",
        "--size",
        "64",
        "--dtype",
        "bfloat16",
    ]
    assert main(["extract", *arguments]) == 3
    output = capsys.readouterr()
    report = json.loads(output.out)
    assert (report["extracted"], list(report["failed"])) == (5, [f"bad{number}.jpg" for number in range(6)])
    assert report["levels"]["blocks.1"] == {"channels": 24, "stride": ["4", "4"]}
    assert "failed: bad0.jpg: OSError: " in output.err
    assert "… and 1 more; --json lists them under 'failed'" in output.err
    assert main(["extract", str(folder / "bad0.jpg"), str(tmp_path / "none"), "--model", str(lite0())]) == 1


def test_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["picture", str(photos() / "cat.png"), "--model", str(lite0()), "--size", "96"]) == 0
    assert capsys.readouterr().out == "cat_stages.png\n"
    with Image.open("cat_stages.png") as image:
        whole = image.width
    chosen = ["--strides", "8", "--out", "two/tiles.png"]
    assert main(["picture", str(photos() / "cat.png"), "--model", str(lite0()), "--size", "96", *chosen]) == 0
    with Image.open("two/tiles.png") as image:
        assert image.width < whole / 2
