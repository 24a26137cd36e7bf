"""CLIP's processor: what BiT's does not have."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from vertebra import AutoImageProcessor, CLIPImageProcessor

_RGB = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)


def test_kosmos_2_stretches_to_a_square(tmp_path: Path) -> None:
    stored = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 224}, "use_square_size": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stored))
    ours, theirs = (kind.from_pretrained(tmp_path) for kind in (AutoImageProcessor, transformers.AutoImageProcessor))
    assert ours.to_dict() == json.loads(theirs.to_json_string())
    assert ours.size == {"height": 224, "width": 224}
    assert torch.equal(ours(_RGB, return_tensors="pt").pixel_values, theirs(_RGB, return_tensors="pt").pixel_values)
    ours.save_pretrained(tmp_path)
    assert AutoImageProcessor.from_pretrained(tmp_path).to_dict() == ours.to_dict()


def test_square_sizes() -> None:
    assert CLIPImageProcessor(size=30, use_square_size=True).size == {"height": 30, "width": 30}
    assert CLIPImageProcessor(size=[30, 40], use_square_size=True).size == {"height": 30, "width": 40}
    assert CLIPImageProcessor(size=30, use_square_size=False).size == {"shortest_edge": 30}
    with pytest.raises(TypeError, match="use_square_size='yes' is a str; give True or False"):
        CLIPImageProcessor(use_square_size="yes")
