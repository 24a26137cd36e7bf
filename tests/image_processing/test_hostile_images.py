"""Images that would take gigabytes are refused with words, at once; ordinary ones are not touched by the limit."""

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import png_claiming
from PIL import Image

from vertebra.image_processing.bit import BitImageProcessor
from vertebra.image_processing.convnext import ConvNextImageProcessor
from vertebra.image_processing.dinov3_vit import DINOv3ViTImageProcessor
from vertebra.image_processing.siglip import SiglipImageProcessor
from vertebra.image_processing.sizes import output_size
from vertebra.image_processing.timm import TimmWrapperImageProcessor
from vertebra.image_processing.vit import ViTImageProcessor

KEEP_THE_ASPECT = [
    (BitImageProcessor, {}),
    (DINOv3ViTImageProcessor, {"size": {"shortest_edge": 224}}),
    (SiglipImageProcessor, {"size": 224}),
    (ConvNextImageProcessor, {"size": 224}),
    (ViTImageProcessor, {"size": {"shortest_edge": 224}}),
    (TimmWrapperImageProcessor, {}),
    (TimmWrapperImageProcessor, {"size": {"height": 224, "width": 200}}),
]


@pytest.mark.parametrize("backend", ["torchvision", "pil"])
@pytest.mark.parametrize("shape", [(2, 10_000, 3), (10_000, 2, 3), (1, 60_000, 3)])
@pytest.mark.parametrize(("kind", "settings"), KEEP_THE_ASPECT)
def test_a_thin_image_is_not_blown_up(kind: Any, settings: dict[str, Any], shape: Any, backend: str) -> None:
    start = time.monotonic()
    text = rf"^An image of {shape[0]}x{shape[1]} pixels \(height x width\) would be resized to \d+x\d+, more than the 8"
    with pytest.raises(ValueError, match=text + r".*Crop it first, give size={'height': …, 'width': …}, or raise"):
        kind(**settings, backend=backend)(np.zeros(shape, np.uint8), input_data_format="channels_last")
    assert time.monotonic() - start < 2


def test_a_thin_image_that_is_stretched_is_fine() -> None:
    pixels = ViTImageProcessor()(np.zeros((2, 10_000, 3), np.uint8), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 224, 224)


def test_the_limit_is_pils_own(monkeypatch: pytest.MonkeyPatch) -> None:
    size = {"shortest_edge": 100}
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)
    assert output_size(10, 20, size) == (100, 200)
    with pytest.raises(
        ValueError, match=re.escape("An image of 10x21 pixels (height x width) would be resized to 100x210")
    ):
        output_size(10, 21, size)
    assert output_size(400, 900, size) == (100, 225), "what shrinks is in memory already"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert output_size(10, 2100, size) == (100, 21_000)


@pytest.mark.parametrize(("kind", "settings"), KEEP_THE_ASPECT)
def test_files_that_claim_to_be_huge(kind: Any, settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png_claiming(60_000, 60_000))
    with pytest.raises(
        ValueError, match=r"images\[1\] is the file '.*bomb\.png', which cannot be decoded, since it claims"
    ):
        kind(**settings)([np.zeros((9, 9, 3), np.uint8), tmp_path / "bomb.png"])


def test_files_that_are_no_images_or_half_of_one(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jpg"
    Image.effect_noise((64, 64), 90).convert("RGB").save(whole)
    for name, data in (("empty.jpg", b""), ("text.jpg", b"no image"), ("cut.jpg", whole.read_bytes()[:900])):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=rf"images\[1\] is the file '.*{name}', which cannot be decoded: "):
            ViTImageProcessor()([whole, tmp_path / name])


def test_of_a_moving_picture_the_first_frame_counts(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (32, 24), colour) for colour in ("red", "blue", "green")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "still.png")
    moving, still = (ViTImageProcessor()(tmp_path / name)["pixel_values"][0] for name in ("moving.gif", "still.png"))
    assert (moving == still).all()
