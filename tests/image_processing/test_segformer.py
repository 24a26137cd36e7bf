"""SegFormer's processor, which UPerNet shares: transformers' results, files, bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from vertebra import AutoImageProcessor
from vertebra.image_processing.segformer import SegformerImageProcessor

transformers.logging.set_verbosity_error()

THEIRS: dict[str, Any] = {"torchvision": transformers.SegformerImageProcessor, "pil": SegformerImageProcessorPil}
SHAPES = [(60, 80), (80, 60), (61, 97)]
SETTINGS: dict[str, dict[str, Any]] = {
    "square": {"size": 40},
    "stretched": {"size": {"height": 50, "width": 90}},
    "as it is": {"do_resize": False},
    "reduced": {"size": 40, "do_reduce_labels": True},
    "reduced as it is": {"do_resize": False, "do_reduce_labels": True},
    "raw": {"size": 40, "do_normalize": False, "do_rescale": False, "resample": 3},
}


@pytest.fixture
def pictures(noise: Callable[..., np.ndarray]) -> list[Image.Image]:
    return [Image.fromarray(noise(*shape)) for shape in SHAPES]


def noise_map(height: int, width: int) -> np.ndarray[Any, Any]:
    numbers = np.array([0, 1, 2, 100, 150, 254, 255])
    return np.random.default_rng(height).choice(numbers, (height, width))


MAPS = [noise_map(*shape) for shape in SHAPES]


def assert_equal(ours: Any, theirs: Any) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        for here, there in zip(ours[name], theirs[name], strict=True):
            here, there = np.asarray(here), np.asarray(there)
            assert (here.shape, here.dtype) == (there.shape, there.dtype), name
            np.testing.assert_array_equal(here, there, err_msg=name)


def test_defaults_are_those_of_transformers() -> None:
    theirs = transformers.SegformerImageProcessor().to_json_string()
    assert json.loads(SegformerImageProcessor().to_json_string()) == json.loads(theirs)


@pytest.mark.parametrize("backend", ["torchvision", "pil"])
@pytest.mark.parametrize("option", SETTINGS)
def test_equals_transformers(option: str, backend: str, pictures: list[Image.Image]) -> None:
    settings = SETTINGS[option]
    ours, theirs = SegformerImageProcessor(backend=backend, **settings), THEIRS[backend](**settings)
    for kind in ("pt", "np", None):
        if kind and settings.get("do_resize") is False:
            continue
        maps = [found.astype(np.int32 if kind == "np" else np.uint8) for found in MAPS]
        expected = theirs(pictures, segmentation_maps=[found.copy() for found in maps], return_tensors=kind)
        assert_equal(ours(pictures, maps, return_tensors=kind), expected)
    assert_equal(ours(pictures), theirs(pictures))


def test_background_and_void_are_void_after_reducing() -> None:
    processor = SegformerImageProcessor(do_resize=False, do_reduce_labels=True)
    labels = processor(Image.new("RGB", (4, 1)), [[0, 1, 150, 255]])["labels"]
    assert labels[0].tolist() == [[255, 0, 149, 255]]


def test_padding_is_void(pictures: list[Image.Image]) -> None:
    """Padding is never done by transformers here; labels of 0 beside zeros would be taken for a class."""
    processor = SegformerImageProcessor(do_resize=False, do_pad=True)
    batch = processor(pictures, MAPS, return_tensors="pt")
    assert batch["pixel_values"].shape == (3, 3, 80, 97)
    assert batch["labels"].shape == (3, 80, 97)
    for (height, width), found, labels in zip(SHAPES, MAPS, batch["labels"], strict=True):
        np.testing.assert_array_equal(labels[:height, :width], found)
        assert set(labels[height:].flatten().tolist()) <= {255}
        assert set(labels[:, width:].flatten().tolist()) <= {255}
    assert processor(pictures, MAPS, pad_size=[128, 100])["labels"][0].shape == (128, 100)


@pytest.mark.parametrize(
    "stored",
    [
        {"feature_extractor_type": "SegformerFeatureExtractor", "size": 40, "reduce_labels": True},
        {
            "image_processor_type": "SegformerImageProcessor",
            "size": {"height": 40, "width": 40},
            "do_reduce_labels": True,
        },
        {
            "image_processor_type": "SegformerImageProcessorFast",
            "size": {"height": 40, "width": 40},
            "reduce_labels": True,
        },
        {"image_processor_type": "SegformerImageProcessorPil", "size": [40, 40], "do_reduce_labels": True},
    ],
)
def test_files_of_all_ages(tmp_path: Path, stored: dict[str, Any], pictures: list[Image.Image]) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stored))
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(processor) is SegformerImageProcessor
    assert (dict(processor.size), processor.do_reduce_labels) == ({"height": 40, "width": 40}, True)
    processor.save_pretrained(tmp_path / "again")
    assert AutoImageProcessor.from_pretrained(tmp_path / "again").to_dict() == processor.to_dict()
    backend = processor.backend
    theirs = THEIRS[backend].from_pretrained(tmp_path / "again")
    assert_equal(processor(pictures, MAPS), theirs(pictures, segmentation_maps=[found.copy() for found in MAPS]))


def test_of_a_setting_under_two_names_todays_counts(tmp_path: Path, pictures: list[Image.Image]) -> None:
    """So does transformers, which forgets the old name of a file when it reads, and keeps it when it saves."""
    (tmp_path / "preprocessor_config.json").write_text('{"reduce_labels": true, "size": 40}')
    assert SegformerImageProcessor.from_pretrained(tmp_path).do_reduce_labels is True
    theirs = transformers.SegformerImageProcessor.from_pretrained(tmp_path)
    theirs.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert (stored["reduce_labels"], stored["do_reduce_labels"]) == (True, False)
    ours = SegformerImageProcessor.from_pretrained(tmp_path)
    assert_equal(ours(pictures, MAPS), theirs(pictures, segmentation_maps=[found.copy() for found in MAPS]))
    assert SegformerImageProcessor.from_pretrained(tmp_path, reduce_labels=True).do_reduce_labels is True


def test_upernets_processor_is_found_where_its_file_names_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "upernet"}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 40}))
    assert type(AutoImageProcessor.from_pretrained(tmp_path)) is SegformerImageProcessor


def test_wrong_maps(pictures: list[Image.Image]) -> None:
    processor = SegformerImageProcessor(size=40)
    with pytest.raises(ValueError, match=r"There are 3 images and 2 segmentation maps"):
        processor(pictures, MAPS[:2])
    with pytest.raises(ValueError, match=r"Segmentation map 0 is 80x60 pixels .*its image is 60x80"):
        processor(pictures, [MAPS[1], MAPS[0], MAPS[2]])
    with pytest.raises(TypeError, match="got an unknown setting 'instance_id_to_semantic_id'"):
        processor(pictures, MAPS, instance_id_to_semantic_id={})
    with pytest.raises(ValueError, match=r"do_center_crop=True: SegformerImageProcessor does not crop"):
        processor(pictures, do_center_crop=True, crop_size=9)


@pytest.mark.parametrize("sizes", [None, [(60, 80), (7, 9)], torch.tensor([[33, 20], [128, 64]])])
def test_post_processing_equals_transformers(sizes: Any) -> None:
    outputs = SimpleNamespace(logits=torch.randn(2, 19, 16, 24) * 5)
    tuples = None if sizes is None else [tuple(map(int, size)) for size in sizes]
    ours, theirs = SegformerImageProcessor(), transformers.SegformerImageProcessor()
    expected = theirs.post_process_semantic_segmentation(outputs, tuples)
    for here, there in zip(ours.post_process_semantic_segmentation(outputs, sizes), expected, strict=True):
        assert here.dtype == there.dtype == torch.int64
        assert torch.equal(here, there)
    full = theirs.post_process_semantic_segmentation(outputs, tuples, return_segmentation_scores=True)
    mine = ours.post_process_semantic_segmentation(outputs, sizes, return_segmentation_scores=True)
    for here, there in zip(mine, full, strict=True):
        assert torch.equal(here.segmentation, there.segmentation)
        assert torch.equal(here.segmentation_scores, there.segmentation_scores)


def test_wrong_logits() -> None:
    processor, logits = SegformerImageProcessor(), torch.randn(2, 3, 4, 4)
    for value in (torch.nan, torch.inf, -torch.inf):
        broken = logits.clone()
        broken[1, 2, 3, 3] = value
        with pytest.raises(ValueError, match=r"Image 1 has logits that are not finite .* give it a low number instead"):
            processor.post_process_semantic_segmentation(SimpleNamespace(logits=broken))
    with pytest.raises(TypeError, match=r"outputs is a SimpleNamespace without logits; give what the model returned"):
        processor.post_process_semantic_segmentation(SimpleNamespace(masks=logits))
    with pytest.raises(ValueError, match=r"logits has the shape \(3, 4, 4\); it has 4 axes"):
        processor.post_process_semantic_segmentation(SimpleNamespace(logits=logits[0]))
    with pytest.raises(ValueError, match=r"target_sizes has 1 sizes, but there are 2 images"):
        processor.post_process_semantic_segmentation({"logits": logits}, [(4, 4)])
