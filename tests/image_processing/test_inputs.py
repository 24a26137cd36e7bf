"""What is accepted as an image, and what is said about the rest."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vertebra.image_processing.inputs import _warn_ambiguous, read_images
from vertebra.image_processing.vit import ViTImageProcessor

Noise = Callable[..., np.ndarray]


def test_all_holders_of_one_image_read_the_same(noise: Noise, tmp_path: Path) -> None:
    array = noise(7, 9)
    Image.fromarray(array).save(tmp_path / "image.png")
    expected = torch.from_numpy(array).permute(2, 0, 1)
    holders: list[Any] = [array, Image.fromarray(array), torch.from_numpy(array), expected, array.transpose(2, 0, 1)]
    holders += [tmp_path / "image.png", str(tmp_path / "image.png"), array[None], [[(array,)]]]
    for holder in holders:
        (image,) = read_images(holder)
        assert torch.equal(image, expected)


def test_order_is_kept_through_nesting_and_batches(noise: Noise) -> None:
    images = [np.full((4, 5, 3), value, np.uint8) for value in range(5)]
    nested = [images[0], [images[1], [np.stack(images[2:4])]], torch.from_numpy(images[4])]
    assert [int(image[0, 0, 0]) for image in read_images(nested)] == [0, 1, 2, 3, 4]


def test_memory_that_torch_cannot_share(noise: Noise) -> None:
    array = noise(6, 8)
    frozen = array.copy()
    frozen.flags.writeable = False
    swapped = array.astype(">i4") if np.little_endian else array.astype("<i4")
    for image in (frozen, array[::-1][::-1], array[:, ::-1][:, ::-1], swapped):
        assert torch.equal(read_images(image)[0].to(torch.uint8), torch.from_numpy(array).permute(2, 0, 1))
    assert torch.equal(read_images(array[::-1])[0], torch.from_numpy(array[::-1].copy()).permute(2, 0, 1))


def test_the_callers_memory_is_not_changed(noise: Noise) -> None:
    array = noise(20, 20).astype("float32")
    before = array.copy()
    ViTImageProcessor(size=20)([array, torch.from_numpy(array)])
    np.testing.assert_array_equal(array, before)


def test_files_are_upright_rgb(noise: Noise, tmp_path: Path) -> None:
    picture = Image.fromarray(noise(8, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    picture.save(tmp_path / "turned.png", exif=exif)
    (image,) = read_images(tmp_path / "turned.png")
    assert image.shape == (3, 4, 8)


def test_layout_is_said_or_inferred(noise: Noise, caplog: pytest.LogCaptureFixture) -> None:
    _warn_ambiguous.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert read_images(noise(3, 5))[0].shape == (3, 5, 3)
        assert read_images(noise(3, 5))[0].shape == (3, 5, 3)
    assert [record.message for record in caplog.records] == [
        "The shape (3, 5, 3) may be (c, h, w) or (h, w, c); (c, h, w) is taken. Pass input_data_format to say."
    ]
    assert read_images(noise(3, 5), input_data_format="channels_last")[0].shape == (3, 3, 5)
    assert read_images(noise(6, 5, 12), input_data_format="channels_last")[0].shape == (12, 6, 5)


@pytest.mark.parametrize(
    ("images", "error", "text"),
    [
        (
            [Image.new("RGB", (4, 4)), [None]],
            TypeError,
            r"images\[1\]\[0\] is a NoneType; an image is PIL\.Image\.Image",
        ),
        ({"a": 1}, TypeError, r"images is a dict; an image is .*the path of an image file"),
        ([[[1, 2], [3, 4]]], TypeError, r"images\[0\]\[0\]\[0\] is the number 1; .*numpy\.asarray\(images\)"),
        ([], ValueError, r"images=\[\] holds no image; give at least one of PIL"),
        (["https://x.org/a.png"], ValueError, r"images\[0\] is an address .*fetch the file and give its path"),
        (np.zeros((5, 7, 6)), ValueError, r"images has the shape \(5, 7, 6\), and neither .*input_data_format="),
        (np.zeros((2, 2, 2, 4, 4)), ValueError, r"images has the shape \(2, 2, 2, 4, 4\); an image is \(h, w\)"),
        ([np.zeros((3, 0, 4))], ValueError, r"images\[0\] is empty: its shape is \(3, 0, 4\)"),
        (np.array([["a"]]), ValueError, r"images is an array of <U1; an image holds bools, integers or floats"),
        (
            Image.new("I", (4, 4), 256),
            ValueError,
            r"images has mode 'I' and values from 256 to 256, which are not grey",
        ),
        (Image.new("I", (4, 4), -1), ValueError, r"values from -1 to -1, .*asarray\(image\) // 256\)\.astype"),
        (
            Image.new("F", (4, 4), 0.5),
            ValueError,
            r"images has mode 'F' and values from 0\.5 to 0\.5, so 1 seems to be",
        ),
        (Image.new("F", (4, 4), float("nan")), ValueError, r"images has mode 'F' and values from nan to nan"),
        (Image.new("I;16", (4, 4), 200), ValueError, r"mode 'I;16' and values from 200 to 200, of the 65535 that 16"),
    ],
)
def test_errors_name_the_item_and_what_is_allowed(images: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        read_images(images)


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"images\[0\] is the path '.*missing\.png', which does not exist"):
        read_images([tmp_path / "missing.png"])
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"images is the file '.*text\.png', which cannot be decoded"):
        read_images(tmp_path / "text.png")
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:600])
    with pytest.raises(ValueError, match=r"images is the file '.*cut\.png', which cannot be decoded"):
        read_images(tmp_path / "cut.png")


def broken(data: bytes, rng: np.random.Generator) -> bytes:
    """A file as bad disks leave it: cut, or with some bytes changed."""
    if rng.random() < 0.3:
        return data[: rng.integers(0, len(data))]
    bad = bytearray(data)
    for at in rng.integers(0, min(len(bad), rng.choice([40, 200, len(bad)])), rng.integers(1, 9)):
        bad[at] = rng.integers(0, 256)
    return bytes(bad)


@pytest.mark.filterwarnings("ignore")  # PIL warns of some damage and decodes
@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "bmp", "tiff", "webp", "ppm", "tga", "ico", "jpeg2000"])
def test_broken_files_are_images_or_named_errors(noise: Noise, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "picture"
    Image.fromarray(noise(20, 30)).save(path, format=kind)
    data, refused = path.read_bytes(), 0
    rng = np.random.default_rng(0)
    for _ in range(120):
        path.write_bytes(broken(data, rng))
        try:
            (image,) = read_images([path])
        except ValueError as error:
            refused += 1
            assert str(error).startswith(f"images[0] is the file '{path}', which ")  # noqa: PT017
        else:
            assert (image.shape[0], image.dtype) == (3, torch.uint8)
    assert refused > 10


def test_a_broken_pil_image_is_named(noise: Noise, tmp_path: Path) -> None:
    Image.fromarray(noise(64, 64)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:600])
    with (
        Image.open(tmp_path / "cut.png") as picture,
        pytest.raises(ValueError, match=r"images\[1\] is a PIL image, which cannot be decoded: .*truncated"),
    ):
        read_images([noise(4, 4), picture])


def test_huge_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    text = (
        r"images is the file '.*bomb\.png', which cannot be decoded, since it claims to be huge: Image size \(400000000"
    )
    with pytest.raises(ValueError, match=text + r".*Raise PIL\.Image\.MAX_IMAGE_PIXELS"):
        read_images(tmp_path / "bomb.png")
    Image.new("L", (40, 50)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)  # up to twice as many PIL only warns, and here that raises
    with pytest.raises(ValueError, match=r"claims to be huge: Image size \(2000 pixels\) exceeds limit of 1500"):
        read_images(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert read_images(tmp_path / "bomb.png")[0].shape == (3, 50, 40)


def test_sixteen_bits_lose_the_lower_byte(tmp_path: Path) -> None:
    values = np.array([[0, 255, 256, 257, 32767, 32768, 65279, 65280, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    levels = [0, 0, 1, 1, 127, 128, 254, 255, 255]
    for image in (tmp_path / "deep.png", Image.fromarray(values)):
        assert read_images(image, convert_rgb=True)[0][:, 0].tolist() == [levels] * 3
    assert read_images(Image.new("I;16", (4, 4)))[0].max() == 0
    Image.new("I;16", (4, 4), 9).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"is the file '.*deep\.png', which has mode 'I;16' and values from 9 to 9"):
        read_images(tmp_path / "deep.png")


def test_channels_that_do_not_fit_are_refused(noise: Noise) -> None:
    processor = ViTImageProcessor()
    with pytest.raises(ValueError, match=r"images has 1 channels, but .* have 3 values\. Pass do_convert_rgb=True"):
        processor(Image.new("L", (5, 5)), do_convert_rgb=False)
    with pytest.raises(ValueError, match=r"images\[0\] has 12 channels, but image_mean and image_std have 3 values"):
        processor([noise(5, 6, 12)], input_data_format="channels_last")
    with pytest.raises(ValueError, match=r"has 2 channels; only 1 \(grey\), 3 \(RGB\) and 4"):
        processor(noise(5, 6, 2), input_data_format="channels_last", do_convert_rgb=True)
    with pytest.raises(ValueError, match=r"is RGBA in floats from 0 to 255; with transparency, floats must lie"):
        processor(np.array([[[0.0, 1, 2, 255]]]), input_data_format="channels_last", do_convert_rgb=True)
    twelve = processor(noise(5, 6, 12), input_data_format="channels_last", image_mean=[0.5] * 12, image_std=[0.5] * 12)
    assert twelve["pixel_values"][0].shape == (12, 224, 224)


def test_scaled_floats_are_pointed_out(caplog: pytest.LogCaptureFixture) -> None:
    class Fresh(ViTImageProcessor):
        pass

    with caplog.at_level(logging.WARNING):
        Fresh()(np.ones((5, 6, 3), np.float32), do_rescale=False)
        assert not caplog.records
        pixels = Fresh()(np.ones((5, 6, 3), np.float32))["pixel_values"][0]
    assert float(pixels.max()) == pytest.approx(-0.992, abs=1e-3)
    assert "Fresh" in caplog.text
    assert "pass do_rescale=False for images that are scaled already" in caplog.text
