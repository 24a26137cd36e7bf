"""A store made with the fast decoder holds what the exact one stores, and says which it was."""

import io
from pathlib import Path

import pytest
import torch
from PIL import Image
from real import photos, tiny_processor
from tiny_store import recipe

from vertebra import FeatureStore
from vertebra.cli import main
from vertebra.extraction.extract import extract
from vertebra.extraction.recipe import Recipe

TOLERANCE = 0.02
"""Of a level's largest value, for maps in float32: what one grey level in some pixels may do. Measured: 0."""


def made(source: Path, out: Path, decoder: str, **settings: object) -> FeatureStore:
    extract(source, out, recipe(decoder=decoder, dtype="float32", **settings), progress=False)
    return FeatureStore(out)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos in JPEG and PNG, some of them turned, grey or for print, and one that is cut."""
    folder = tmp_path_factory.mktemp("photos")
    for path in photos().iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    with Image.open(photos() / "daisy.jpg") as picture:
        for orientation in (3, 6):
            facts = Image.Exif()
            facts[0x0112] = orientation
            picture.save(folder / f"turned-{orientation}.jpg", exif=facts)
        for mode in ("L", "CMYK"):
            picture.convert(mode).save(folder / f"{mode}.jpg")
        file = io.BytesIO()
        picture.save(file, "JPEG")
    (folder / "cut.jpg").write_bytes(file.getvalue()[:-500])
    return folder


def test_both_decoders_store_the_same(folder: Path, tmp_path: Path) -> None:
    exact, fast = (made(folder, tmp_path / decoder, decoder) for decoder in ("pillow", "fast"))
    assert list(exact.ids) == list(fast.ids)
    assert len(exact) == len(list(folder.iterdir())) - 1
    assert exact.quarantine == fast.quarantine
    assert exact.quarantine["cut.jpg"].error == "OSError: image file is truncated: nothing marks its end"
    for id_ in exact.ids:
        assert exact.image_size(id_) == fast.image_size(id_)
        for level, expected in exact.read(id_).items():
            assert (fast[level][id_] - expected).abs().max() <= TOLERANCE * expected.abs().max(), (id_, level)


def test_upright_is_the_same_in_both(folder: Path, tmp_path: Path) -> None:
    for upright in (True, False):
        exact, fast = (
            made(folder, tmp_path / f"{decoder}-{upright}", decoder, upright=upright) for decoder in ("pillow", "fast")
        )
        assert (
            exact.image_size("turned-6.jpg")
            == fast.image_size("turned-6.jpg")
            == ((640, 427) if upright else (427, 640))
        )
        level = next(iter(exact.levels))
        expected = exact[level]["turned-6.jpg"]
        assert (fast[level]["turned-6.jpg"] - expected).abs().max() <= TOLERANCE * expected.abs().max()


def test_the_decoder_is_part_of_the_meaning(folder: Path, tmp_path: Path) -> None:
    store = made(folder, tmp_path / "out", "fast")
    assert store.meaning["decoder"] == "fast"
    with pytest.raises(ValueError, match=r"decoder: stored 'fast', asked 'pillow' \(--decode\)"):
        made(folder, tmp_path / "out", "pillow")


def test_a_decoder_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match=r"^decoder='quick' must be one of pillow, fast\.$"):
        recipe(decoder="quick")


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model"
    backbone = recipe().model
    assert not isinstance(backbone, (str, Path))
    backbone.save_pretrained(model)  # type: ignore[union-attr]
    tiny_processor().save_pretrained(model)
    arguments = ["extract", str(folder), str(tmp_path / "out"), "--model", str(model), "--decode", "fast"]
    assert main(arguments) == 3
    assert FeatureStore(tmp_path / "out").meaning["decoder"] == "fast"
    with pytest.raises(SystemExit):
        main([*arguments[:-1], "quick"])
    assert "argument --decode: invalid choice: 'quick' (choose from" in capsys.readouterr().err


def test_pixels_come_in_channels_first_batches(folder: Path) -> None:
    """What either decoder gives has the same layout when it is stacked: the model's input does not depend on it."""
    from vertebra.extraction.images import ImageRef
    from vertebra.extraction.runtime import Runtime

    prepared = []
    for decoder in ("pillow", "fast"):
        runtime = Runtime(recipe(decoder=decoder))
        prepared.append(runtime.prepare(ImageRef("daisy.jpg", str(folder / "daisy.jpg"))))
        runtime.close()
    assert prepared[0].original == prepared[1].original
    assert prepared[0].pixels.stride() == prepared[1].pixels.stride()
    assert torch.equal(prepared[0].pixels, prepared[1].pixels)


def test_fast_without_simplejpeg_stops_before_anything_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "simplejpeg", None)
    with pytest.raises(ImportError, match=r"^decoder='fast' needs simplejpeg: pip install 'vertebra\[extract\]'\."):
        made(folder, tmp_path / "out", "fast")
    assert not (tmp_path / "out").exists()
    assert isinstance(recipe(decoder="fast"), Recipe)  # a recipe can be read where it cannot be run
