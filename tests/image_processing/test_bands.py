"""Images of other channels than RGB: means and deviations in closed form, inputs of any order, files that come back."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vertebra import (
    AutoImageProcessor,
    BeitImageProcessor,
    BitImageProcessor,
    ConvNextImageProcessor,
    DeiTImageProcessor,
    DINOv3ViTImageProcessor,
    PvtImageProcessor,
    SiglipImageProcessor,
    ViTImageProcessor,
)
from vertebra.image_processing.timm import TimmWrapperImageProcessor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL = {"size": {"height": 6, "width": 8}, "image_mean": MEAN, "image_std": STD}
RNG = np.random.default_rng(0)


def pixels(bands: int, dtype: Any = np.uint8) -> np.ndarray[Any, Any]:
    return RNG.integers(0, 256, (12, 16, bands)).astype(dtype)


def closed_form(bands: int) -> tuple[list[float], list[float]]:
    """What the rule says, counted out by NumPy."""
    if bands == 1:
        return [float(np.mean(MEAN))], [float(np.mean(STD))]
    places = np.arange(bands) % 3
    return np.asarray(MEAN)[places].tolist(), np.asarray(STD)[places].tolist()


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 13])
def test_statistics_follow_the_rule(bands: int) -> None:
    processor = ViTImageProcessor(**SMALL, num_channels=bands)
    mean, std = closed_form(bands)
    np.testing.assert_allclose(processor.image_mean, mean, rtol=1e-12)
    np.testing.assert_allclose(processor.image_std, std, rtol=1e-12)
    assert len(processor.image_mean) == bands


@pytest.mark.parametrize("backend", ["torchvision", "pil"])
@pytest.mark.parametrize("bands", [1, 2, 4, 13])
def test_values_are_normalised_in_closed_form(bands: int, backend: str) -> None:
    image = pixels(bands)
    mean, std = closed_form(bands)
    expected = ((image / 255 - mean) / std).transpose(2, 0, 1)
    processor = ViTImageProcessor(**SMALL, num_channels=bands, do_resize=False, backend=backend)
    for given in (image, image.transpose(2, 0, 1), torch.from_numpy(image), [image, image][:1]):
        np.testing.assert_allclose(processor(given, return_tensors="np").pixel_values[0], expected, atol=2e-6)
    last = processor(image, return_tensors="np", data_format="channels_last").pixel_values[0]
    np.testing.assert_allclose(last, expected.transpose(1, 2, 0), atol=2e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("backend", ["torchvision", "pil"])
@pytest.mark.parametrize("bands", [4, 13])
def test_each_band_is_resized_alone(bands: int, backend: str, dtype: Any) -> None:
    """A fourth band is no alpha channel."""
    image = pixels(bands, dtype)
    flat = {**SMALL, "image_mean": 0.5, "image_std": 0.25, "backend": backend}
    together = ViTImageProcessor(**flat, num_channels=bands)(image, return_tensors="pt").pixel_values[0]
    single = ViTImageProcessor(**flat, num_channels=1)
    for band in range(bands):
        alone = single(image[..., band], return_tensors="pt").pixel_values[0, 0]
        torch.testing.assert_close(together[band], alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("backend", ["torchvision", "pil"])
@pytest.mark.parametrize(
    "processor",
    [
        BeitImageProcessor,
        BitImageProcessor,
        ConvNextImageProcessor,
        DeiTImageProcessor,
        DINOv3ViTImageProcessor,
        PvtImageProcessor,
        SiglipImageProcessor,
        TimmWrapperImageProcessor,
        ViTImageProcessor,
    ],
)
def test_every_processor_takes_thirteen_bands(processor: Any, backend: str) -> None:
    size = {"shortest_edge": 16} if processor is ConvNextImageProcessor else 16
    made = processor(num_channels=13, size=size, backend=backend)
    result = made([pixels(13), pixels(13)], return_tensors="pt").pixel_values
    assert result.shape[:2] == (2, 13)
    assert result.isfinite().all()


def test_converting_to_rgb_drops_no_band(tmp_path: Path) -> None:
    processor = ViTImageProcessor(**SMALL, do_convert_rgb=True)
    assert processor(pixels(4), num_channels=4, return_tensors="pt").pixel_values.shape == (1, 4, 6, 8)
    assert processor(pixels(4), return_tensors="pt").pixel_values.shape == (1, 3, 6, 8)
    assert processor.num_channels is None
    assert processor.image_mean == MEAN


class TestPictures:
    @pytest.mark.parametrize("mode", ["L", "1"])
    def test_grey_stays_one_band(self, mode: str, tmp_path: Path) -> None:
        grey = Image.fromarray(pixels(1)[..., 0]).convert(mode)
        grey.save(tmp_path / "grey.png")
        processor = ViTImageProcessor(**SMALL, num_channels=1, do_resize=False)
        expected = (np.asarray(grey.convert("L")) / 255 - np.mean(MEAN)) / np.mean(STD)
        for given in (grey, str(tmp_path / "grey.png")):
            found = processor(given, return_tensors="np").pixel_values
            assert found.shape == (1, 1, 12, 16)
            np.testing.assert_allclose(found[0, 0], expected, atol=2e-6)

    def test_sixteen_bits_keep_their_upper_byte(self) -> None:
        deep = Image.fromarray((pixels(1)[..., 0].astype(np.uint16) << 8) + 7)
        processor = ViTImageProcessor(**SMALL, num_channels=1, do_resize=False, do_normalize=False, do_rescale=False)
        assert (processor(deep, return_tensors="np").pixel_values[0, 0] == np.asarray(deep) >> 8).all()

    def test_four_bands_of_a_file_stay(self, tmp_path: Path) -> None:
        image = pixels(4)
        Image.fromarray(image).save(tmp_path / "four.png")
        processor = ViTImageProcessor(**SMALL, num_channels=4, do_resize=False, do_normalize=False, do_rescale=False)
        found = processor(str(tmp_path / "four.png"), return_tensors="np").pixel_values[0]
        assert (found == image.transpose(2, 0, 1)).all()

    def test_colours_are_not_one_band(self) -> None:
        text = (
            r"images has 3 channels, but image_mean and image_std have 1 values\. For one band .* image\.convert\('L'\)"
        )
        with pytest.raises(ValueError, match=text):
            ViTImageProcessor(**SMALL, num_channels=1)(Image.fromarray(pixels(3)))


class TestOrder:
    def test_the_axis_with_so_many_entries_is_the_channels(self) -> None:
        processor = ViTImageProcessor(**SMALL, num_channels=13, do_resize=False)
        image = RNG.integers(0, 256, (3, 5, 13)).astype(np.uint8)  # three rows, not three channels
        assert processor(image, return_tensors="pt").pixel_values.shape == (1, 13, 3, 5)

    def test_what_does_not_fit_is_refused(self) -> None:
        processor = ViTImageProcessor(**SMALL, num_channels=13)
        with pytest.raises(ValueError, match=r"images has 3 channels, but image_mean and image_std have 13 values"):
            processor(pixels(3))
        with pytest.raises(ValueError, match=r"neither its first nor its last axis has 13 channels"):
            processor(pixels(12))


class TestSettings:
    def test_saved_and_loaded(self, tmp_path: Path) -> None:
        ViTImageProcessor(**SMALL).save_pretrained(tmp_path / "rgb")
        assert "num_channels" not in json.loads((tmp_path / "rgb" / "preprocessor_config.json").read_text())
        made = AutoImageProcessor.from_pretrained(tmp_path / "rgb", num_channels=13)
        assert made.image_mean == tuple(closed_form(13)[0])
        made.save_pretrained(tmp_path / "bands")
        again = AutoImageProcessor.from_pretrained(tmp_path / "bands")
        assert again.to_dict() == made.to_dict()
        image = pixels(13)
        assert torch.equal(
            again(image, return_tensors="pt").pixel_values, made(image, return_tensors="pt").pixel_values
        )
        assert again.num_channels == 13

    def test_timm_architectures(self) -> None:
        made = AutoImageProcessor.from_pretrained("resnet18", num_channels=4)
        assert made.image_std == tuple(closed_form(4)[1])
        own = TimmWrapperImageProcessor({"input_size": (4, 28, 28), "mean": MEAN, "std": STD})
        assert (own.num_channels, own.image_mean) == (4, made.image_mean)
        border = TimmWrapperImageProcessor(num_channels=5, size=(8, 8), crop_mode="border", crop_pct=1.0)
        found = border(np.zeros((8, 4, 5), np.uint8), return_tensors="pt").pixel_values
        assert found.shape == (1, 5, 8, 8)

    def test_given_statistics_win_and_must_fit(self) -> None:
        own = [0.1 * band for band in range(1, 5)]
        made = ViTImageProcessor(num_channels=4, image_mean=own, image_std=0.5)
        assert (made.image_mean, made.image_std) == (tuple(own), 0.5)
        text = r"image_mean=\[.*\] has 4 values, but num_channels=5: give one for each channel, one for all, or the three of RGB"
        with pytest.raises(ValueError, match=text):
            ViTImageProcessor(num_channels=5, image_mean=own)
        with pytest.raises(ValueError, match=text):
            made(pixels(5), num_channels=5)

    @pytest.mark.parametrize("value", [0, -1, 2.5, True, "RGB"])
    def test_numbers_of_channels(self, value: Any) -> None:
        with pytest.raises(ValueError, match=rf"num_channels={value!r} must be a whole number of channels, from 1"):
            ViTImageProcessor(num_channels=value)
