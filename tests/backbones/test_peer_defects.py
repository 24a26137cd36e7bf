"""What was measured to go wrong in the peers, each shown there first and then not to happen here."""

import pytest
import timm
import timm.optim
import torch
import torchvision
from oracle import close, perturb, same
from torch import nn

from vertebra import AutoBackbone, ResNetBackbone, ResNetConfig, TimmBackbone, TimmBackboneConfig, pyramid, verify
from vertebra.backbones.bridges.torchvision import to_torchvision

SWIN = "swin_tiny_patch4_window7_224"


def ours(name: str, **options: object) -> TimmBackbone:
    backbone: TimmBackbone = AutoBackbone.from_pretrained(name, use_pretrained_backbone=False, **options)
    return backbone


def test_maps_come_in_another_order_than_asked() -> None:
    """Timm's wrapper describes `[3, 1]` in that order and returns `[1, 3]`; here it is refused."""
    theirs = timm.create_model("test_vit", features_only=True, out_indices=[3, 1])
    described = theirs.feature_info.module_name()
    assert described == ["blocks.3", "blocks.1"]
    pixels = torch.randn(1, 3, 160, 160)
    ascending = timm.create_model("test_vit", features_only=True, out_indices=[1, 3])
    ascending.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        same(tuple(theirs.eval()(pixels)), tuple(ascending.eval()(pixels)))
    with pytest.raises(ValueError, match=r"feature maps always come in stage order, so write out_indices=\[1, 3\]"):
        ours("test_vit", out_indices=[3, 1])


def test_channels_last_maps_leak_out() -> None:
    theirs = timm.create_model(SWIN, features_only=True, out_indices=[0]).eval()
    backbone = ours(SWIN, out_indices=[0]).eval()
    size = backbone.native_size
    with torch.no_grad():
        assert theirs(torch.zeros(1, 3, *size))[0].shape[-1] == theirs.feature_info.channels()[0]
        assert backbone(torch.zeros(1, 3, *size)).feature_maps[0].shape[1] == backbone.channels[0]


def test_parameter_names_change_with_the_selection() -> None:
    plain = set(timm.create_model("test_convnext").state_dict())
    wrapped = set(timm.create_model("test_convnext", features_only=True).state_dict())
    assert not wrapped & plain
    for indices in ([0], [3], [0, 3]):
        assert set(ours("test_convnext", out_indices=indices).state_dict()) <= plain


def test_layer_decay_is_dropped() -> None:
    theirs = timm.create_model("test_vit", features_only=True)
    scales = {group["lr_scale"] for group in timm.optim.param_groups_layer_decay(theirs, layer_decay=0.5)}
    assert scales == {1.0}
    assert len({group["lr"] for group in ours("test_vit").param_groups(1.0, layer_decay=0.5)}) > 5


def test_norm_statistics_move_while_frozen() -> None:
    pixels = torch.randn(4, 3, 64, 64)
    theirs = timm.create_model("test_resnet", features_only=True).requires_grad_(False).eval()
    before = theirs.bn1.running_mean.clone()
    nn.Sequential(theirs).train()(pixels)
    assert not torch.equal(theirs.bn1.running_mean, before)
    backbone = ours("test_resnet")
    backbone.freeze()
    before = backbone.bn1.running_mean.clone()
    for module in (nn.Sequential(backbone), backbone, *backbone.modules()):
        module.train()
    backbone(pixels)
    same(backbone.bn1.running_mean, before)


def test_a_flat_transformer_passes_for_a_pyramid() -> None:
    theirs = timm.create_model("test_vit", features_only=True, out_indices=(0, 1, 2, 3)).eval()
    pixels = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        assert {tuple(level.shape[-2:]) for level in theirs(pixels)} == {(10, 10)}
        model = pyramid("test_vit", channels=8, use_pretrained_backbone=False)
        assert [level.shape[-1] for level in model(pixels).feature_maps] == [40, 20, 10, 5]


def test_patches_of_14_make_no_pyramid() -> None:
    """Strides of 14 are no powers of two: region pooling that guesses them, as torchvision's does, is off by 14 %."""
    args = {"depth": 2, "embed_dim": 24, "num_heads": 2, "patch_size": 14, "img_size": 224}
    config = TimmBackboneConfig("vit_tiny_patch16_224", use_pretrained_backbone=False, model_args=args)
    levels = {"0": torch.zeros(1, 8, 16, 16)}
    pool = torchvision.ops.MultiScaleRoIAlign(["0"], 1, 1)
    boxes = [torch.tensor([[0.0, 0.0, 224.0, 224.0]])]
    pool(levels, boxes, [(224, 224)])
    assert pool.scales == [1 / 16]
    model = pyramid(config, channels=32)
    maps = to_torchvision(model)(torch.zeros(1, 3, 224, 224))
    assert [level.shape[-1] for level in maps.values()] == [56, 28, 14, 7]
    assert verify(model, (224, 224))


def test_rounded_sizes_move_the_cells() -> None:
    """518 pixels are 37 patches of 14; a ratio of map sizes takes 16 cells of 32 for them and ends 6 pixels off."""
    line = (torch.arange(37.0) * 14 + 7).expand(1, 1, 37, 37)
    rounded = nn.functional.interpolate(line, size=(16, 16), mode="bilinear")[0, 0, 0]
    centres = torch.arange(16.0) * 32 + 16
    assert (rounded - centres).abs().max() > 5
    args = {"depth": 1, "embed_dim": 24, "num_heads": 2, "patch_size": 14, "img_size": 518}
    config = TimmBackboneConfig("vit_tiny_patch16_224", use_pretrained_backbone=False, model_args=args)
    resized = pyramid(config, (32,), None, "interpolate").resize["stride32"](line)[0, 0, 0]
    close(resized[1:15], centres[1:15])


def test_a_selection_that_nobody_made_is_kept_from_the_rest_of_the_network() -> None:
    """Transformers computes and loads all stages for the first one alone; here the rest is not even built."""
    backbone = perturb(ResNetBackbone(ResNetConfig(depths=[1, 1, 1, 1], out_indices=[1])))
    assert not [name for name in backbone.state_dict() if name.startswith("encoder.stages.1")]
