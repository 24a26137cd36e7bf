"""`ViTImageProcessor` against transformers' own, bit for bit."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from vertebra.image_processing.vit import ViTImageProcessor

transformers.logging.set_verbosity_error()
_NOISE = np.random.default_rng(0).integers(0, 256, (40, 61, 4), dtype=np.uint8)
_RGB, _RGBA = np.ascontiguousarray(_NOISE[..., :3]), _NOISE
_FLOAT = (_RGB / 255).astype("float32")
_PIL = Image.fromarray(_RGB)
INPUTS: dict[str, Any] = {
    "pil": _PIL,
    "numpy hwc": _RGB,
    "numpy chw": np.ascontiguousarray(_RGB.transpose(2, 0, 1)),
    "torch hwc": torch.from_numpy(_RGB),
    "torch chw": torch.from_numpy(_RGB).permute(2, 0, 1).contiguous(),
    "float32": _FLOAT,
    "float64": _FLOAT.astype("float64"),
    "float16": _FLOAT.astype("float16"),
    "float32 to 255": _RGB.astype("float32"),
    "int64": _RGB.astype("int64"),
    "int32": _RGB.astype("int32"),
    "batch": np.stack([_RGB, _RGB[::-1]]),
    "tensor batch": torch.from_numpy(_RGB).permute(2, 0, 1).repeat(2, 1, 1, 1),
    "list": [_PIL, _RGB, _FLOAT, _PIL.resize((20, 33))],
    "tuple": (_PIL, _RGB),
    "nested": [[_PIL], [_RGB, _PIL.resize((30, 90))]],
    "one row": _PIL.crop((0, 0, 50, 1)),
    "one column": _PIL.crop((0, 0, 1, 30)),
    "one pixel": _PIL.crop((3, 3, 4, 4)),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    **{f"resample {i}": {"resample": i} for i in range(4)},
    "size int": {"size": 33},
    "size list": {"size": [20, 47]},
    "short": {"size": {"shortest_edge": 30}},
    "short int": {"size": 30, "default_to_square": False},
    "short and long": {"size": {"shortest_edge": 50, "longest_edge": 60}},
    "short, long far": {"size": {"shortest_edge": 40, "longest_edge": 900}},
    "box": {"size": {"max_height": 30, "max_width": 100}},
    "crop smaller": {"do_center_crop": True, "crop_size": 31, "size": {"shortest_edge": 40}},
    "crop mixed": {"do_center_crop": True, "crop_size": [80, 31], "size": {"shortest_edge": 40}},
    "crop larger": {"do_center_crop": True, "crop_size": [81, 306], "size": 64},
    "scalar mean": {"image_mean": 0.4, "image_std": 0.2},
    "own mean": {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7], "rescale_factor": 1 / 127.5},
    "pad": {"do_pad": True, "pad_size": 300},
    "pad to largest": {"do_pad": True, "do_resize": False},
    "grouped": {"disable_grouping": False, "size": 50},
    "ungrouped": {"disable_grouping": True, "size": 50},
    **{
        f"resize {a} rescale {b} normalize {c}": {"do_resize": a, "do_rescale": b, "do_normalize": c}
        for a, b, c in itertools.product([True, False], repeat=3)
    },
}


def assert_same(images: Any, **options: Any) -> None:
    theirs = transformers.ViTImageProcessor()(images, **options)["pixel_values"]
    ours = ViTImageProcessor()(images, **options)["pixel_values"]
    assert type(ours) is type(theirs)
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine.shape, mine.dtype) == (other.shape, other.dtype)
        np.testing.assert_array_equal(mine, other)


# When transformers groups, it stacks 8-bit images with float ones of the same shape, and no longer rounds the former.
CASES = [case for case in itertools.product(INPUTS, OPTIONS) if case != ("list", "grouped")]


@pytest.mark.parametrize(("kind", "option"), CASES)
def test_equals_transformers(kind: str, option: str) -> None:
    images, options = INPUTS[kind], OPTIONS[option] if option == "defaults" else {"size": 48, **OPTIONS[option]}
    assert_same(images, **options)


@pytest.mark.parametrize("return_tensors", ["pt", "np"])
@pytest.mark.parametrize("kind", INPUTS)
def test_equals_transformers_as_arrays(kind: str, return_tensors: str) -> None:
    assert_same(INPUTS[kind], return_tensors=return_tensors)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "RGBA", "LA", "CMYK"])
def test_convert_rgb_equals_transformers(mode: str) -> None:
    assert_same(Image.fromarray(_RGBA).convert("RGB" if mode == "CMYK" else "RGBA").convert(mode), do_convert_rgb=True)


@pytest.mark.parametrize("image", [_RGB[..., :1], _RGBA, _RGBA.astype("float32") / 255, _RGBA.astype("float64") / 255])
def test_convert_rgb_of_arrays_equals_transformers(image: np.ndarray) -> None:
    assert_same(image, do_convert_rgb=True)
    assert_same(image.transpose(2, 0, 1), do_convert_rgb=True, do_normalize=False)


def test_palette_transparency_is_laid_over_white() -> None:
    palette = Image.fromarray(_RGB).convert("P")
    palette.info["transparency"] = 0
    assert_same(palette, do_convert_rgb=True)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK"])
def test_converts_by_itself_where_transformers_fails(mode: str) -> None:
    image = Image.fromarray(_RGBA).convert("RGB" if mode == "CMYK" else "RGBA").convert(mode)
    with pytest.raises(RuntimeError):
        transformers.ViTImageProcessor()(image)
    ours = ViTImageProcessor()(image, return_tensors="pt")["pixel_values"]
    expected = ViTImageProcessor()(image, return_tensors="pt", do_convert_rgb=True)["pixel_values"]
    assert ours.shape == (1, 3, 224, 224)
    assert torch.equal(ours, expected)


def test_two_dimensional_arrays_are_grey() -> None:
    grey = _RGB[..., 0]
    expected = ViTImageProcessor()(Image.fromarray(grey).convert("RGB"), return_tensors="pt")["pixel_values"]
    for image in (grey, torch.from_numpy(grey.copy()), [grey]):
        assert torch.equal(ViTImageProcessor()(image, return_tensors="pt")["pixel_values"], expected)


@pytest.mark.parametrize("resample", ["box", "hamming"])
def test_filters_that_tensors_lack_are_those_of_pil(resample: str) -> None:
    ours = ViTImageProcessor(do_normalize=False, do_rescale=False, size=29, resample=resample)(_PIL)["pixel_values"][0]
    theirs = np.array(_PIL.resize((29, 29), getattr(Image.Resampling, resample.upper())))
    np.testing.assert_array_equal(ours.permute(1, 2, 0).numpy(), theirs)


def test_settings_print_as_those_of_transformers() -> None:
    changes: dict[str, Any]
    for changes in (
        {},
        {"resample": 0, "do_normalize": False, "image_mean": [0.3, 0.3, 0.3]},
        {"do_pad": True, "pad_size": 9},
    ):
        ours, theirs = ViTImageProcessor(**changes), transformers.ViTImageProcessor(**changes)
        assert json.loads(ours.to_json_string()) == json.loads(theirs.to_json_string())
        assert repr(ours) == f"ViTImageProcessor {ours.to_json_string()}"
        assert ours.to_json_string() == theirs.to_json_string()


def test_the_users_example(tmp_path: Any) -> None:
    processor = ViTImageProcessor(resample="PIL.Image.BOX", do_normalize=False, image_mean=[0.3, 0.3, 0.3])
    assert json.loads(repr(processor).removeprefix("ViTImageProcessor "))["resample"] == 4
    processor.save_pretrained(tmp_path)
    again = ViTImageProcessor.from_pretrained(tmp_path)
    assert again.to_dict() == processor.to_dict()
    pixels = again(_PIL, return_tensors="pt")["pixel_values"]
    expected = torch.from_numpy(np.array(_PIL.resize((224, 224), Image.Resampling.BOX))).permute(2, 0, 1)[None] * (
        1 / 255
    )
    assert torch.equal(pixels, expected)


def test_files_go_both_ways(tmp_path: Any) -> None:
    options = {
        "size": {"shortest_edge": 30},
        "do_center_crop": True,
        "crop_size": 24,
        "resample": 3,
        "image_std": [0.2] * 3,
    }
    ViTImageProcessor(**options).save_pretrained(tmp_path / "ours")
    transformers.ViTImageProcessor(**options).save_pretrained(tmp_path / "theirs")
    for folder in (tmp_path / "ours", tmp_path / "theirs"):
        theirs = transformers.ViTImageProcessor.from_pretrained(folder)
        ours = ViTImageProcessor.from_pretrained(folder)
        assert ours.to_dict() == json.loads(theirs.to_json_string())
        assert torch.equal(ours(_PIL)["pixel_values"][0], theirs(_PIL)["pixel_values"][0])
