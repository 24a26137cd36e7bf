"""Every neck keeps the contract of a backbone: claims, files, selection, freezing, sizes, graphs."""

import copy
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from oracle import close, perturb, same, saved_keys

from vertebra import (
    FPN,
    AutoBackbone,
    AutoConfig,
    Backbone,
    FPNConfig,
    Projection,
    Reassemble,
    ResNetConfig,
    SwinConfig,
    TimmBackboneConfig,
    pyramid,
    verify,
)

RESNET = ResNetConfig(**tiny.RESNET)
SWIN = SwinConfig(embed_dim=12, depths=[1, 1, 2, 1], num_heads=[1, 2, 2, 2], window_size=4)
VIT14 = TimmBackboneConfig(
    "vit_tiny_patch16_224",
    use_pretrained_backbone=False,
    model_args={"depth": 4, "embed_dim": 24, "num_heads": 2, "patch_size": 14, "img_size": 70},
)
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "fpn": (RESNET, {"strides": (4, 8, 16, 32, 64), "neck_options": {"norm": "batch"}}),
    "pafpn": (SWIN, {"neck": "pafpn"}),
    "pafpn-norm": (SWIN, {"strides": (8, 16, 32, 64), "neck": "pafpn", "neck_options": {"norm": "layer"}}),
    "simple": (VIT14, {}),
    "reassemble": (VIT14, {"neck": "reassemble", "strides": (4, 7, 14, 28)}),
    "interpolate": (SWIN, {"neck": "interpolate", "channels": None, "strides": (4, 6, 12, 64)}),
    "projection": (RESNET, {"neck": "projection"}),
    "stacked": (SWIN, {"strides": (2, 4, 8)}),
}


def build(case: str, **kwargs: Any) -> Any:
    config, options = CASES[case]
    return pyramid(config, **{"channels": 12, **options, **kwargs})


def size_of(neck: Backbone) -> tuple[int, int]:
    return (70, 70) if "timm" in str(neck.config.to_dict()["backbone_config"]["model_type"]) else (96, 64)


@pytest.fixture(params=CASES)
def neck(request: pytest.FixtureRequest) -> Any:
    return perturb(build(request.param)).eval()


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_every_claim_holds(neck: Any, device: str) -> None:
    report = verify(neck, size_of(neck), device)
    assert report, str(report)


def test_strides_channels_and_shapes_are_those_asked_for() -> None:
    for case, (_, options) in CASES.items():
        neck = build(case)
        assert neck.strides == list(options.get("strides", (4, 8, 16, 32)))
        assert neck.stage_names == [f"stride{stride}" for stride in neck.strides]
        size = size_of(neck)
        maps = neck(torch.rand(2, 3, *size)).feature_maps
        assert [tuple(level.shape[1:]) for level in maps] == list(neck.output_shapes(*size).values())
        if options.get("channels", 12) is not None:
            assert neck.channels == [12] * len(maps)


def test_saved_and_loaded_it_is_the_same(neck: Any, tmp_path: Path) -> None:
    neck.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    assert content["model_type"].startswith("vertebra_")
    assert content["backbone_config"]["model_type"] == neck.backbone.config.model_type
    assert saved_keys(tmp_path) == set(neck.state_dict())
    assert {key.partition(".")[0] for key in saved_keys(tmp_path)} >= {"backbone"}
    loaded = AutoBackbone.from_pretrained(tmp_path)
    assert type(loaded) is type(neck)
    pixels = torch.randn(2, 3, *size_of(neck))
    same(loaded(pixels).feature_maps, neck(pixels).feature_maps)
    assert AutoConfig.from_pretrained(tmp_path) == loaded.config
    assert loaded.config.backbone_config is loaded.backbone.config
    for key in ("strides", "in_features", "channels", "out_features"):
        assert getattr(loaded.config, key) == getattr(neck.config, key)


def test_one_level_alone_is_the_same_and_holds_less(neck: Any, tmp_path: Path) -> None:
    neck.save_pretrained(tmp_path)
    pixels = torch.randn(1, 3, *size_of(neck))
    whole = neck(pixels).feature_maps
    for index in range(len(neck.stages)):
        alone = AutoBackbone.from_pretrained(tmp_path, out_indices=[index])
        same(alone(pixels).feature_maps, whole[index : index + 1])
        assert alone.num_parameters() <= neck.num_parameters()
    assert AutoBackbone.from_pretrained(tmp_path, out_strides=neck.strides[-1:]).strides == neck.strides[-1:]
    neck.out_indices = [1]
    same(neck(pixels).feature_maps, whole[1:2])


