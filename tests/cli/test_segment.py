"""`vertebra segment`, as typed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import RESNET

from vertebra import (
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessor,
    ResNetBackbone,
    ResNetConfig,
    SegformerImageProcessor,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)
from vertebra.cli import main

SMALL = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "num_attention_heads": 2, "num_queries": 7}
LAYERS = {"encoder_layers": 1, "decoder_layers": 2, "encoder_feedforward_dim": 32, "dim_feedforward": 32}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mask2former")
    torch.manual_seed(0)
    config = Mask2FormerConfig(backbone_config=ResNetConfig(**RESNET), **SMALL, **LAYERS, id2label={0: "cat", 1: "dog"})
    built = Mask2FormerForUniversalSegmentation(config)
    built.class_predictor.bias.data[-1] = -9  # every query sees something
    built.save_pretrained(folder)
    Mask2FormerImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(folder)
    return folder


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(path)
    return path


@pytest.mark.parametrize("task", ["semantic", "instance", "panoptic"])
def test_tasks(task: str, model: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    thresholds = [] if task == "semantic" else ["--threshold", "0", "--overlap", "0", "--mask-threshold", "0"]
    assert main(["segment", str(photo), "--model", str(model), "--out", str(out), "--task", task, *thresholds]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.startswith(f"1 of 1 images, {task}, ")
    assert head.endswith(f"-> {out} (overlays/, masks/, annotations.json)")
    assert row.startswith("  photo.png: ")
    assert "cat" in row or "dog" in row
    assert json.loads((out / "annotations.json").read_text())["annotations"]
    for kind in ("overlays", "masks"):
        with Image.open(out / kind / "photo.png") as picture:
            assert picture.size == (64, 48)


def test_json_and_failures(model: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.png").write_bytes(b"nothing")
    code = main(
        [
            "segment",
            str(photo),
            str(tmp_path / "broken.png"),
            "--model",
            str(model),
            "--out",
            str(tmp_path / "out"),
            "--json",
        ]
    )
    captured = capsys.readouterr()
    assert code == 3
    content = json.loads(captured.out)
    assert content["task"] == "panoptic"
    assert list(content["images"]) == ["photo.png"]
    assert list(content["failed"]) == ["broken.png"]
    assert "failed: broken.png: " in captured.err


def test_a_model_that_does_not_segment(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ResNetBackbone(ResNetConfig(**RESNET)).save_pretrained(tmp_path / "resnet")
    Mask2FormerImageProcessor().save_pretrained(tmp_path / "resnet")
    assert main(["segment", str(photo), "--model", str(tmp_path / "resnet"), "--out", str(tmp_path / "out")]) == 1
    assert "AutoModelForImageSegmentation has no class for ResNetConfig" in capsys.readouterr().err


def test_wrong_arguments(model: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["segment", str(photo), "--model", str(model), "--out", str(tmp_path / "out")]
    assert main([*common, "--task", "semantic", "--threshold", "0.3"]) == 1
    assert "are for instance and panoptic" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*common, "--threshold", "3"])
    assert "'3' is not a number within 0..1" in capsys.readouterr().err
    assert main(["segment", str(tmp_path / "nowhere.png"), *common[2:]]) == 1
    assert "does not exist" in capsys.readouterr().err


def test_a_threshold_where_the_model_has_classes_alone(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = UperNetConfig(backbone_config=ResNetConfig(**RESNET), hidden_size=16)
    UperNetForSemanticSegmentation(config).save_pretrained(tmp_path / "upernet")
    SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "upernet")
    common = ["segment", str(photo), "--model", str(tmp_path / "upernet"), "--out", str(tmp_path / "out")]
    assert main([*common, "--threshold", "0.5"]) == 1
    assert "threshold cannot be set for task='semantic'" in capsys.readouterr().err
