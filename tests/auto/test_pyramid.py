"""pyramid: the rule that chooses a neck, the stages it takes, what it refuses, and regressions of the peers' defects."""

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import timm
import tiny
import torch
from oracle import close, perturb, same

from vertebra import (
    FPN,
    AutoBackbone,
    Interpolate,
    PreTrainedConfig,
    ResNetConfig,
    SimpleFeaturePyramid,
    SwinConfig,
    TimmBackboneConfig,
    pyramid,
)

RESNET = ResNetConfig(**tiny.RESNET)
SWIN = SwinConfig(embed_dim=12, depths=[1, 1, 2, 1], num_heads=[1, 2, 2, 2], window_size=4)
RANDOM: dict[str, Any] = {"use_pretrained_backbone": False}

RULE = [
    ("test_resnet", (4, 8, 16, 32), "FPN", ["layer1", "layer2", "layer3", "layer4"]),
    ("test_resnet", (8, 16, 32, 64, 128), "FPN", ["layer2", "layer3", "layer4"]),
    ("test_vit", (4, 8, 16, 32), "SimpleFeaturePyramid", ["blocks.5"]),
    ("nest_tiny", (4, 8, 16, 32), "FPN", ["levels.0", "levels.1", "levels.2"]),
    ("levit_128s", (4, 8, 16, 32), "Interpolate", ["stride16", "stride16", "stride16", "stride32"]),
    ("pit_ti_224", (4, 8, 16, 32), "Interpolate", ["stride8", "stride8", "stride16", "stride32"]),
    ("mixer_s32_224", (4, 8, 16, 32), "SimpleFeaturePyramid", ["blocks.7"]),
]