def resnet(**selection: Any) -> Any:
    config = copy.deepcopy(RESNET)
    for name, value in selection.items():
        setattr(config, name, value)
    return AutoBackbone.from_config(config)


def test_the_backbones_weights_are_left_alone() -> None:
    backbone = perturb(resnet(out_indices=[1, 2, 3, 4])).eval()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    neck = FPN(backbone, channels=12)
    assert not neck.training
    for key, value in before.items():
        same(neck.state_dict()[f"backbone.{key}"], value, key)


def test_a_neck_reads_only_what_it_needs() -> None:
    backbone = resnet(out_indices=[1, 2, 3, 4])
    neck = FPN(backbone, channels=12, strides=(16, 32))
    assert backbone.out_features == ["stage3", "stage4"]
    assert neck.config.in_features == ["stage3", "stage4"]
    low = AutoBackbone.from_config(changed(neck, out_indices=[1]))
    assert low.backbone.out_features == ["stage4"]
    shallow = pyramid(RESNET, (4, 8, 16, 32), 12, "interpolate")
    config = copy.deepcopy(shallow.config)
    config.out_indices = [0]
    assert len(AutoBackbone.from_config(config).backbone.encoder.stages) == 1


def changed(neck: Any, **changes: Any) -> Any:
    config = copy.deepcopy(neck.config)
    for name, value in changes.items():
        setattr(config, name, value)
    return config


def test_freezing_the_backbone_holds_in_the_neck_and_its_file(tmp_path: Path) -> None:
    neck = pyramid(RESNET, channels=12, neck_options={"norm": "batch"})
    neck.backbone.freeze("stage2")
    neck.train()
    assert not neck.backbone.encoder.stages[1].training
    assert neck.backbone.encoder.stages[2].training
    neck.save_pretrained(tmp_path)
    loaded = AutoBackbone.from_pretrained(tmp_path).train()
    frozen = {name for name, parameter in loaded.named_parameters() if not parameter.requires_grad}
    assert frozen == {f"backbone.{name}" for name in neck.backbone.frozen_report().parameters}
    report = loaded.freeze()
    assert report.frozen == report.total
    loaded.unfreeze()
    assert {name for name, parameter in loaded.named_parameters() if not parameter.requires_grad} == frozen
    assert not loaded.train().backbone.encoder.stages[1].training


def test_freezing_a_level_freezes_all_it_depends_on() -> None:
    neck = pyramid(SWIN, channels=12, neck="interpolate", strides=(4, 8, 16, 32))
    neck.freeze("stride8")
    trainable = {name for name, parameter in neck.named_parameters() if parameter.requires_grad}
    assert not any(name.startswith(("backbone.encoder.layers.0.blocks", "projection.stride4")) for name in trainable)
    assert any(name.startswith("backbone.encoder.layers.2") for name in trainable)
    assert "projection.stride16.0.weight" in trainable


@pytest.mark.parametrize("policy", ["pad", "floor"])
def test_size_policies_of_neck_and_backbone(policy: str) -> None:
    for kwargs in ({"size_policy": policy}, {"neck_options": {"size_policy": policy}}):
        neck = pyramid(RESNET, channels=12, **kwargs)
        maps = neck(torch.rand(1, 3, 75, 101), output_hidden_states=True)
        assert [tuple(level.shape[1:]) for level in maps.feature_maps] == list(neck.output_shapes(75, 101).values())
        rows = [level.shape[-2] for level in maps.feature_maps]
        assert rows == ([19, 10, 5, 3] if policy == "pad" else [16, 8, 4, 2])
        assert [state.shape[-2] for state in maps.hidden_states] == [rows[0], *rows]


def test_hidden_states_and_attentions_are_the_backbones() -> None:
    neck = perturb(pyramid(SWIN, channels=12)).eval()
    pixels = torch.randn(1, 3, 64, 64)
    output = neck(pixels, output_hidden_states=True, output_attentions=True)
    below = neck.backbone(pixels, output_hidden_states=True, output_attentions=True)
    same(output.hidden_states, below.hidden_states)
    same(output.attentions, below.attentions)
    assert len(neck(pixels, return_dict=False)[0]) == 4


