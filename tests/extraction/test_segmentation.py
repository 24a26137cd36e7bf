"""Segments of a folder of images: pictures, masks and COCO's annotations agree with each other."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import RESNET

from vertebra import (
    MaskFormerConfig,
    MaskFormerForInstanceSegmentation,
    MaskFormerImageProcessor,
    ResNetConfig,
    SegformerImageProcessor,
    UperNetConfig,
    UperNetForSemanticSegmentation,
    ViTImageProcessor,
)
from vertebra.extraction.segmentation import segment, tasks_of
from vertebra.image_processing.coco import decode_rle
from vertebra.image_processing.drawing import palette_colour

DECODER = {"model_type": "detr", "d_model": 32, "decoder_layers": 1, "decoder_ffn_dim": 32, "num_queries": 9}
NAMES = {0: "cat", 1: "dog", 2: "sky"}


@pytest.fixture(scope="module")
def maskformer() -> Any:
    torch.manual_seed(1)
    config = MaskFormerConfig(
        backbone_config=ResNetConfig(**RESNET),
        decoder_config=DECODER,
        fpn_feature_size=32,
        mask_feature_size=32,
        id2label=NAMES,
    )
    model = MaskFormerForInstanceSegmentation(config).eval()
    for parameter in model.parameters():
        parameter.data.mul_(2)  # so that queries differ
    model.class_predictor.bias.data[-1] = -9  # and each sees something
    return model


@pytest.fixture(scope="module")
def upernet() -> Any:
    torch.manual_seed(1)
    config = UperNetConfig(
        backbone_config=ResNetConfig(**RESNET), hidden_size=16, id2label=NAMES, use_auxiliary_head=False
    )
    return UperNetForSemanticSegmentation(config).eval()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name, size in (("a.png", (40, 60)), ("a.jpg", (50, 30)), ("more/b.png", (64, 64))):
        Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    return folder


LOW = {"threshold": 0.0, "mask_threshold": 0.0, "overlap_mask_area_threshold": 0.0}
PROCESSOR = {"size": {"shortest_edge": 64, "longest_edge": 96}}


def content_of(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "annotations.json").read_text())
    return content


def mask_of(out: Path, name: str) -> Any:
    with Image.open(out / "masks" / name) as picture:
        return np.asarray(picture).astype(int)


def test_instances(maskformer: Any, photos: Path, tmp_path: Path) -> None:
    done = segment(
        photos,
        tmp_path / "out",
        maskformer,
        MaskFormerImageProcessor(**PROCESSOR),
        task="instance",
        **LOW,
    )
    assert (done.exit_code, done.task, dict(done.failed)) == (0, "instance", {})
    content = content_of(tmp_path / "out")
    assert [(image["file_name"], image["height"], image["width"]) for image in content["images"]] == [
        ("a.jpg", 50, 30),
        ("a.png", 40, 60),
        ("more/b.png", 64, 64),
    ]
    assert content["categories"] == [{"id": label, "name": name} for label, name in NAMES.items()]
    assert [annotation["id"] for annotation in content["annotations"]] == list(
        range(1, len(content["annotations"]) + 1)
    )
    for image, name in zip(content["images"], ("a.jpg.png", "a.png.png", "more/b.png"), strict=True):
        mask = mask_of(tmp_path / "out", name)
        own = [annotation for annotation in content["annotations"] if annotation["image_id"] == image["id"]]
        assert own
        assert mask.max() <= len(own)
        for number, annotation in enumerate(own, start=1):
            assert np.array_equal(decode_rle(annotation["segmentation"]).numpy(), mask == number)
            assert annotation["area"] == (mask == number).sum()
            assert 0 <= annotation["score"] <= 1
        assert sum(done.images[image["file_name"]].values()) == len(own)
        with Image.open(tmp_path / "out/overlays" / name) as overlay:
            assert overlay.size == (image["width"], image["height"])


def test_panoptic_is_cocos_own_format(maskformer: Any, photos: Path, tmp_path: Path) -> None:
    processor = MaskFormerImageProcessor(**PROCESSOR)
    done = segment(photos, tmp_path / "out", maskformer, processor, **LOW)
    assert done.task == "panoptic"
    content = content_of(tmp_path / "out")
    assert len(content["annotations"]) == 3
    for image, annotation in zip(content["images"], content["annotations"], strict=True):
        assert annotation["image_id"] == image["id"]
        folder = "more" if image["file_name"].startswith("more") else "."
        mask = mask_of(tmp_path / "out", f"{folder}/{annotation['file_name']}")
        ids = mask[..., 0] + 256 * mask[..., 1] + 65536 * mask[..., 2]
        assert set(np.unique(ids)) - {0} == {info["id"] for info in annotation["segments_info"]} != set()
        for info in annotation["segments_info"]:
            rows, columns = np.nonzero(ids == info["id"])
            assert info["area"] == len(rows)
            left, top = columns.min(), rows.min()
            assert info["bbox"] == [left, top, columns.max() - left + 1, rows.max() - top + 1]
            assert info["category_id"] in NAMES
            assert "segmentation" not in info


def test_classes(upernet: Any, photos: Path, tmp_path: Path) -> None:
    processor = SegformerImageProcessor(size={"height": 64, "width": 64})
    done = segment(photos, tmp_path / "out", upernet, processor)
    assert done.task == "semantic"
    content = content_of(tmp_path / "out")
    with Image.open(tmp_path / "out/masks/more/b.png") as picture:
        assert picture.mode == "P"
        assert tuple(picture.getpalette()[3:6]) == palette_colour(1)
    classes = mask_of(tmp_path / "out", "more/b.png")
    own = [annotation for annotation in content["annotations"] if annotation["image_id"] == 2]
    assert {annotation["category_id"] for annotation in own} == set(np.unique(classes))
    for annotation in own:
        assert np.array_equal(decode_rle(annotation["segmentation"]).numpy(), classes == annotation["category_id"])
        assert "score" not in annotation
    assert set(done.images["more/b.png"]) == {NAMES[label] for label in np.unique(classes)}


def test_a_bad_image_is_told_and_the_others_go_on(upernet: Any, photos: Path, tmp_path: Path) -> None:
    (photos / "broken.png").write_bytes(b"no picture")
    done = segment(photos, tmp_path / "out", upernet, SegformerImageProcessor(size={"height": 64, "width": 64}))
    assert done.exit_code == 3
    assert list(done.failed) == ["broken.png"]
    assert str(tmp_path) not in done.failed["broken.png"]
    assert len(done.images) == 3


def test_what_a_processor_serves() -> None:
    assert tasks_of(MaskFormerImageProcessor()) == ["semantic", "instance", "panoptic"]
    assert tasks_of(SegformerImageProcessor()) == ["semantic"]
    assert tasks_of(ViTImageProcessor()) == []


def test_bad_arguments(upernet: Any, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"task='instance' is not one that SegformerImageProcessor serves: semantic"):
        segment(photos, tmp_path / "out", upernet, SegformerImageProcessor(), task="instance")
    with pytest.raises(ValueError, match="ViTImageProcessor has no post-processing for segmentation"):
        segment(photos, tmp_path / "out", upernet, ViTImageProcessor())
    with pytest.raises(ValueError, match=r"call model\.eval"):
        segment(photos, tmp_path / "out", upernet.train(), SegformerImageProcessor())
    upernet.eval()
    with pytest.raises(FileNotFoundError, match="does not exist"):
        segment(tmp_path / "nowhere", tmp_path / "out", upernet, SegformerImageProcessor())
    assert not (tmp_path / "out").exists()


def test_a_threshold_that_the_task_lacks(upernet: Any, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="threshold cannot be set for task='semantic'"):
        segment(photos, tmp_path / "out", upernet, SegformerImageProcessor(), threshold=0.5)


def test_out_must_be_a_folder(upernet: Any, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("here already")
    with pytest.raises(NotADirectoryError, match=r"out='.*out' is a file; segment writes a folder"):
        segment(photos, tmp_path / "out", upernet, SegformerImageProcessor())


def test_what_it_wrote_is_not_segmented(upernet: Any, photos: Path) -> None:
    """`vertebra segment photos --out photos/out` gives the same the second time."""
    processor = SegformerImageProcessor(size={"height": 64, "width": 64})
    first = segment(photos, photos / "out", upernet, processor)
    second = segment(photos, photos / "out", upernet, processor)
    assert second.images == first.images
    with pytest.raises(FileNotFoundError, match=r"All images of '.*overlays' are inside out="):
        segment(photos / "out" / "overlays", photos / "out", upernet, processor)
