"""All processors and both backends against transformers', bit for bit, on images of every kind."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import timm.data
import torch
import transformers
from PIL import Image
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import vertebra
from vertebra.image_processing.bit import BitImageProcessor
from vertebra.image_processing.convnext import ConvNextImageProcessor
from vertebra.image_processing.timm import TimmWrapperImageProcessor
from vertebra.image_processing.vit import ViTImageProcessor

transformers.logging.set_verbosity_error()

OURS: dict[str, Any] = {"vit": ViTImageProcessor, "convnext": ConvNextImageProcessor, "bit": BitImageProcessor}
THEIRS: dict[tuple[str, str], Any] = {
    ("vit", "torchvision"): transformers.ViTImageProcessor,
    ("vit", "pil"): ViTImageProcessorPil,
    ("convnext", "torchvision"): transformers.ConvNextImageProcessor,
    ("convnext", "pil"): ConvNextImageProcessorPil,
    ("bit", "torchvision"): transformers.BitImageProcessor,
    ("bit", "pil"): BitImageProcessorPil,
}
BOTH = ["torchvision", "pil"]

MODES = "1 L LA La P PA RGB RGBA RGBa RGBX CMYK YCbCr LAB HSV I F I;16 I;16B P+ RGB+ L+".split()
"""PIL's modes; `+` is one with a transparent colour."""
PIL_CLIPS = ("I;16", "I;16B", "La", "RGBa")
"""Modes that `Image.convert("RGB")`, and so transformers, clips, refuses or lays over black."""


def by_hand(picture: Image.Image) -> Image.Image:
    """The conversion to RGB: 16 bits lose the lower byte, what is transparent is white."""
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture) // 256).astype(np.uint8))
    if picture.mode in ("RGBa", "La"):
        picture = picture.convert(picture.mode.upper())
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        white.alpha_composite(picture)
        picture = white
    return picture.convert("RGB")


def make(mode: str, height: int, width: int, seed: int) -> Image.Image:
    """A seeded image of a mode: noise on a ramp."""
    rng = np.random.default_rng(seed)
    rgba = (np.linspace(0, 200, width)[None, :, None] + rng.integers(0, 56, (height, width, 4))).astype(np.uint8)
    rgba[..., 3] = rng.integers(0, 256, (height, width))
    grey = rgba[..., 0]
    if mode in ("I;16", "I;16B"):
        deep = np.append((grey.astype(np.uint16) * 256 + rgba[..., 1]).ravel()[1:], 65535)
        return Image.frombytes(mode, (width, height), deep.astype(">u2" if mode == "I;16B" else "<u2").tobytes())
    if mode in ("I", "F"):
        values = grey.astype(np.int32) if mode == "I" else grey + rng.random((height, width), dtype=np.float32) / 2
        values = np.append(values.ravel()[1:], 255).astype(values.dtype).clip(0, 255)
        return Image.fromarray(values.reshape(height, width))
    if mode == "PA":
        made = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(rgba[..., 3])]).convert("PA")
        made.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tobytes())
        return made
    base = Image.fromarray(rgba)
    if mode in ("La", "RGBa"):
        return base.convert(mode.upper()).convert(mode)
    made = (base if "A" in mode else base.convert("RGB")).convert(mode.removesuffix("+"))
    if mode == "LAB":
        made = base.convert("RGB").convert("LAB")
    if mode.endswith("+"):
        made.info["transparency"] = made.getpixel((0, 0))
    return made


def pictures(count: int) -> list[tuple[str, Image.Image]]:
    """`count` seeded images that go through all modes and through odd shapes."""
    rng = np.random.default_rng(7)
    shapes = [(1, 1), (1, 40), (40, 1), (2, 3), (7, 89), (89, 7), (33, 33), (32, 32), (64, 31), (36, 36), (50, 36)]
    made = []
    for index in range(count):
        height, width = shapes[index % 31] if index % 31 < len(shapes) else rng.integers(1, 90, 2)
        mode = MODES[index % len(MODES)]
        made.append((mode, make(mode, int(height), int(width), index)))
    return made


PICTURES = pictures(210)


def assert_equal(ours: Any, theirs: Any) -> None:
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        mine, other = np.asarray(mine), np.asarray(other)
        assert (mine.shape, mine.dtype) == (other.shape, other.dtype)
        np.testing.assert_array_equal(mine, other)