def test_geometry_of_the_levels() -> None:
    offsets = {stage.name: stage.offset[0] for stage in pyramid(SWIN, (4, 8, 16, 32, 64), 12).stages}
    assert offsets == {"stride4": 2, "stride8": 4, "stride16": 8, "stride32": 16, "stride64": 16}
    offsets = {stage.name: stage.offset[0] for stage in pyramid(SWIN, (2, 6), 12, "interpolate").stages}
    assert offsets == {"stride2": 1, "stride6": Fraction(3)}


@pytest.mark.parametrize("case", CASES)
def test_one_graph_and_export(case: str) -> None:
    """One neck of a Swin is enough: Swin alone is captured in `test_compile`, and takes most of the time."""
    torch._dynamo.reset()
    config, options = CASES[case]
    below = RESNET if config is SWIN and case != "interpolate" else config
    neck = perturb(pyramid(below, **{"channels": 12, **options})).eval()
    size = size_of(neck)
    pixels = torch.randn(2, 3, *size)
    with torch.no_grad():
        compiled = torch.compile(neck, fullgraph=True, backend="eager")
        close(compiled(pixels).feature_maps, neck(pixels).feature_maps)
        batch = torch.export.Dim("batch", min=1, max=16)
        exported = torch.export.export(neck, (pixels,), dynamic_shapes={"pixel_values": {0: batch}}).module()
        more = torch.randn(5, 3, *size)
        close(exported(more).feature_maps, neck(more).feature_maps)


def test_neck_of_a_timm_backbone_with_buffers_no_file_holds(tmp_path: Path) -> None:
    """Rotary tables are in no file; they must be computed after a load, below a neck as well."""
    args = {"depth": 2, "embed_dim": 24, "num_heads": 2, "img_size": 64}
    config = TimmBackboneConfig(
        "eva02_tiny_patch14_224", use_pretrained_backbone=False, model_args=args | {"patch_size": 16}
    )
    neck = perturb(pyramid(config, channels=12)).eval()
    neck.save_pretrained(tmp_path)
    pixels = torch.randn(1, 3, 64, 64)
    same(AutoBackbone.from_pretrained(tmp_path)(pixels).feature_maps, neck(pixels).feature_maps)


@pytest.mark.parametrize(
    ("build", "error", "text"),
    [
        (lambda: FPN(resnet(out_indices=[1, 2]), strides=(2, 4)), ValueError, "cannot make stride 2 .* stage1: 4, stage2: 8"),
        (lambda: FPN(resnet(out_indices=[1, 2]), strides=(4, 8, 24)), ValueError, "cannot make stride 24"),
        (lambda: FPN(resnet(out_indices=[1, 2]), channels=None), ValueError, "channels=256, say, not None"),
        (lambda: FPN(resnet(out_indices=[1, 2]), norm="bacth"), ValueError, "Did you mean 'batch'"),
        (lambda: FPN(resnet(out_indices=[1, 2]), chanels=3), TypeError, "Did you mean 'channels'"),
        (lambda: FPN(resnet(out_indices=[1, 2]), extra_levels="p6"), ValueError, "must be one of pool, conv"),
        (lambda: FPN(RESNET), TypeError, "takes a built backbone or a FPNConfig, got ResNetConfig"),
        (lambda: FPN("resnet50"), TypeError, r"use pyramid\(name"),
        (lambda: FPNConfig(backbone_config=None), ValueError, r"such as ResNetConfig\(\)"),
        (lambda: FPNConfig(backbone_config=RESNET), ValueError, "needs strides and in_features"),
        (lambda: FPN(resnet(out_indices=[1, 2]), output_stride=8), ValueError, "dilation is the backbone's"),
        (lambda: Projection(resnet(out_indices=[1, 2]), strides=(4, 16)), ValueError, "Projection cannot make stride 16"),
        (lambda: Reassemble(resnet(out_indices=[1, 2]), hidden_channels=[4]), ValueError, "one entry for each of the 4"),
    ],
)  # fmt: skip
def test_errors_teach(build: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        build()
