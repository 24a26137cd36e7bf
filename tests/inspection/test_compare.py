"""compare: equal is zero, a changed weight is found in its very module, and unlike names are matched by what they compute."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import perturb
from real import lite0, photos
from torch import nn

from vertebra import (
    AutoBackbone,
    AutoImageProcessor,
    Backbone,
    ResNetBackbone,
    ResNetConfig,
    SwinBackbone,
    SwinConfig,
    TimmBackbone,
    TimmBackboneConfig,
    compare,
)
from vertebra.inspection.compare import measure

SIZE = (32, 48)


def resnet(**kwargs: Any) -> Backbone:
    widths = {"embedding_size": 8, "hidden_sizes": [16, 32, 48], "depths": [1, 2, 1]}
    return perturb(ResNetBackbone(ResNetConfig(**{**widths, "out_indices": (1, 2, 3), **kwargs}))).eval()


def swin() -> Backbone:
    config = SwinConfig(embed_dim=12, depths=[2, 2], num_heads=[1, 2], window_size=3, out_indices=(1, 2))
    return perturb(SwinBackbone(config)).eval()


def vit() -> Backbone:
    config = TimmBackboneConfig(
        "test_vit", use_pretrained_backbone=False, out_indices=(1, 3), model_args={"img_size": SIZE}
    )
    return perturb(TimmBackbone(config)).eval()


def test_equal_backbones_differ_by_nothing() -> None:
    backbone = swin()
    found = compare(backbone, copy.deepcopy(backbone), size=SIZE)
    assert found
    assert found.ok
    assert found.first is None
    assert found.worst == ()
    assert found.by_name
    assert [(level.a, level.difference.error, level.difference.cosine) for level in found.levels] == [
        ("stage1", 0.0, 1.0),
        ("stage2", 0.0, 1.0),
    ]
    assert str(found).splitlines()[0] == "SwinBackbone and SwinBackbone on pixels 2x3x32x48: equal within 1e-05"


@pytest.mark.parametrize(
    ("backbone", "module", "weight"),
    [
        (swin(), "encoder.layers.1.blocks.0.intermediate.dense", "weight"),
        (swin(), "encoder.layers.0.blocks.1.attention.self", "relative_position_bias_table"),
        (resnet(), "encoder.stages.1.layers.1.layer.1.normalization", "running_mean"),
        (vit(), "blocks.2.attn.qkv", "bias"),
    ],
    ids=["swin", "swin-table", "resnet", "vit"],
)
def test_a_changed_weight_is_found_in_its_module(backbone: Backbone, module: str, weight: str) -> None:
    changed = copy.deepcopy(backbone)
    with torch.no_grad():
        getattr(changed.get_submodule(module), weight).mul_(1.5)
    found = compare(backbone, changed, size=SIZE)
    assert not found
    assert found.first is not None
    assert found.first.a == found.first.b == module
    assert found.first.difference.relative > found.tolerance
    assert found.worst[0].difference.relative >= found.first.difference.relative
    equal = [level.difference.error == 0.0 for level in found.levels]
    assert equal == sorted(equal, reverse=True), "levels before the change are equal to the last bit"
    assert not equal[-1]
    content = json.loads(json.dumps(found.to_dict()))
    assert content["ok"] is False
    assert content["first"]["a"] == module
    assert f"first     {module} (" in str(found)


def test_bfloat16_is_near_float32() -> None:
    backbone = resnet()
    half = copy.deepcopy(backbone).bfloat16()
    strict, loose = compare(backbone, half, size=SIZE), compare(backbone, half, size=SIZE, tolerance=0.1)
    assert not strict
    assert strict.first is not None
    assert strict.first.a == "embedder.embedder.convolution"
    assert loose.ok
    for level in strict.levels:
        assert 1e-4 < level.difference.relative < 0.1
        assert 0.99 < level.difference.cosine < 1.0


def as_timm(backbone: Backbone) -> TimmBackbone:
    """The same ResNet in timm's modules: tensors in the order of both, which is that of execution but for shortcuts."""
    config = TimmBackboneConfig("resnet18", use_pretrained_backbone=False, out_indices=(1, 2, 3, 4))
    there = TimmBackbone(config).eval()
    place = {"embedder.embedder.convolution": "conv1", "embedder.embedder.normalization": "bn1"}
    for stage in range(4):
        for block in range(2):
            here, timms = f"encoder.stages.{stage}.layers.{block}", f"layer{stage + 1}.{block}"
            for number in range(2):
                place[f"{here}.layer.{number}.convolution"] = f"{timms}.conv{number + 1}"
                place[f"{here}.layer.{number}.normalization"] = f"{timms}.bn{number + 1}"
            place[f"{here}.shortcut.convolution"] = f"{timms}.downsample.0"
            place[f"{here}.shortcut.normalization"] = f"{timms}.downsample.1"
    renamed = {}
    for key, tensor in backbone.state_dict().items():
        module, _, leaf = key.rpartition(".")
        renamed[f"{place[module]}.{leaf}"] = tensor.clone()
    there.load_state_dict(renamed)
    return there


