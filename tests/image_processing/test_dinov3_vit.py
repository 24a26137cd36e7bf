"""DINOv3's processor: transformers' results on tensors, PIL's filters by hand, files."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from PIL.Image import Resampling

from vertebra import AutoImageProcessor, DINOv3ViTImageProcessor
from vertebra.image_processing.vit import ViTImageProcessor

transformers.logging.set_verbosity_error()

MEAN, STD = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
_RGB = np.random.default_rng(0).integers(0, 256, (41, 62, 3), dtype=np.uint8)
_UNIT = (_RGB / 255).astype("float32")
INPUTS: dict[str, Any] = {
    "pil": Image.fromarray(_RGB),
    "numpy first": np.ascontiguousarray(_RGB.transpose(2, 0, 1)),
    "torch": torch.from_numpy(_RGB),
    "float32": _UNIT,
    "float32 to 255": _RGB.astype("float32"),
    "int64": _RGB.astype("int64"),
    "batch": np.stack([_RGB, _RGB[::-1]]),
    "mixed": [Image.fromarray(_RGB), _RGB[:30], torch.from_numpy(_UNIT), Image.fromarray(_RGB[:, :20])],
    "one row": _RGB[:1],
    "one pixel": Image.fromarray(_RGB[:1, :1]),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "int": {"size": 33},
    "stretched": {"size": [31, 90]},
    "shortest edge": {"size": {"shortest_edge": 30}},
    "limit": {"size": {"shortest_edge": 50, "longest_edge": 60}},
    "box": {"size": {"max_height": 30, "max_width": 100}},
    **{f"filter {index}": {"size": [30, 77], "resample": index} for index in range(4)},
    "crop": {"size": 40, "do_center_crop": True, "crop_size": [31, 28]},
    "crop larger": {"size": 40, "do_center_crop": True, "crop_size": [51, 44]},
    "own factor": {"size": 30, "rescale_factor": 1 / 127.5, "image_mean": [0.1, 0.2, 0.3], "image_std": 0.5},
    "grouped": {"size": 30, "disable_grouping": False},
    **{
        f"resize {a} rescale {b} normalize {c}": {"size": 40, "do_resize": a, "do_rescale": b, "do_normalize": c}
        for a, b, c in itertools.product([True, False], repeat=3)
    },
}


@pytest.mark.parametrize("option", OPTIONS)
def test_equals_transformers(option: str) -> None:
    settings = OPTIONS[option]
    ours, theirs = DINOv3ViTImageProcessor(**settings), transformers.DINOv3ViTImageProcessor(**settings)
    for name, images in INPUTS.items():
        layout = {"input_data_format": "channels_last"} if name == "one row" else {}
        if name == "mixed" and option == "grouped":  # transformers stacks 8-bit images with floats
            continue
        if not ours.do_rescale and ours.do_normalize and not name.startswith("float32"):
            with pytest.raises((TypeError, RuntimeError)):
                theirs(images, **layout)
            assert all(image.dtype == torch.float32 for image in ours(images, **layout)["pixel_values"])
            continue
        expected, found = theirs(images, **layout)["pixel_values"], ours(images, **layout)["pixel_values"]
        for mine, other in zip(found, expected, strict=True):
            assert (mine.shape, mine.dtype) == (other.shape, other.dtype)
            np.testing.assert_array_equal(mine, other)


def test_other_floats_become_float32() -> None:
    """What transformers returns has the dtype that came in."""
    for dtype, tolerance in (("float64", 1e-6), ("float16", 4e-3)):
        images = _UNIT.astype(dtype)
        expected = transformers.DINOv3ViTImageProcessor()(images, do_rescale=False, return_tensors="pt")["pixel_values"]
        found = DINOv3ViTImageProcessor()(images, do_rescale=False, return_tensors="pt")["pixel_values"]
        assert (str(expected.dtype), found.dtype) == (f"torch.{dtype}", torch.float32)
        torch.testing.assert_close(found, expected.float(), rtol=0, atol=tolerance)


@pytest.mark.parametrize("resample", [Resampling.NEAREST, Resampling.BOX, Resampling.BILINEAR, Resampling.BICUBIC])
def test_the_pil_backend_resizes_floats_with_pils_filters(resample: Resampling) -> None:
    processor = DINOv3ViTImageProcessor(backend="pil", size=[33, 70], resample=resample)
    planes = [Image.fromarray(plane).resize((70, 33), resample) for plane in _UNIT.transpose(2, 0, 1)]
    expected = (np.stack(planes) - np.float32(MEAN)[:, None, None]) / np.float32(STD)[:, None, None]
    for images, rescale in ((_RGB, True), (Image.fromarray(_RGB), True), (_UNIT, False)):
        found = processor(images, do_rescale=rescale, return_tensors="np")["pixel_values"][0]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_grey_levels_that_are_not_rescaled_are_resized_as_such() -> None:
    raw = {"size": [33, 70], "do_rescale": False, "do_normalize": False}
    found = DINOv3ViTImageProcessor(backend="pil", **raw)(_RGB, return_tensors="np")["pixel_values"][0]
    expected = np.asarray(Image.fromarray(_RGB).resize((70, 33), Resampling.BILINEAR)).transpose(2, 0, 1)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("resample", [1, 2, 3])
def test_backends_agree_where_others_differ_by_grey_levels(
    resample: int, noise: Callable[..., np.ndarray[Any, Any]]
) -> None:
    images = [noise(*shape) for shape in [(300, 200), (60, 90), (33, 33), (1, 40)]]
    settings: dict[str, Any] = {"size": 50, "resample": resample, "do_normalize": False}
    call: dict[str, Any] = {"return_tensors": "np", "input_data_format": "channels_last"}

    def apart(processor: Any) -> float:
        tensors, pil = (processor(backend=backend, **settings)(images, **call) for backend in ("torchvision", "pil"))
        return float(np.abs(tensors["pixel_values"] - pil["pixel_values"]).max())

    assert apart(DINOv3ViTImageProcessor) < 1e-4
    assert apart(ViTImageProcessor) > 1 / 256


def test_scaled_floats_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        DINOv3ViTImageProcessor(rescale_factor=1 / 254)(_UNIT)
    assert "DINOv3ViTImageProcessor got floating point images within 0..1 and multiplies them" in caplog.text


@pytest.mark.parametrize("stored", ["DINOv3ViTImageProcessorFast", "DINOv3ViTImageProcessor"])
def test_files_go_both_ways(stored: str, tmp_path: Path) -> None:
    settings = {"image_processor_type": stored, "size": {"height": 40, "width": 40}, "resample": 2, "data_format": None}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    expected = transformers.AutoImageProcessor.from_pretrained(tmp_path)(_RGB, return_tensors="pt")["pixel_values"]
    for backend in ("torchvision", "pil"):
        ours = AutoImageProcessor.from_pretrained(tmp_path, backend=backend)
        ours.save_pretrained(tmp_path / backend)
        again = AutoImageProcessor.from_pretrained(tmp_path / backend)
        assert (type(again), again.backend, again.to_dict()) == (DINOv3ViTImageProcessor, backend, ours.to_dict())
        theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path / backend)
        assert torch.equal(theirs(_RGB, return_tensors="pt")["pixel_values"], expected)
        torch.testing.assert_close(again(_RGB, return_tensors="pt")["pixel_values"], expected, rtol=0, atol=2e-4)
    assert AutoImageProcessor.from_pretrained(tmp_path / "pil", backend="torchvision").backend == "torchvision"


def test_wrong_files(tmp_path: Path) -> None:
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({"size": 40, "vertebra": {"backend": "pill"}}))
    with pytest.raises(ValueError, match=r"backend='pill' does not exist; .*Did you mean 'pil'"):
        DINOv3ViTImageProcessor.from_pretrained(tmp_path)
