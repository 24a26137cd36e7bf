"""BEiT's processor: transformers' results, labels that stay classes, crops, files."""

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

from vertebra import AutoImageProcessor, BeitImageProcessor

transformers.logging.set_verbosity_error()

BOTH = ["torchvision", "pil"]
THEIRS: dict[str, Any] = {
    "torchvision": transformers.BeitImageProcessor,
    "pil": transformers.BeitImageProcessorPil,
}
SHAPES = [(60, 80), (80, 60), (61, 97)]
CLASSES = np.array([0, 1, 2, 100, 150, 254, 255], dtype=np.uint8)
MAPS = [np.random.default_rng(shape[0]).choice(CLASSES, shape) for shape in SHAPES]
SETTINGS: dict[str, dict[str, Any]] = {
    "square": {"size": 40},
    "stretched": {"size": {"height": 50, "width": 90}},
    "cropped": {"size": 40, "do_center_crop": True, "crop_size": [31, 28]},
    "cropped as it is": {"do_resize": False, "do_center_crop": True, "crop_size": [31, 28]},
    "shortest edge, cropped": {"size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": 33},
    "reduced": {"size": 40, "do_reduce_labels": True},
    "reduced as it is": {"do_resize": False, "do_reduce_labels": True},
}


@pytest.fixture
def pictures(noise: Callable[..., np.ndarray]) -> list[Image.Image]:
    return [Image.fromarray(noise(*shape)) for shape in SHAPES]


def copies() -> list[np.ndarray[Any, Any]]:
    """The maps anew: transformers reduces labels in place."""
    return [found.copy() for found in MAPS]


def assert_equal(ours: Any, theirs: Any) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        for here, there in zip(ours[name], theirs[name], strict=True):
            here, there = np.asarray(here), np.asarray(there)
            assert (here.shape, here.dtype) == (there.shape, there.dtype), name
            np.testing.assert_array_equal(here, there, err_msg=name)


@pytest.mark.parametrize("backend", BOTH)
@pytest.mark.parametrize("option", SETTINGS)
def test_with_the_nearest_filter_all_equals_transformers(
    option: str, backend: str, pictures: list[Image.Image]
) -> None:
    settings = {**SETTINGS[option], "resample": 0}
    expected = THEIRS[backend](**settings)(pictures, segmentation_maps=copies())
    assert_equal(BeitImageProcessor(backend=backend, **settings)(pictures, MAPS), expected)


@pytest.mark.parametrize("backend", BOTH)
@pytest.mark.parametrize("option", SETTINGS)
def test_with_compat_all_equals_transformers_with_any_filter(
    option: str, backend: str, pictures: list[Image.Image]
) -> None:
    for resample in (2, 3):
        settings = {**SETTINGS[option], "resample": resample}
        expected = THEIRS[backend](**settings)(pictures, segmentation_maps=copies())
        assert_equal(BeitImageProcessor(backend=backend, compat=True, **settings)(pictures, MAPS), expected)


@pytest.mark.parametrize("backend", BOTH)
def test_labels_stay_classes(backend: str, pictures: list[Image.Image]) -> None:
    """In transformers they are resized like grey levels, which makes classes that nobody has painted."""
    processor = BeitImageProcessor(size=40, backend=backend)
    found = processor(pictures, MAPS, return_tensors="np")["labels"]
    made = THEIRS[backend](size=40)(pictures, segmentation_maps=copies(), return_tensors="np")["labels"]
    assert set(np.unique(found)) <= set(CLASSES.tolist())
    assert len(set(np.unique(made)) - set(CLASSES.tolist())) > 100
    nearest = processor(pictures, MAPS, resample=0, return_tensors="np")["labels"]
    np.testing.assert_array_equal(found, nearest)