def test_other_names_are_matched_by_what_modules_give() -> None:
    torch.manual_seed(1)
    widths = {"embedding_size": 64, "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "layer_type": "basic"}
    native = resnet(**widths, out_indices=(1, 2, 3, 4))
    for module in native.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    timms = as_timm(native)
    found = compare(native, timms, size=(64, 64))
    assert found.ok, str(found)
    assert not found.by_name
    assert found.matched >= 38  # 20 convolutions and 20 norms, of which in-place activations may hide some
    assert found.first is None
    assert [(level.a, level.b) for level in found.levels] == [(f"stage{n}", f"layer{n}") for n in (1, 2, 3, 4)]
    with torch.no_grad():
        timms.get_submodule("layer3.1.conv2").weight.mul_(1.1)
    parted = compare(native, timms, size=(64, 64))
    assert not parted.ok
    assert parted.first is not None
    assert parted.first.a.startswith("encoder.stages.2.layers.1.layer.1")
    assert parted.first.b == "layer3.1.conv2"


def test_a_checkpoint_of_transformers_loaded_twice(tmp_path: Path) -> None:
    import transformers

    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic")
    perturb(transformers.ResNetModel(config)).save_pretrained(tmp_path)
    found = compare(tmp_path, str(tmp_path), size=SIZE, out_strides=(4, 8))
    assert found.ok
    assert [level.difference.error for level in found.levels] == [0.0, 0.0]
    mixed = compare(tmp_path, tmp_path, size=SIZE, out_indices=[2], b_options={"dtype": "float16"}, tolerance=1e-2)
    assert mixed.ok
    assert mixed.levels[0].difference.error > 0


def test_images_are_prepared_by_the_first() -> None:
    files = sorted(photos().iterdir())[:2]
    backbone = AutoBackbone.from_pretrained(lite0(), out_indices=[1])
    pixels = AutoImageProcessor.from_pretrained(lite0())(
        [str(path) for path in files], return_tensors="pt"
    ).pixel_values
    changed = copy.deepcopy(backbone)
    with torch.no_grad():
        changed.blocks[0][0].conv_dw.weight.mul_(1.5)
    assert compare(backbone, changed, files) == compare(backbone, changed, pixels)
    found = compare(lite0(), backbone, files, size=(64, 96), out_indices=[1])
    assert found.ok
    assert found.pixels == (2, 3, 64, 96)
    noise = compare(backbone, changed, size=(64, 96))
    assert noise == compare(backbone, changed, size=(64, 96)), "noise has a fixed seed"


def test_measure() -> None:
    a, b = torch.tensor([3.0, -4.0]), torch.tensor([3.0, -2.0])
    found = measure(a, b)
    assert (found.error, found.relative) == (2.0, 0.5)
    assert found.cosine == pytest.approx(17 / (5 * math.sqrt(13)))
    assert not measure(a, torch.zeros(3)).within(1.0)
    assert str(measure(a, torch.zeros(3))) == "shapes 2 and 3"
    assert measure(torch.zeros(2), b).relative == math.inf
    for broken in (torch.tensor([math.nan, 1.0]), torch.tensor([math.inf, 1.0])):
        assert not measure(a, broken).within(1e9)
        assert not measure(broken, a).within(1e9)


def test_values_that_are_not_finite_are_different() -> None:
    backbone = resnet()
    broken = copy.deepcopy(backbone)
    broken.get_submodule("encoder.stages.0.layers.0.layer.0.convolution").weight.data.fill_(math.nan)
    found = compare(backbone, broken, size=SIZE)
    assert not found.ok
    assert found.first is not None
    assert found.first.a == "encoder.stages.0.layers.0.layer.0.convolution"
    assert math.isnan(found.levels[0].difference.error or 0)
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert content["levels"][0]["difference"]["error"] is None
    assert content["first"]["difference"]["shapes"] == [list(shape) for shape in found.first.difference.shapes]


def test_errors_teach(tmp_path: Path) -> None:
    backbone = resnet()
    for other, text in (
        (
            resnet(out_indices=(2, 3)),
            r"a has stage1 \(16, stride 4\), .* b has stage2 \(32, stride 8\), .*out_strides=\(8, 16",
        ),
        (resnet(hidden_sizes=[16, 32, 64]), r"b has stage1 \(16, stride 4\), .*stage3 \(64, stride 16\)"),
        (resnet(out_indices=()), "b has nothing"),
        (resnet(num_channels=1), "a takes images of 3 channels and b of 1"),
        (resnet().train(), r"b is in training mode, .* call b\.eval\(\)"),
    ):
        with pytest.raises(ValueError, match=text):
            compare(backbone, other, size=SIZE)
    with pytest.raises(TypeError, match="b is a Linear; compare takes a Backbone, or a name or folder"):
        compare(backbone, nn.Linear(1, 1))
    with pytest.raises(FileNotFoundError, match=r"'/no/cat\.png' is not an existing image file"):
        compare(backbone, backbone, ["/no/cat.png"])
    with pytest.raises(ValueError, match="a was built in code, so no image processor belongs to it"):
        compare(backbone, backbone, sorted(photos().iterdir())[:1])
    with pytest.raises(ValueError, match="images is an empty list"):
        compare(backbone, backbone, [])
    with pytest.raises(ValueError, match="a tensor of pixel values has its size"):
        compare(backbone, backbone, torch.zeros(1, 3, 8, 8), size=SIZE)
    with pytest.raises(ValueError, match="tolerance=nan must be a number of at least 0"):
        compare(backbone, backbone, tolerance=math.nan)
