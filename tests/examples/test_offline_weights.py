"""Real weights on real photos: the right classes, and maps equal to timm's own."""

from pathlib import Path

import pytest
import timm
import torch
from oracle import same
from real import lite0, photos

from vertebra import AutoBackbone, AutoImageProcessor, AutoModelForImageClassification

CLASSES = {
    "cat.png": {"tiger cat", "Egyptian cat", "tabby, tabby cat"},
    "espresso.png": {"espresso"},
    "moped.png": {"moped"},
    "daisy.jpg": {"daisy"},
}


@pytest.mark.parametrize("photo", CLASSES)
def test_right_classes(photo: str) -> None:
    processor = AutoImageProcessor.from_pretrained(lite0())
    model = AutoModelForImageClassification.from_pretrained(lite0())
    with torch.inference_mode():
        logits = model(**processor(photos() / photo, return_tensors="pt")).logits
    assert model.config.labels[logits.argmax().item()] in CLASSES[photo]


def test_maps_equal_timms(tmp_path: Path) -> None:
    processor = AutoImageProcessor.from_pretrained(lite0())
    pixels = processor([photos() / photo for photo in CLASSES], return_tensors="pt").pixel_values
    theirs = timm.create_model(f"local-dir:{lite0()}", pretrained=True, features_only=True).eval()
    with torch.inference_mode():
        expected = theirs(pixels)
        for indices in ((0, 1, 2, 3, 4), (1, 3), (-1,)):
            backbone = AutoBackbone.from_pretrained(lite0(), out_indices=indices)
            maps = backbone(pixels).feature_maps
            same(maps, tuple(expected[index] for index in indices), name=str(indices))
            assert backbone.channels == [theirs.feature_info.channels()[index] for index in indices]
            assert backbone.strides == [theirs.feature_info.reduction()[index] for index in indices]


def test_folder_has_a_model_card() -> None:
    card = (lite0() / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert "efficientnet_lite0" in card
    assert "1e-5" in card
