"""Composed models that transformers 4 wrote, with the outputs it computed: `tests/fixtures/v4` says how they were made."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import HubServer
from oracle import close, saved_keys
from safetensors.torch import load_file

from vertebra import AutoModelForImageSegmentation
from vertebra.heads.base import ComposedModel

FOLDERS = ["maskformer_swin", "maskformer_timm", "mask2former_swin", "upernet_swin"]
UNUSED = ("relative_position_index", "encoder.model.layernorm.weight", "encoder.model.layernorm.bias")
"""What version 4 writes and nothing depends on: an index table, and the final norm of a Swin whose maps have norms of their own."""
FIELDS = ("logits", "class_queries_logits", "masks_queries_logits")


def load(folder: Path) -> Any:
    """Load, and assert that every key either arrived or is accounted for."""
    model, info = AutoModelForImageSegmentation.from_pretrained(folder, output_loading_info=True)
    assert info["missing_keys"] == info["mismatched_keys"] == []
    assert set(info["unexpected_keys"]) == set(info["explained"])
    return model


@pytest.mark.parametrize("name", FOLDERS)
def test_outputs(name: str, v4: Path, hub: HubServer) -> None:
    expected = load_file(v4 / name / "expected.safetensors")
    model = load(v4 / name)
    with torch.no_grad():
        output = model(expected["pixel_values"])
    compared = [field for field in FIELDS if field in expected]
    assert compared
    for field in compared:
        close(output[field], expected[field], name=field)
    assert hub.requests == []
    assert model.config.labels == {0: "cat", 1: "dog", 2: "vertebra"}
    assert model.backbone.strides == [4, 8, 16, 32]


@pytest.mark.parametrize("name", FOLDERS)
def test_saved_again_the_file_has_the_same_keys(name: str, v4: Path, tmp_path: Path) -> None:
    model: ComposedModel = load(v4 / name)
    model.save_pretrained(tmp_path)
    before = {key for key in load_file(v4 / name / "model.safetensors") if not key.endswith(UNUSED)}
    assert saved_keys(tmp_path) == before
