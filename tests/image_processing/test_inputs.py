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
        (Image.new("I;16", (4, 4)), ValueError, r"images has mode 'I;16', more than 8 bits a pixel; scale it"),
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