def assert_same(kind: str, backend: str, images: Any, settings: dict[str, Any], **call: Any) -> None:
    ours = OURS[kind](backend=backend, **settings)(images, **call)["pixel_values"]
    theirs = THEIRS[kind, backend](**settings)(images, **call)["pixel_values"]
    assert_equal(ours, theirs)


@pytest.mark.parametrize("backend", BOTH)
@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_and_shape(mode: str, kind: str, backend: str) -> None:
    settings: dict[str, Any] = {"size": 32, "crop_size": 32} if kind == "bit" else {"size": 32}
    ours, theirs = OURS[kind](backend=backend, **settings), THEIRS[kind, backend](**settings)
    for image in (image for name, image in PICTURES if name == mode):
        expected = theirs(by_hand(image), return_tensors="np")["pixel_values"]
        assert_equal(ours(image, return_tensors="np", do_convert_rgb=True)["pixel_values"], expected)
        if mode not in PIL_CLIPS:
            assert_equal(theirs(image, return_tensors="np", do_convert_rgb=True)["pixel_values"], expected)
        if mode == "RGB+":  # three channels already: nobody looks for transparency unless asked to
            expected = theirs(image, return_tensors="np")["pixel_values"]
        assert_equal(ours(image, return_tensors="np")["pixel_values"], expected)


@pytest.mark.parametrize("backend", BOTH)
@pytest.mark.parametrize("kind", OURS)
def test_a_list_of_all_is_each_of_them(kind: str, backend: str) -> None:
    images = [image for _, image in PICTURES[:63]]
    processor = OURS[kind](backend=backend, size=32)
    together = processor(images, return_tensors="np")["pixel_values"]
    assert_equal(together, [processor(image, return_tensors="np")["pixel_values"][0] for image in images])


OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "small": {"size": {"shortest_edge": 30}},
    "int": {"size": 47},
    "just below": {"size": {"shortest_edge": 383}},
    "square": {"size": {"height": 31, "width": 48}},
    "limit": {"size": {"shortest_edge": 50, "longest_edge": 60}},
    "box": {"size": {"max_height": 30, "max_width": 100}},
    **{f"filter {index}": {"size": 30, "resample": index} for index in range(6)},
    "crop odd": {"size": 40, "do_center_crop": True, "crop_size": [31, 28]},
    "crop larger": {"size": 40, "do_center_crop": True, "crop_size": [91, 74]},
    "crop mixed": {"size": 40, "do_center_crop": True, "crop_size": [75, 31]},
    "no crop": {"size": 40, "do_center_crop": False},
    "crop_pct": {"size": 30, "crop_pct": 0.95},
    "crop_pct above 1": {"size": 30, "crop_pct": 1.3},
    "scalar mean": {"size": 30, "image_mean": 0.4, "image_std": 0.2},
    "own factor": {
        "size": 30,
        "rescale_factor": 1 / 127.5,
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.5, 0.6, 0.7],
    },
    "pad": {"size": 30, "do_pad": True, "pad_size": 300},
    **{
        f"resize {a} rescale {b} normalize {c}": {"size": 40, "do_resize": a, "do_rescale": b, "do_normalize": c}
        for a, b, c in itertools.product([True, False], repeat=3)
    },
}
_NOISE = np.random.default_rng(0).integers(0, 256, (41, 62, 4), dtype=np.uint8)
_RGB = np.ascontiguousarray(_NOISE[..., :3])
_UNIT = (_RGB / 255).astype("float32")
INPUTS: dict[str, Any] = {
    "pil": Image.fromarray(_RGB),
    "numpy": _RGB,
    "numpy first": np.ascontiguousarray(_RGB.transpose(2, 0, 1)),
    "torch": torch.from_numpy(_RGB),
    "torch first": torch.from_numpy(_RGB).permute(2, 0, 1).contiguous(),
    "float32": _UNIT,
    "float64": _UNIT.astype("float64"),
    "float16": _UNIT.astype("float16"),
    "float32 to 255": _RGB.astype("float32"),
    "int64": torch.from_numpy(_RGB.astype("int64")),
    "uint16": _RGB.astype("uint16"),
    "int32": _RGB.astype("int32"),
    "zeros and ones": (_RGB > 127).astype("float32"),
    "bool": _RGB > 127,
    "batch": np.stack([_RGB, _RGB[::-1]]),
    "mixed": [Image.fromarray(_RGB), _RGB[:30], torch.from_numpy(_UNIT), Image.fromarray(_RGB[:, :20])],
}


