"""`TimmWrapperImageProcessor` against timm's own evaluation transform."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm.data
import torch
from PIL import Image

from vertebra.image_processing.timm import TimmWrapperImageProcessor

Photo = Callable[[int, int], Image.Image]
SIZES = [(270, 320), (333, 211), (100, 300), (224, 224), (60, 50), (500, 120), (129, 128)]
CFG = {
    "input_size": (3, 96, 96),
    "interpolation": "bicubic",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "crop_pct": 0.95,
    "crop_mode": "center",
}


def reference(cfg: dict[str, Any], images: list[Image.Image]) -> torch.Tensor:
    transform = timm.data.create_transform(**timm.data.resolve_data_config(cfg), is_training=False)
    return torch.stack([transform(image) for image in images])


def grey_levels(a: torch.Tensor, b: torch.Tensor, std: Any) -> torch.Tensor:
    return ((a - b) * torch.tensor(std).view(-1, 1, 1) * 255).abs()


@pytest.mark.parametrize("input_size", [(3, 96, 96), (3, 80, 112)])
@pytest.mark.parametrize("crop_pct", [0.875, 1.0, None])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border", None])
def test_within_one_grey_level_of_timm(
    photo: Photo, crop_mode: str | None, interpolation: str, crop_pct: float | None, input_size: tuple[int, int, int]
) -> None:
    cfg = {
        **CFG,
        "input_size": input_size,
        "crop_pct": crop_pct,
        "crop_mode": crop_mode,
        "interpolation": interpolation,
    }
    images = [photo(*size) for size in SIZES]
    halved = [max(input_size) * 2.3 < min(size) for size in SIZES]
    ours = TimmWrapperImageProcessor(pretrained_cfg=cfg)(images, return_tensors="pt")["pixel_values"]
    theirs = reference(cfg, images)
    assert ours.shape == theirs.shape
    difference = grey_levels(ours, theirs, cfg["std"])
    assert (difference > 1.001).float().mean() < 1e-4  # images that shrink to no less than a half: two, very rarely
    assert difference[halved].max() < 1.001
    assert difference.max() < 2.001
    assert difference.mean() < 0.02


@pytest.mark.parametrize("interpolation", ["nearest", "box", "hamming", "lanczos"])
def test_other_filters_equal_timm(photo: Photo, interpolation: str) -> None:
    cfg = {**CFG, "interpolation": interpolation}
    images = [photo(*size) for size in SIZES]
    ours = TimmWrapperImageProcessor(cfg)(images, return_tensors="pt")["pixel_values"]
    assert torch.equal(ours, reference(cfg, images))


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_growing_images_equal_timm(photo: Photo, crop_mode: str) -> None:
    cfg = {**CFG, "crop_mode": crop_mode, "input_size": (3, 224, 224)}
    images = [photo(60, 50), photo(31, 32), photo(7, 150)]
    ours = TimmWrapperImageProcessor(cfg)(images, return_tensors="pt")["pixel_values"]
    assert torch.equal(ours, reference(cfg, images))


def test_arithmetic_equals_timm_where_nothing_is_resized(photo: Photo) -> None:
    cfg = {**CFG, "crop_pct": 1.0}
    image = photo(96, 96)
    assert torch.equal(TimmWrapperImageProcessor(cfg)(image)["pixel_values"][0], reference(cfg, [image])[0])


def test_floats_are_zero_to_one(photo: Photo) -> None:
    image = torch.rand(3, 200, 150, generator=torch.Generator().manual_seed(0))
    eight_bit = (image * 255).round().to(torch.uint8)
    processor = TimmWrapperImageProcessor(CFG)
    difference = grey_levels(processor(image)["pixel_values"][0], processor(eight_bit)["pixel_values"][0], CFG["std"])
    assert difference.max() < 25  # rounding of noise between the passes; on the wrong scale it would be 255
    assert difference.mean() < 1
    with pytest.raises(ValueError, match=r"must lie in 0\.\.1 here, these lie in .*do_rescale=False"):
        processor(image * 255)
    bordered = TimmWrapperImageProcessor(CFG, crop_mode="border")(image)["pixel_values"][0]
    assert bordered[:, :, 0].abs().max() < 1e-6  # the border is the mean colour


def test_every_default_is_timms(photo: Photo) -> None:
    images = [photo(300, 280)]
    assert TimmWrapperImageProcessor({}).to_dict() == TimmWrapperImageProcessor().to_dict()
    theirs = timm.data.resolve_data_config({"in_chans": 3})
    ours = TimmWrapperImageProcessor()
    assert ours.size == dict(zip(("height", "width"), theirs["input_size"][1:], strict=True))
    assert (ours.image_mean, ours.image_std) == (theirs["mean"], theirs["std"])
    assert (ours.crop_pct, ours.crop_mode, ours.resample.name.lower()) == (
        theirs["crop_pct"],
        theirs["crop_mode"],
        theirs["interpolation"],
    )
    assert grey_levels(ours(images, return_tensors="pt")["pixel_values"], reference(theirs, images), (1.0,)).max() < 5


def test_reads_a_timm_folder_saves_and_reloads(tmp_path: Path, photo: Photo) -> None:
    config = {"architecture": "resnet18", "num_classes": 1000, "pretrained_cfg": CFG, "model_args": {"x": 1}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    processor = TimmWrapperImageProcessor.from_pretrained(tmp_path)
    assert (processor.architecture, processor.crop_pct, processor.size) == (
        "resnet18",
        0.95,
        {"height": 96, "width": 96},
    )
    assert "model_args" not in processor.to_dict()
    assert TimmWrapperImageProcessor.from_pretrained(tmp_path, crop_pct=1.0).crop_pct == 1.0
    processor.save_pretrained(tmp_path / "saved")
    again = TimmWrapperImageProcessor.from_pretrained(tmp_path / "saved")
    assert again.to_dict() == processor.to_dict()
    assert again.to_dict()["image_processor_type"] == "TimmWrapperImageProcessor"
    image = photo(120, 130)
    assert torch.equal(again(image)["pixel_values"][0], processor(image)["pixel_values"][0])


def test_reads_timms_dataclass() -> None:
    processor = TimmWrapperImageProcessor(timm.get_pretrained_cfg("resnet50"))
    assert (processor.architecture, processor.crop_pct) == ("resnet50", 0.95)


def test_errors_teach(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is no timm checkpoint: its 'config\.json' is missing or has no 'pre"):
        TimmWrapperImageProcessor.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"\['input_size'\]=\(28, 28\) must be \(channels, height, width\)"):
        TimmWrapperImageProcessor({"input_size": (28, 28)})
    with pytest.raises(TypeError, match=r"is a str; give timm's dict, model\.pretrained_cfg"):
        TimmWrapperImageProcessor("resnet50")
    with pytest.raises(ValueError, match="crop_mode='middle' does not exist; it is 'center', 'squash', 'border'"):
        TimmWrapperImageProcessor(crop_mode="middle")
    with pytest.raises(ValueError, match=r"crop_pct=0 must be a positive number; 0\.875 keeps"):
        TimmWrapperImageProcessor(crop_pct=0)
    with pytest.raises(ValueError, match=r"size=\{'shortest_edge': 9\} must be \{'height'"):
        TimmWrapperImageProcessor(size={"shortest_edge": 9})(Image.new("RGB", (20, 20)))
    with pytest.raises(TypeError, match="unknown setting 'pretrained_cfg'"):
        TimmWrapperImageProcessor()(Image.new("RGB", (20, 20)), pretrained_cfg={})
