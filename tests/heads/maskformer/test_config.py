"""MaskFormerConfig and DetrConfig: keys, defaults, derived keys and files, against transformers."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import transformers
from maskformer_cases import DECODER, HEAD, RESNET, SWIN, theirs

from vertebra import ResNetConfig, SwinConfig
from vertebra.heads.maskformer.config import DetrConfig, MaskFormerConfig

OWN = [
    "fpn_feature_size",
    "mask_feature_size",
    "no_object_weight",
    "use_auxiliary_loss",
    "init_std",
    "init_xavier_std",
    "dice_weight",
    "cross_entropy_weight",
    "mask_weight",
    "output_auxiliary_logits",
    "num_attention_heads",
    "num_hidden_layers",
    "model_type",
]


def test_defaults() -> None:
    ours, other = MaskFormerConfig(), transformers.MaskFormerConfig()
    expected = other.to_dict()
    for name in OWN:
        assert getattr(ours, name) == expected[name], name
    assert (ours.num_attention_heads, ours.num_hidden_layers, ours.hidden_size) == (8, 6, 256)
    decoder = transformers.DetrConfig().to_dict()
    shared = set(ours.decoder_config.to_diff_dict()) & set(decoder)
    assert len(shared) > 25
    for name in shared:
        assert getattr(ours.decoder_config, name) == decoder[name], name
    assert type(ours.backbone_config).__name__ == "MaskFormerSwinConfig"
    for name in ("depths", "embed_dim", "num_heads", "window_size", "drop_path_rate", "image_size"):
        assert getattr(ours.backbone_config, name) == getattr(other.backbone_config, name), name


@pytest.mark.parametrize("backbone", ["swin", "resnet", "timm"])
def test_files_of_transformers(backbone: str, tmp_path: Path) -> None:
    other = theirs(backbone, mask_weight=7.0, use_auxiliary_loss=True).config
    other.save_pretrained(tmp_path / "theirs")
    ours = MaskFormerConfig.from_pretrained(tmp_path / "theirs")
    assert (ours.num_attention_heads, ours.num_hidden_layers) == (2, 5)
    assert (ours.mask_weight, ours.decoder_config.num_queries, ours.hidden_size) == (7.0, 7, 20)
    ours.save_pretrained(tmp_path / "ours")
    back = transformers.MaskFormerConfig.from_pretrained(tmp_path / "ours")
    written = back.to_dict()
    for name, value in other.to_dict().items():
        if name not in ("backbone_config", "transformers_version", "_name_or_path", "architectures", "dtype"):
            assert written[name] == value, name
    assert list(back.backbone_config.out_indices) == list(other.backbone_config.out_indices)
    again = MaskFormerConfig.from_pretrained(tmp_path / "ours")
    assert again == ours


def v4_file() -> dict[str, Any]:
    """What transformers 4 writes, with keys that 5 dropped and the null that it refuses."""
    decoder = {
        **DECODER,
        "model_type": "detr",
        "dilation": None,
        "backbone": None,
        "backbone_config": None,
        "backbone_kwargs": None,
        "use_timm_backbone": False,
        "use_pretrained_backbone": True,
        "scale_embedding": False,
        "classifier_dropout": 0.0,
        "max_position_embeddings": 1024,
    }
    backbone = {**SWIN, "model_type": "swin", "out_features": ["stage4"], "out_indices": [4]}
    return {
        "model_type": "maskformer",
        "backbone": None,
        "backbone_config": backbone,
        "backbone_kwargs": None,
        "decoder_config": decoder,
        "fpn_feature_size": 32,
        "mask_feature_size": 32,
        "num_attention_heads": 2,
        "num_hidden_layers": 5,
        "use_pretrained_backbone": False,
        "use_timm_backbone": False,
    }


def test_files_of_transformers_4(tmp_path: Path) -> None:
    config = MaskFormerConfig.from_dict(v4_file())
    decoder = config.decoder_config
    assert decoder.dilation is False
    assert decoder.scale_embedding is False
    assert config.backbone_config.model_type == "maskformer-swin"
    written = config.to_dict()["decoder_config"]
    kept = {"scale_embedding": False, "max_position_embeddings": 1024, "use_pretrained_backbone": True}
    assert {name: written[name] for name in kept} == kept
    config.save_pretrained(tmp_path)
    assert transformers.MaskFormerConfig.from_pretrained(tmp_path).decoder_config.num_queries == 7
    (tmp_path / "v4").mkdir()
    (tmp_path / "v4" / "config.json").write_text(json.dumps(v4_file()))
    with pytest.raises(Exception, match="dilation"):  # transformers 5 refuses what transformers 4 wrote
        transformers.MaskFormerConfig.from_pretrained(tmp_path / "v4")


def test_from_backbone_and_decoder_configs() -> None:
    config = MaskFormerConfig.from_backbone_and_decoder_configs(
        ResNetConfig(**RESNET), DetrConfig(**DECODER), num_labels=3, mask_weight=2
    )
    assert config.backbone_config.model_type == "resnet"
    assert (config.decoder_config.d_model, config.num_labels, config.mask_weight) == (32, 3, 2.0)
    assert isinstance(config.mask_weight, float)  # transformers 5 refuses a whole number in its file
    swapped = MaskFormerConfig.from_backbone_config(SwinConfig(**SWIN), decoder_config={"d_model": 64})
    assert swapped.backbone_config.model_type == "maskformer-swin"
    swapped.decoder_config = {"d_model": 128, "decoder_layers": 2}
    assert swapped.decoder_config.decoder_layers == 2


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"decoder_config": {"model_type": "bart"}},
            "decoder_config of model_type 'bart': MaskFormer's transformer decoder",
        ),
        ({"decoder_config": ResNetConfig()}, "decoder_config of model_type 'resnet'"),
        (
            {"decoder_config": "detr"},
            "decoder_config of model_type 'detr': MaskFormer's transformer decoder is DETR's; pass",
        ),
        ({"fpn_feature_size": 40}, "fpn_feature_size=40 of MaskFormerConfig must be a multiple of 32"),
        ({"mask_feature_size": 0}, "mask_feature_size=0 of MaskFormerConfig must be a whole number, 1 or more"),
        ({"mask_weight": -1.0}, "mask_weight=-1.0 of MaskFormerConfig must be a number, 0 or more"),
        ({"dice_weight": float("nan")}, "dice_weight=nan of MaskFormerConfig must be a number"),
        ({"decoder_config": {"num_queries": 0}}, "num_queries=0 of DetrConfig must be a whole number, 1 or more"),
        ({"decoder_config": {"dropout": 1.5}}, "dropout=1.5 of DetrConfig is a probability, 0 to 1"),
    ],
)
def test_bad_values(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        MaskFormerConfig(**{**HEAD, **keys})


def test_typos() -> None:
    with pytest.raises(TypeError, match=r"has no key 'mask_wieght'.*'mask_weight'"):
        MaskFormerConfig(mask_wieght=3.0)
    with pytest.raises(TypeError, match=r"has no key 'num_querys'.*'num_queries'"):
        DetrConfig(num_querys=3)