def applies(kind: str, backend: str, option: str) -> bool:
    if kind == "convnext" and option in ("square", "limit", "box", "pad"):
        return False  # it takes a shortest edge only, and transformers' ignores do_pad
    if kind != "convnext" and option.startswith("crop_pct"):
        return False
    return backend == "pil" or option not in ("filter 4", "filter 5")  # BOX and HAMMING, which torchvision lacks


@pytest.mark.parametrize(
    ("kind", "backend", "option"), [case for case in itertools.product(OURS, BOTH, OPTIONS) if applies(*case)]
)
def test_every_option(kind: str, backend: str, option: str) -> None:
    settings = OPTIONS[option]
    for name, images in INPUTS.items():
        untouched = option == "resize False rescale False normalize False"  # ours is int32 then, with the same values
        if name == "uint16" and (untouched or backend == "torchvision"):
            continue
        assert_same(kind, backend, images, settings, return_tensors=None if name == "mixed" else "pt")


@pytest.mark.parametrize("backend", BOTH)
@pytest.mark.parametrize("family", ["Beit", "CLIP", "DeiT", "Pvt", "Segformer", "Siglip"])
def test_processors_that_are_those_above_with_other_defaults(family: str, backend: str) -> None:
    ours = getattr(vertebra, f"{family}ImageProcessor")
    theirs = getattr(transformers, f"{family}ImageProcessor" + ("Pil" if backend == "pil" else ""))
    for settings in ({}, {"size": [31, 48], "resample": 1}, {"size": {"shortest_edge": 40}, "do_normalize": False}):
        for name in ("pil", "batch", "float32", "mixed"):
            expected = theirs(**settings)(INPUTS[name])["pixel_values"]
            assert_equal(ours(backend=backend, **settings)(INPUTS[name])["pixel_values"], expected)


ALPHA: dict[str, np.ndarray[Any, Any]] = {
    "grey": _NOISE[..., :1],
    "uint8": _NOISE,
    "float16": (_NOISE / 255).astype("float16"),
    "float32": (_NOISE / 255).astype("float32"),
    "float64": _NOISE / 255,
    "int32": _NOISE.astype("int32"),
}


@pytest.mark.parametrize("name", ALPHA)
@pytest.mark.parametrize("backend", BOTH)
@pytest.mark.parametrize("kind", OURS)
def test_arrays_with_one_and_four_channels(kind: str, backend: str, name: str) -> None:
    array, settings = ALPHA[name], {"size": 30, "do_convert_rgb": True}
    if backend == "torchvision" and name == "int32":
        with pytest.raises(ValueError, match=r"RGBA in torch\.int32; transparency is understood in uint8"):
            OURS[kind](**settings)(array)
        return
    for do_rescale in (True, False):
        assert_same(kind, backend, array, settings, do_rescale=do_rescale)
        assert_same(kind, backend, torch.from_numpy(array).permute(2, 0, 1), settings, do_rescale=do_rescale)
    if kind == "bit":
        return
    four = {
        "do_convert_rgb": False,
        "image_mean": [0.5] * array.shape[2],
        "image_std": [0.5] * array.shape[2],
        "size": 30,
    }
    assert_same(kind, backend, array, four)


@pytest.mark.parametrize("backend", BOTH)
@pytest.mark.parametrize("kind", OURS)
def test_two_dimensions_are_grey(kind: str, backend: str) -> None:
    grey = _NOISE[..., 0].copy()
    expected = THEIRS[kind, backend](size=32)(by_hand(Image.fromarray(grey)))["pixel_values"]
    for image in (grey, torch.from_numpy(grey), [grey], grey[None], grey[..., None], Image.fromarray(grey)):
        assert_equal(OURS[kind](backend=backend, size=32)(image)["pixel_values"], expected)
    with pytest.raises((ValueError, RuntimeError)):
        THEIRS[kind, backend](size=32, do_convert_rgb=False)(grey)


@pytest.mark.parametrize("backend", BOTH)
@pytest.mark.parametrize("kind", OURS)
def test_channel_orders(kind: str, backend: str) -> None:
    thin = _RGB[:, :3]  # (41, 3, 3)
    for layout, image in (("channels_last", thin), ("channels_first", thin.transpose(2, 0, 1))):
        for data_format in ("channels_first", "channels_last"):
            for return_tensors in ("pt", "np"):
                call = {"input_data_format": layout, "return_tensors": return_tensors}
                ours = OURS[kind](backend=backend, size=30, data_format=data_format)(image, **call)["pixel_values"]
                theirs = THEIRS[kind, backend](size=30)(image, **call)["pixel_values"]
                assert type(ours) is type(theirs)
                assert_equal(ours if data_format == "channels_first" else np.moveaxis(np.asarray(ours), -1, 1), theirs)


