"""Mask2FormerConfig: keys, defaults and files against transformers, and what it refuses."""

import re
from pathlib import Path
from typing import Any

import pytest
import transformers
from mask2former_cases import HEAD, RESNET, STAGES, theirs

from vertebra import ResNetConfig, SwinConfig
from vertebra.heads.mask2former.config import Mask2FormerConfig

OF_THE_BASE = {"backbone_config", "transformers_version", "_name_or_path", "architectures", "dtype"}


def test_defaults() -> None:
    ours, other = Mask2FormerConfig(), transformers.Mask2FormerConfig()
    compared = 0
    for name, expected in other.to_dict().items():
        if name in Mask2FormerConfig.__annotations__:
            value = getattr(ours, name)
            assert (list(value) == list(expected)) if name == "feature_strides" else (value == expected), name
            compared += 1
    assert compared == len(Mask2FormerConfig.__annotations__) - (
        "default_backbone" in Mask2FormerConfig.__annotations__
    )
    assert (ours.hidden_size, ours.num_hidden_layers, ours.model_type) == (256, 10, other.model_type)
    assert type(ours.backbone_config) is SwinConfig
    for name in ("depths", "embed_dim", "num_heads", "window_size", "drop_path_rate", "image_size"):
        there = getattr(other.backbone_config, name)
        assert getattr(ours.backbone_config, name) == (list(there) if isinstance(there, tuple) else there), name
    assert ours.needed_strides == (4, 8, 16, 32)


@pytest.mark.parametrize("backbone", ["swin", "resnet", "timm"])
def test_files_of_transformers(backbone: str, tmp_path: Path) -> None:
    other = theirs(backbone, mask_weight=7.0, use_auxiliary_loss=False, pre_norm=True).config
    other.save_pretrained(tmp_path / "theirs")
    ours = Mask2FormerConfig.from_pretrained(tmp_path / "theirs")
    assert (ours.mask_weight, ours.pre_norm, ours.num_queries, ours.num_labels) == (7.0, True, 7, 4)
    ours.save_pretrained(tmp_path / "ours")
    back = transformers.Mask2FormerConfig.from_pretrained(tmp_path / "ours")
    written = back.to_dict()
    for name, value in other.to_dict().items():
        if name not in OF_THE_BASE:
            assert written[name] == (list(value) if isinstance(value, tuple) else value), name
    assert list(back.backbone_config.out_indices) == list(other.backbone_config.out_indices)
    assert Mask2FormerConfig.from_pretrained(tmp_path / "ours") == ours


def test_whole_numbers_where_transformers_expects_others(tmp_path: Path) -> None:
    Mask2FormerConfig(
        backbone_config=ResNetConfig(**RESNET), mask_weight=5, dropout=0, oversample_ratio=3
    ).save_pretrained(tmp_path)
    read = transformers.Mask2FormerConfig.from_pretrained(tmp_path)
    assert (read.mask_weight, read.dropout, read.oversample_ratio) == (5.0, 0.0, 3.0)


def test_from_a_backbone_config() -> None:
    backbone = ResNetConfig(**RESNET, out_features=STAGES)
    config = Mask2FormerConfig.from_backbone_config(backbone, num_queries=9, num_labels=3)
    assert (config.num_queries, config.num_labels) == (9, 3)
    assert config.backbone_config is not backbone
    assert config.backbone_config.hidden_sizes == RESNET["hidden_sizes"]


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"feature_strides": [8, 16]}, "feature_strides=[8, 16] must be at least 3 strides, each twice the one before"),
        ({"feature_strides": [4, 8, 16, 16]}, "feature_strides=[4, 8, 16, 16] must be at least 3 strides, each twice"),
        (
            {"common_stride": 2},
            "common_stride=2 must be 4 (masks as fine as the first map) or 8 (as the encoder's finest map)",
        ),
        ({"common_stride": 16}, "common_stride=16 must be 4"),
        ({"feature_strides": [2, 4, 8, 16, 32]}, "common_stride=4 must be 2 (masks as fine as the first map) or 8"),
        ({"feature_size": 48}, "feature_size=48 must be a multiple of 32: its norms have 32 groups."),
        ({"hidden_dim": 30, "num_attention_heads": 2}, "hidden_dim=30 must be a multiple of 4: sines and cosines"),
        ({"num_attention_heads": 3}, "feature_size=64 must be a multiple of 3: num_attention_heads share it."),
        ({"num_queries": 0}, "num_queries=0 must be a whole number, 1 or more."),
        ({"decoder_layers": 0}, "decoder_layers=0 must be a whole number, 1 or more."),
        ({"train_num_points": 2.5}, "train_num_points=2.5 must be a whole number"),
        ({"mask_weight": -1}, "mask_weight=-1 must be a number, 0 or more."),
        ({"dropout": 1.5}, "dropout=1.5 is a probability, from 0 to 1."),
        ({"importance_sample_ratio": 1.2}, "importance_sample_ratio=1.2 must be from 0 to 1"),
        ({"oversample_ratio": 0.5}, "oversample_ratio=0.5 not below it"),
        ({"activation_function": "rleu"}, "hidden_act='rleu' is not known. Did you mean 'relu'"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(keys: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        Mask2FormerConfig(backbone_config=ResNetConfig(**RESNET), **{**HEAD, **keys})


def test_strides_that_can_be_had() -> None:
    for strides, common, levels, least in (
        ([8, 16, 32], 8, 0, 3),
        ([2, 4, 8, 16, 32], 2, 2, 5),
        ([4, 8, 16, 32], 8, 0, 3),
    ):
        config = Mask2FormerConfig(feature_strides=strides, common_stride=common)
        assert (config.needed_strides, config.fpn_levels, config.least_maps) == (tuple(strides), levels, least)
