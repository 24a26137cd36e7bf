"""The column `image_processor` of the families' table: classes that exist, and those that transformers has for the same type."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

import vertebra
from vertebra import AutoImageProcessor
from vertebra.auto.preparers import KINDS, preparer_class
from vertebra.auto.registry import FAMILIES

OURS = {
    "clip_vision_model": "a part of clip, whose files it shares",
    "dinov2_with_registers": "its checkpoints name this one",
    "maskformer-swin": "as swin",
    "siglip_vision_model": "a part of siglip, whose files it shares",
    "timm_backbone": "as timm_wrapper",
}
"""Types that transformers has no image processor for, and why there is one here."""


def theirs(model_type: str) -> str | None:
    """The class that transformers has for a type, without its backend."""
    named = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type)
    return None if named is None else named.get("torchvision", named.get("pil"))


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_table_equals_transformers(model_type: str) -> None:
    ours, expected = FAMILIES[model_type].image_processor, theirs(model_type)
    if expected is None:
        assert ours is None or model_type in OURS or model_type.startswith("vertebra_")
    else:
        assert ours == expected


@pytest.mark.parametrize("model_type", [name for name, family in FAMILIES.items() if family.image_processor])
def test_each_is_found_by_the_type_and_public(model_type: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    (tmp_path / "preprocessor_config.json").write_text("{}")
    found = type(AutoImageProcessor.from_pretrained(tmp_path))
    assert found.__name__ == FAMILIES[model_type].image_processor
    assert getattr(vertebra, found.__name__) is found


@pytest.mark.parametrize("name", KINDS["image_processor"].modules)
def test_every_name_is_a_class(name: str) -> None:
    assert preparer_class("image_processor", name).__name__ == name
    assert getattr(vertebra, name) is preparer_class("image_processor", name)