def test_wide_unsigned_integers_do_not_wrap() -> None:
    """In transformers' torchvision backend fractions are cut, and what a filter takes below 0 becomes 65535."""
    for dtype in ("uint16", "uint32", "uint64"):
        for processor in (ConvNextImageProcessor(size=30), ViTImageProcessor(size=90, resample=3)):
            expected = processor(_RGB.astype("int64"))["pixel_values"]
            assert_equal(processor(_RGB.astype(dtype))["pixel_values"], expected)


@pytest.mark.parametrize("kind", OURS)
def test_backends_are_within_a_grey_level(kind: str) -> None:
    settings = {"do_normalize": False, "rescale_factor": 1.0, "size": 24, "crop_size": 24}
    images = [by_hand(image) for _, image in PICTURES if image.width >= image.height >= 30]  # Pillow goes row by row
    assert len(images) > 40
    results = [OURS[kind](backend=backend, **settings)(images, return_tensors="np")["pixel_values"] for backend in BOTH]
    difference = np.abs(results[0] - results[1])
    assert difference.max() <= 1
    assert 0 < difference.mean() < 0.1


def test_values_that_pil_cannot_hold_are_resized_as_floats() -> None:
    processor = ViTImageProcessor(backend="pil", size=30, do_rescale=False, do_normalize=False)
    for scale in (3.7, -1.0):
        image = _UNIT * scale
        with pytest.raises(ValueError, match="outside the range"):
            THEIRS["vit", "pil"](size=30, do_rescale=False)(image)
        expected = [np.array(Image.fromarray(plane).resize((30, 30), 2)) for plane in image.transpose(2, 0, 1)]
        assert_equal(processor(image)["pixel_values"][0], np.stack(expected))
    assert torch.isnan(processor(np.full((9, 9, 3), np.nan, np.float32))["pixel_values"][0]).all()


@pytest.mark.parametrize("backend", BOTH)
def test_integers_beyond_eight_bits(backend: str) -> None:
    deep = _RGB.astype("uint16") * 257
    processor = ViTImageProcessor(backend=backend, size=30)
    with pytest.raises(ValueError, match=r"Image 1 has whole numbers up to 65535, but .*1 / 65535"):
        processor([_RGB, deep])
    scaled = processor(deep, rescale_factor=1 / 65535)["pixel_values"][0]
    assert (scaled - processor(_RGB)["pixel_values"][0]).abs().max() <= 2.001 / 127.5


CFG: dict[str, Any] = {
    "input_size": (3, 48, 48),
    "interpolation": "bicubic",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "crop_pct": 0.9,
    "crop_mode": "center",
}


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos", "nearest"])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("input_size", [(3, 48, 48), (3, 33, 50)])
def test_the_pil_backend_equals_timm(input_size: tuple[int, int, int], crop_mode: str, interpolation: str) -> None:
    cfg = {**CFG, "crop_mode": crop_mode, "interpolation": interpolation, "input_size": input_size}
    transform = timm.data.create_transform(**timm.data.resolve_data_config(cfg), is_training=False)
    processor = TimmWrapperImageProcessor(cfg, backend="pil")
    for mode, image in PICTURES[: 5 * len(MODES)]:
        long, short = max(image.size), min(image.size)
        if mode == "RGB+" or (crop_mode == "border" and long > 40 * short):  # timm: an edge of no pixels
            continue
        expected = transform(by_hand(image))
        assert torch.equal(processor(image)["pixel_values"][0], expected)


def test_the_pil_backend_equals_transformers_timm_wrapper() -> None:
    theirs = transformers.models.timm_wrapper.TimmWrapperImageProcessor(CFG)
    processor = TimmWrapperImageProcessor(CFG, backend="pil")
    images = [Image.fromarray(_RGB), _RGB[:30], _UNIT, _UNIT.astype("float64").transpose(2, 0, 1)]
    expected = theirs(images)["pixel_values"]
    assert torch.equal(processor(images, return_tensors="pt")["pixel_values"], expected)