@pytest.mark.parametrize("backend", BOTH)
def test_a_crop_beyond_the_image_is_void(backend: str, pictures: list[Image.Image]) -> None:
    settings = {"size": 20, "do_center_crop": True, "crop_size": [26, 15], "resample": 0}
    expected = THEIRS[backend](**settings)(pictures, segmentation_maps=copies(), return_tensors="np")["labels"]
    batch = BeitImageProcessor(backend=backend, **settings)(pictures, MAPS, return_tensors="np")
    assert batch["pixel_values"].shape == (3, 3, 26, 15)
    labels = batch["labels"]
    np.testing.assert_array_equal(labels[:, 3:23], expected[:, 3:23])
    assert (labels[:, :3] == 255).all()
    assert (labels[:, 23:] == 255).all()
    assert (expected[:, :3] == 0).all()
    compat = BeitImageProcessor(backend=backend, compat=True, **settings)(pictures, MAPS, return_tensors="np")
    np.testing.assert_array_equal(compat["labels"], expected)


def test_padding_is_void(pictures: list[Image.Image]) -> None:
    batch = BeitImageProcessor(do_resize=False, do_pad=True)(pictures, MAPS, return_tensors="pt")
    assert batch["pixel_values"].shape == (3, 3, 80, 97)
    for (height, width), found, labels in zip(SHAPES, MAPS, batch["labels"], strict=True):
        np.testing.assert_array_equal(labels[:height, :width], found)
        assert set(labels[height:].flatten().tolist()) <= {255}
        assert set(labels[:, width:].flatten().tolist()) <= {255}


@pytest.mark.parametrize("name", ["BeitFeatureExtractor", "BeitImageProcessor", "BeitImageProcessorPil"])
def test_files_go_both_ways(name: str, tmp_path: Path, pictures: list[Image.Image]) -> None:
    key = "feature_extractor_type" if name.endswith("Extractor") else "image_processor_type"
    stored = {key: name, "size": 40, "crop_size": 32, "do_center_crop": True, "reduce_labels": True, "resample": 0}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stored))
    ours = AutoImageProcessor.from_pretrained(tmp_path)
    assert (type(ours), ours.do_reduce_labels, dict(ours.size)) == (
        BeitImageProcessor,
        True,
        {"height": 40, "width": 40},
    )
    ours.save_pretrained(tmp_path / "ours")
    theirs = THEIRS[ours.backend].from_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    again = AutoImageProcessor.from_pretrained(tmp_path / "theirs", backend=ours.backend)
    expected = theirs(pictures, segmentation_maps=copies())
    for processor in (ours, again):
        assert_equal(processor(pictures, MAPS), expected)


def test_wrong_input(pictures: list[Image.Image]) -> None:
    processor = BeitImageProcessor(size=40)
    with pytest.raises(ValueError, match=r"There are 3 images and 2 segmentation maps"):
        processor(pictures, MAPS[:2])
    with pytest.raises(ValueError, match=r"Segmentation map 0 is 80x60 pixels .*its image is 60x80"):
        processor(pictures, [MAPS[1], MAPS[0], MAPS[2]])
    with pytest.raises(ValueError, match="has numbers that are not whole; a map holds ids or classes"):
        processor(pictures[0], MAPS[0] / 7)
    with pytest.raises(ValueError, match=r"crop_size=.* must be \{'height': …, 'width': …\}"):
        processor(pictures, MAPS, do_center_crop=True, crop_size={"shortest_edge": 9})
    with pytest.raises(ValueError, match=r"reduce_labels=True is the old name of do_reduce_labels=False; pass one"):
        BeitImageProcessor(reduce_labels=True, do_reduce_labels=False)
    with pytest.raises(ValueError, match=r"Image 0 has logits that are not finite"):
        processor.post_process_semantic_segmentation(SimpleNamespace(logits=torch.full((1, 2, 3, 3), torch.nan)))


@pytest.mark.parametrize("sizes", [None, [(60, 80), (7, 9)]])
def test_post_processing_equals_transformers(sizes: Any) -> None:
    outputs = SimpleNamespace(logits=torch.randn(2, 19, 16, 24, generator=torch.Generator().manual_seed(0)) * 5)
    ours, theirs = BeitImageProcessor(), transformers.BeitImageProcessor()
    for scores in (False, True):
        expected = theirs.post_process_semantic_segmentation(outputs, sizes, return_segmentation_scores=scores)
        found = ours.post_process_semantic_segmentation(outputs, sizes, return_segmentation_scores=scores)
        for here, there in zip(found, expected, strict=True):
            if scores:
                assert torch.equal(here.segmentation_scores, there.segmentation_scores)
                here, there = here.segmentation, there.segmentation
            assert torch.equal(here, there)
