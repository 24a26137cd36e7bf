"""The necks against torchvision, transformers, and the equations of their papers written out."""

from collections import OrderedDict
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import close, perturb
from torch import Tensor
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7
from transformers import DPTConfig
from transformers.models.dpt.modeling_dpt import DPTReassembleLayer

from vertebra import FPN, PAFPN, Backbone, ResNetConfig, TimmBackboneConfig, pyramid

WIDTHS = [8, 16, 32, 64]


def resnet() -> ResNetConfig:
    return ResNetConfig(embedding_size=8, hidden_sizes=WIDTHS, depths=[1, 1, 1, 1], layer_type="basic")


def vit(patch: int = 16) -> TimmBackboneConfig:
    args = {"depth": 4, "embed_dim": 32, "num_heads": 2, "patch_size": patch, "img_size": patch * 6}
    return TimmBackboneConfig("vit_tiny_patch16_224", use_pretrained_backbone=False, model_args=args)


def ready(neck: Backbone) -> Any:
    return perturb(neck, scale=0.05).eval()


def maps_below(neck: Any, pixels: Tensor) -> list[Tensor]:
    return list(neck.backbone(pixels).feature_maps)


@pytest.mark.parametrize("size", [(64, 96), (75, 101)])
@pytest.mark.parametrize(
    ("extra", "strides"), [("pool", (4, 8, 16, 32, 64)), ("conv", (4, 8, 16, 32, 64, 128)), ("conv", (8, 16, 32))]
)
@torch.no_grad()
def test_fpn_equals_torchvision(extra: str, strides: tuple[int, ...], size: tuple[int, int]) -> None:
    neck = ready(pyramid(resnet(), strides, 24, "fpn", neck_options={"extra_levels": extra}))
    blocks = {"pool": LastLevelMaxPool(), "conv": LastLevelP6P7(24, 24)}
    further = blocks[extra] if len(strides) > 4 else None
    oracle = FeaturePyramidNetwork(neck.backbone.channels, 24, further).eval()
    names = neck.stage_names
    for index in range(len(neck.inputs)):
        oracle.inner_blocks[index][0].load_state_dict(neck.lateral[names[index]][0].state_dict())
        oracle.layer_blocks[index][0].load_state_dict(neck.output[names[index]][0].state_dict())
    if extra == "conv" and further is not None:
        further.p6.load_state_dict(neck.extra["stride64"][0].state_dict())
        further.p7.load_state_dict(neck.extra["stride128"][1].state_dict())
    pixels = torch.randn(2, 3, *size)
    expected = oracle(OrderedDict(enumerate(maps_below(neck, pixels))))
    close(neck(pixels).feature_maps, tuple(expected.values()))


@torch.no_grad()
def test_pafpn_is_an_fpn_and_the_equations_of_the_paper() -> None:
    neck: PAFPN = ready(pyramid(resnet(), (4, 8, 16, 32, 64), 24, "pafpn"))
    fpn = ready(FPN(neck.backbone, strides=(4, 8, 16, 32), channels=24))
    fpn.load_state_dict({key: value for key, value in neck.state_dict().items() if key in fpn.state_dict()})
    pixels = torch.randn(2, 3, 72, 104)
    path = [fpn(pixels).feature_maps[0]]
    for name, state in zip(neck.stage_names[1:4], fpn(pixels).feature_maps[1:], strict=True):
        down, merge = neck.down[name][0], neck.merge[name][0]
        halved = F.conv2d(path[-1], down.weight, down.bias, stride=2, padding=1)
        path.append(F.conv2d(state + halved, merge.weight, merge.bias, padding=1))
    last = neck.extra["stride64"][0]
    path.append(F.conv2d(path[-1], last.weight, last.bias, stride=2, padding=1))
    close(neck(pixels).feature_maps, tuple(path))


@torch.no_grad()
def test_simple_feature_pyramid_is_vitdets_for_patches_of_16() -> None:
    neck = ready(pyramid(vit(), channels=24))
    pixels = torch.randn(2, 3, 96, 96)
    (x,) = maps_below(neck, pixels)
    weights = neck.state_dict()

    def norm(x: Tensor, name: str) -> Tensor:
        x = x - x.mean(1, keepdim=True)
        x = x / (x.square().mean(1, keepdim=True) + 1e-6).sqrt()
        return x * weights[f"{name}.weight"][:, None, None] + weights[f"{name}.bias"][:, None, None]

    def up(x: Tensor, name: str) -> Tensor:
        return F.conv_transpose2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride=2)

    def finish(x: Tensor, name: str, first: int) -> Tensor:
        x = norm(F.conv2d(x, weights[f"{name}.{first}.0.weight"]), f"{name}.{first}.1")
        return norm(F.conv2d(x, weights[f"{name}.{first + 1}.0.weight"], padding=1), f"{name}.{first + 1}.1")

    quarter = up(F.gelu(norm(up(x, "levels.stride4.0"), "levels.stride4.1")), "levels.stride4.3")
    expected = (
        finish(quarter, "levels.stride4", 4),
        finish(up(x, "levels.stride8.0"), "levels.stride8", 1),
        finish(x, "levels.stride16", 0),
        finish(F.max_pool2d(x, 2), "levels.stride32", 1),
    )
    close(neck(pixels).feature_maps, expected)


@pytest.mark.parametrize("stride", [4, 8, 16, 32])
@torch.no_grad()
def test_reassembling_equals_dpts(stride: int) -> None:
    neck = ready(pyramid(vit(), (stride,), 24, "reassemble", neck_options={"hidden_channels": [40]}))
    level = neck.levels[f"stride{stride}"]
    factor = 16 // stride if stride <= 16 else 16 / stride
    oracle = DPTReassembleLayer(DPTConfig(hidden_size=32), channels=40, factor=factor)
    oracle.projection.load_state_dict(level[0][0].state_dict())
    if factor != 1:
        oracle.resize.load_state_dict(level[1].state_dict())
    pixels = torch.randn(2, 3, 96, 96)
    state = oracle(maps_below(neck, pixels)[0])
    close(neck(pixels).feature_maps, (F.conv2d(state, level[2].weight, padding=1),))


@torch.no_grad()
def test_interpolation_and_projection_are_what_they_say() -> None:
    neck = ready(pyramid(resnet(), (2, 8, 64), 24, "interpolate"))
    pixels = torch.randn(1, 3, 128, 64)
    fine, same, coarse = maps_below(neck, pixels)

    def project(x: Tensor, name: str) -> Tensor:
        conv = neck.projection[name][0]
        return torch.einsum("oc,bchw->bohw", conv.weight[:, :, 0, 0], x) + conv.bias[:, None, None]

    expected = (
        F.interpolate(project(fine, "stride2"), scale_factor=2.0, mode="bilinear"),
        project(same, "stride8"),
        F.avg_pool2d(project(coarse, "stride64"), 2),
    )
    close(neck(pixels).feature_maps, expected)
    projected = ready(pyramid(resnet(), (8, 32), 24, "projection"))
    below = maps_below(projected, pixels)
    neck = projected
    close(neck(pixels).feature_maps, (project(below[0], "stride8"), project(below[1], "stride32")))