@pytest.mark.parametrize(("name", "strides", "kind", "features"), RULE)
def test_the_rule(name: str, strides: tuple[int, ...], kind: str, features: list[str]) -> None:
    with torch.device("meta"):
        neck = pyramid(name, strides, channels=32, **RANDOM)
        maps = neck(torch.empty(2, 3, *neck.native_size)).feature_maps
    assert type(neck).__name__ == kind
    assert neck.config.in_features == features
    assert neck.strides == list(strides)
    height, width = neck.native_size
    for stride, level in zip(strides, maps, strict=True):
        unpadded_stem = name.startswith("pit")  # 27 cells of 8 pixels at 224
        cells = -(-27 * 8 // stride) if unpadded_stem else -(-height // stride)
        assert tuple(level.shape) == (2, 32, cells, cells), f"{stride} of {height}x{width}"


@pytest.mark.parametrize("patch", [16, 14, 12, 8, 7, 32])
def test_flat_transformers_of_every_patch_size(patch: int) -> None:
    """The peers fail on patches of 14, or return four maps of one size (smp#1184, autotimm)."""
    args = {"depth": 2, "embed_dim": 24, "num_heads": 2, "patch_size": patch, "img_size": 7 * patch}
    config = TimmBackboneConfig("vit_tiny_patch16_224", use_pretrained_backbone=False, model_args=args)
    neck = pyramid(config, channels=8)
    maps = neck(torch.randn(1, 3, 7 * patch, 7 * patch)).feature_maps
    assert [level.shape[-1] for level in maps] == [-(-7 * patch // stride) for stride in (4, 8, 16, 32)]
    assert neck.strides == [4, 8, 16, 32]


def test_weights_come_from_the_checkpoint(tmp_path: Path) -> None:
    config = copy.deepcopy(RESNET)
    config.out_indices = [1, 2, 3, 4]
    backbone = perturb(AutoBackbone.from_config(config)).eval()
    backbone.save_pretrained(tmp_path)
    neck = pyramid(tmp_path, (8, 16, 32), 12)
    pixels = torch.randn(1, 3, 64, 64)
    same(neck.backbone(pixels).feature_maps, backbone(pixels).feature_maps[1:])
    assert not neck.training
    assert pyramid(os.fspath(tmp_path), (8,), neck=None).out_features == ["stage2"]


def test_a_timm_backbone_gives_timms_maps() -> None:
    oracle = perturb(timm.create_model("test_resnet", features_only=True, out_indices=(1, 2, 3, 4))).eval()
    neck = pyramid("test_resnet", channels=8, **RANDOM)
    neck.backbone.load_state_dict(oracle.state_dict())
    pixels = torch.randn(1, 3, 64, 96)
    close(neck.eval().backbone(pixels).feature_maps, tuple(oracle(pixels)))


def test_a_built_backbone_may_only_use_what_it_has() -> None:
    pruned = AutoBackbone.from_config(RESNET)
    assert isinstance(pyramid(pruned, (4, 8, 16, 32), 12), SimpleFeaturePyramid)
    config = copy.deepcopy(RESNET)
    config.prune = False
    whole = AutoBackbone.from_config(config)
    neck = pyramid(whole, (4, 8, 16, 32), 12)
    assert isinstance(neck, FPN)
    assert neck.backbone is whole
    assert whole.out_features == ["stage1", "stage2", "stage3", "stage4"]
    with pytest.raises(
        TypeError, match="freeze cannot change a backbone that is built; pass its name or configuration"
    ):
        pyramid(whole, freeze="stage1")


def test_a_chosen_selection_is_kept_and_an_untouched_one_is_not() -> None:
    assert pyramid(SWIN, (4, 8), 12).backbone.out_features == ["stage1", "stage2"]
    chosen = copy.deepcopy(SWIN)
    chosen.out_indices = [2, 3]
    neck = pyramid(chosen, (8, 16), 12)
    assert neck.backbone.out_features == ["stage2", "stage3"]
    assert isinstance(pyramid(chosen, (4, 8, 16), 12), Interpolate)
    assert chosen.out_indices == [2, 3]
    assert SWIN.out_indices == [4]


def test_keys_of_the_configuration_reach_the_backbone() -> None:
    neck = pyramid("test_resnet", channels=8, freeze="layer1", size_policy="pad", **RANDOM)
    assert neck.backbone.config.freeze == "layer1"
    assert [level.shape[-1] for level in neck(torch.rand(1, 3, 50, 70)).feature_maps] == [18, 9, 5, 3]
    assert pyramid(RESNET, channels=8, freeze="stage1").backbone.config.freeze == "stage1"


def test_a_neck_over_a_neck() -> None:
    low = pyramid(SWIN, (8, 16, 32), 12)
    top = pyramid(low, (4, 8, 16, 32), 12, "interpolate")
    assert top.backbone is low
    assert [level.shape[-1] for level in top(torch.rand(1, 3, 64, 64)).feature_maps] == [16, 8, 4, 2]


class Mine(FPN):
    """A neck of one's own."""


def test_a_class_of_ones_own() -> None:
    assert type(pyramid(RESNET, channels=12, neck=Mine)) is Mine


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"strides": (8, 4)}, ValueError, "must be positive, ascending and without repeats"),
        ({"strides": (4, 4)}, ValueError, "must be positive, ascending and without repeats"),
        ({"strides": (0, 4)}, ValueError, "must be positive"),
        ({"strides": 4}, ValueError, r"strides=4 must be a list or tuple .* such as \(4, 8, 16, 32\)"),
        ({"strides": ()}, ValueError, "must be a list or tuple"),
        ({"neck": "fnp"}, ValueError, "neck='fnp' is not known. Did you mean 'fpn'.*simple_feature_pyramid"),
        ({"neck": "fpn", "strides": (2, 4)}, ValueError, "FPN cannot make stride 2 .*stem: 4.*'interpolate'"),
        ({"neck": None, "strides": (2, 8)}, ValueError, "asks for stride 2, which no stage has.*neck='auto'"),
        ({"channels": 0}, ValueError, "channels=0 must be at least 1"),
        ({"channels": None}, ValueError, "need one width"),
        ({"neck_options": {"nrom": "batch"}}, TypeError, "Did you mean 'norm'"),
    ],
)
def test_errors_teach(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    config: PreTrainedConfig = SWIN
    with pytest.raises(error, match=text):
        pyramid(config, **arguments)


def test_a_misspelt_name_lists_the_nearest() -> None:
    with pytest.raises(OSError, match=r"neither a local folder nor .* Did you mean 'resnet50'"):
        pyramid("resnet5o", **RANDOM)


@pytest.mark.parametrize("name", ["linear_probe", "fpn_segmentation"])
def test_models_over_a_backbone_are_no_necks(name: str) -> None:
    with pytest.raises(
        ValueError, match=rf"neck='{name}' is not known.*one of fpn, interpolate, pafpn, projection, reas"
    ) as error:
        pyramid("test_vit", neck=name, use_pretrained_backbone=False)
    assert f"{name}," not in str(error.value)
