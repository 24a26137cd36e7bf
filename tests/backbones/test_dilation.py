"""Dilation against torchvision, timm, and the rule itself: every tap keeps its place on the image."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from oracle import close, perturb, same
from timm_names import SMALLEST
from torch import Tensor, nn

from vertebra import AutoBackbone, AutoModel, ResNetBackbone, ResNetConfig, ResNetModel, SwinBackbone, SwinConfig
from vertebra.backbones.dilation import DilatedAvgPool, dilate
from vertebra.backbones.timm_backbone import TimmBackbone, TimmBackboneConfig
from vertebra.inspection.verify import verify

TINY = {"embedding_size": 8, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 2, 2, 3], "out_indices": [0, 1, 2, 3, 4]}
LAYOUTS: dict[str, dict[str, Any]] = {
    "bottleneck": {},
    "basic": {"layer_type": "basic"},
    "v1": {"downsample_in_bottleneck": True},
    "first": {"downsample_in_first_stage": True},
}
# timm 1.0.31, measured: these 12 of its 97 classes take 8 and 16; `numeric` ones run on the CPU below
DILATING = "ByobNet ConvNeXt CspNet CspNext EfficientNet MetaNeXt NormFreeNet RegNet ResNet ResNetV2 RexNet XceptionAligned".split()
NUMERIC = ("test_resnet", "regnetx_002", "test_efficientnet")


def build(**kwargs: Any) -> ResNetBackbone:
    """The same weights whatever is dilated."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return perturb(ResNetBackbone(ResNetConfig(**{**TINY, **kwargs}))).eval()


def as_torchvision(name: str) -> str:
    """The name that torchvision gives a parameter of our ResNet-50."""
    name = re.sub(r"^embedder\.embedder\.convolution", "conv1", name)
    name = re.sub(r"^embedder\.embedder\.normalization", "bn1", name)
    stage = re.match(r"encoder\.stages\.(\d+)\.layers\.(\d+)\.(.*)", name)
    if stage is None:
        return name
    rest = re.sub(r"layer\.(\d)\.convolution", lambda found: f"conv{int(found[1]) + 1}", stage[3])
    rest = re.sub(r"layer\.(\d)\.normalization", lambda found: f"bn{int(found[1]) + 1}", rest)
    rest = rest.replace("shortcut.convolution", "downsample.0").replace("shortcut.normalization", "downsample.1")
    return f"layer{int(stage[1]) + 1}.{stage[2]}.{rest}"


@pytest.mark.parametrize(("output_stride", "replaced"), [(8, [False, True, True]), (16, [False, False, True])])
def test_resnet_50_equals_torchvision_and_timm(output_stride: int, replaced: list[bool]) -> None:
    ours = perturb(
        ResNetBackbone(ResNetConfig(output_stride=output_stride, out_indices=[1, 2, 3, 4])), scale=0.01
    ).eval()
    weights = {as_torchvision(name): tensor for name, tensor in ours.state_dict().items()}
    pixels = torch.randn(1, 3, 97, 75)
    theirs = torchvision.models.resnet50(replace_stride_with_dilation=replaced).eval()
    assert not theirs.load_state_dict(weights, strict=False).unexpected_keys
    body = torchvision.models._utils.IntermediateLayerGetter(theirs, {f"layer{n}": str(n) for n in range(1, 5)})
    plain = timm.create_model("resnet50", output_stride=output_stride).eval()
    assert not plain.load_state_dict(weights, strict=False).unexpected_keys
    with torch.no_grad():
        maps = ours(pixels).feature_maps
        close(list(maps), list(body(pixels).values()), tol=1e-5)
        close(list(maps), plain.forward_intermediates(pixels, indices=[1, 2, 3, 4], intermediates_only=True), tol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("output_stride", [8, 16])
def test_a_dilated_map_holds_the_map_without_dilation(layout: str, output_stride: int) -> None:
    usual, dilated = build(**LAYOUTS[layout]), build(**LAYOUTS[layout], output_stride=output_stride)
    assert dilated.strides == [min(stride, output_stride) for stride in usual.strides]
    assert [stage.offset for stage in dilated.stages] == [stage.offset for stage in usual.stages]
    assert dilated.size_divisor == output_stride
    assert list(dilated.state_dict()) == list(usual.state_dict())
    pixels = torch.randn(2, 3, 97, 130)
    with torch.no_grad():
        few, many = usual(pixels).feature_maps, dilated(pixels).feature_maps
    steps = [there // here for there, here in zip(usual.strides, dilated.strides, strict=True)]
    close([fine[..., ::step, ::step] for fine, step in zip(many, steps, strict=True)], list(few), tol=1e-5)
    shapes = {name: tuple(found.shape[1:]) for name, found in zip(dilated.out_features, many, strict=True)}
    assert dilated.output_shapes(97, 130) == shapes


@pytest.mark.parametrize("layout", LAYOUTS)
def test_dilated_backbones_keep_the_contract(layout: str) -> None:
    verify(build(**LAYOUTS[layout], output_stride=8)).raise_if_failed()


def test_32_and_none_change_nothing() -> None:
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        usual = build()(pixels).feature_maps
        same(list(build(output_stride=32)(pixels).feature_maps), list(usual))
    assert SwinConfig(output_stride=32).output_stride == 32


def test_other_selections_and_hidden_states_agree() -> None:
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        everything = build(output_stride=8)(pixels, output_hidden_states=True)
        pruned = ResNetBackbone(ResNetConfig(**{**TINY, "out_indices": [3]}, output_stride=8)).eval()
        pruned.load_state_dict(build().state_dict(), strict=False)
        same(pruned(pixels).feature_maps[0], everything.feature_maps[3])
    same(list(everything.hidden_states), list(everything.feature_maps))


def test_by_stride_the_deepest_map_is_taken() -> None:
    assert build(output_stride=8, out_indices=None, out_strides=(4, 8)).out_features == ["stage1", "stage4"]


def test_checkpoints_load_save_and_open_elsewhere(tmp_path: Path) -> None:
    import transformers

    usual = build()
    usual.save_pretrained(tmp_path / "usual")
    loaded, info = AutoBackbone.from_pretrained(tmp_path / "usual", output_stride=8, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    loaded.save_pretrained(tmp_path / "dilated")
    written = json.loads((tmp_path / "dilated" / "config.json").read_text())
    assert written["vertebra"]["output_stride"] == 8
    assert "output_stride" not in written
    assert "vertebra" not in json.loads((tmp_path / "usual" / "config.json").read_text())
    again = AutoBackbone.from_pretrained(tmp_path / "dilated")
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        same(list(again(pixels).feature_maps), list(build(output_stride=8)(pixels).feature_maps))
        theirs = transformers.ResNetBackbone.from_pretrained(tmp_path / "dilated")
        close(list(theirs(pixels).feature_maps), list(usual(pixels).feature_maps), tol=1e-5)
        back = AutoBackbone.from_pretrained(tmp_path / "dilated", output_stride=None)
        same(list(back(pixels).feature_maps), list(usual(pixels).feature_maps))


def test_models_without_maps_dilate_too(tmp_path: Path) -> None:
    perturb(ResNetModel(ResNetConfig(**TINY))).save_pretrained(tmp_path)
    model = AutoModel.from_pretrained(tmp_path, output_stride=8)
    assert model(torch.randn(1, 3, 64, 64)).last_hidden_state.shape[-2:] == (8, 8)


def test_swin_is_explained(tmp_path: Path) -> None:
    SwinBackbone(SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[1, 2])).save_pretrained(tmp_path)
    text = (
        r"output_stride=8 is not possible here: Swin halves its map by patch merging, .* windows would see another part .* "
        r"What works instead: a neck that resamples maps, pyramid\(name, strides=\(8,\)\); or a backbone that dilates: "
        r"microsoft/resnet-50, or timm's ResNet"
    )
    for load in (AutoBackbone.from_pretrained, AutoModel.from_pretrained):
        with pytest.raises(ValueError, match=text):
            load(tmp_path, output_stride=8)
    config = SwinConfig()
    config.output_stride = 16
    with pytest.raises(ValueError, match=r"output_stride=16 is not possible here: Swin halves"):
        SwinBackbone(config)


@pytest.mark.parametrize("value", [4, 64, 12, "8", True, 0])
def test_other_values_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=rf"output_stride={value!r} must be one of 8, 16(,| and) 32"):
        ResNetConfig(output_stride=value)
    with pytest.raises(ValueError, match=rf"output_stride={value!r} must be one of"):
        TimmBackboneConfig("resnet18", output_stride=value)


def test_a_stem_that_is_too_coarse_is_explained() -> None:
    class Coarse(ResNetBackbone):
        def describe_stages(self) -> Any:
            for stage in super().describe_stages():
                yield stage.resampled(stage.name, stage.index, stage.channels, tuple(4 * hop for hop in stage.stride))

    with pytest.raises(ValueError, match="output_stride=8 is finer than 'stem', the first stage, which has stride 16"):
        Coarse(ResNetConfig(**TINY, output_stride=8))


class Other(nn.Module):
    """A stage as other convolutional families have it: an even kernel or a mean that halves, then a wide one."""

    def __init__(self, kind: str, stride: int) -> None:
        super().__init__()
        halves = {
            "even": nn.Conv2d(4, 4, stride, stride),
            "mean": nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False),
            "depthwise": nn.Conv2d(4, 4, 3, stride, 1, groups=4),
        }
        self.halve = halves[kind] if stride > 1 else nn.Identity()
        self.mix = nn.Conv2d(4, 4, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.halve(x))


@pytest.mark.parametrize(("kind", "size"), [("even", (64, 96)), ("mean", (61, 83)), ("depthwise", (61, 83))])
@pytest.mark.parametrize("output_stride", [4, 8, 16])
def test_stages_of_other_families_in_one_line(kind: str, size: tuple[int, int], output_stride: int) -> None:
    """Kernels as ConvNeXt, the vd variants of ResNet and HGNet have them; the rule above is the oracle."""
    strides = [1, 2, 2, 2]

    def chain() -> nn.Sequential:
        torch.manual_seed(3)
        return nn.Sequential(*(Other(kind, stride) for stride in strides)).double()

    usual, dilated = chain(), chain()
    dilate(dilated, strides, output_stride, start=4)
    assert list(dilated.state_dict()) == list(usual.state_dict())
    x = torch.randn(1, 4, *size, dtype=torch.float64)
    few, many = usual(x), dilated(x)
    assert many.shape[-1] == -(-size[1] // (output_stride // 4))
    step = 32 // output_stride
    close(many[..., ::step, ::step], few, tol=1e-12)
    assert sum(isinstance(module, DilatedAvgPool) for module in dilated.modules()) == (
        step.bit_length() - 1 if kind == "mean" else 0
    )


class TestTimm:
    @pytest.mark.parametrize("kind", DILATING)
    def test_levels_follow_in_every_class_that_dilates(self, kind: str) -> None:
        for output_stride in (8, 16):
            with torch.device("meta"):
                backbone = TimmBackbone(TimmBackboneConfig(SMALLEST[kind], output_stride=output_stride, prune=False))
                states = backbone.eval()(torch.empty(1, 3, 256, 256), output_hidden_states=True).hidden_states
            strides = [stage.stride[0] for stage in backbone.stages]
            assert max(strides) == output_stride
            assert [256 // state.shape[-1] for state in states] == strides

    @pytest.mark.parametrize("name", NUMERIC)
    def test_weights_are_those_without_dilation(self, name: str) -> None:
        usual = perturb(timm.create_model(name), scale=0.01).eval()
        last = len(usual.feature_info) - 1
        theirs = timm.create_model(name, output_stride=8).eval()
        theirs.load_state_dict(usual.state_dict())
        config = TimmBackboneConfig(name, output_stride=8, use_pretrained_backbone=False, out_indices=[last - 1, last])
        ours = TimmBackbone(config).eval()
        ours.load_state_dict({k: v for k, v in usual.state_dict().items() if k in ours.state_dict()})
        pixels = torch.randn(1, 3, 96, 64)
        with torch.no_grad():
            expected = theirs.forward_intermediates(
                pixels, indices=[last - 1, last], norm=False, intermediates_only=True
            )
            close(list(ours(pixels).feature_maps), expected, tol=1e-6)
        assert ours.strides == [8, 8]

    def test_the_key_stays_where_transformers_has_it(self) -> None:
        written = TimmBackboneConfig("resnet18", output_stride=16).to_dict()
        assert written["output_stride"] == 16
        assert "vertebra" not in written

    @pytest.mark.parametrize(
        ("kind", "why"),
        [
            (
                "SwinTransformer",
                r"swin_tiny_patch4_window7_224 .* \(swin_transformer\) does not dilate to that: it merges cells",
            ),
            ("VisionTransformer", "its stride comes from cutting the image into patches"),
            ("HighResolutionNet", "its branches join maps of several strides"),
            ("VGG", "timm wrote it for its own strides alone"),
            ("MobileNetV3", "timm wrote it for its own strides alone"),
        ],
    )
    def test_refusals_are_explained(self, kind: str, why: str) -> None:
        with torch.device("meta"), pytest.raises(ValueError, match=rf"(?s){why}.*What works instead: a neck"):
            TimmBackbone(TimmBackboneConfig(SMALLEST[kind], output_stride=8))

    @pytest.mark.slow
    def test_every_class_dilates_or_says_why(self) -> None:
        for kind, name in SMALLEST.items():
            for output_stride in (8, 16):
                with torch.device("meta"):
                    if kind in DILATING:
                        TimmBackbone(TimmBackboneConfig(name, output_stride=output_stride))
                    else:
                        with pytest.raises(ValueError, match=r"does not dilate to that: .* What works instead"):
                            TimmBackbone(TimmBackboneConfig(name, output_stride=output_stride))

    def test_32_is_what_all_have_but_those_that_go_further(self) -> None:
        with torch.device("meta"):
            assert TimmBackbone(TimmBackboneConfig("vgg11", output_stride=32)).strides == [32]
            assert TimmBackbone(TimmBackboneConfig("test_vit", output_stride=32)).strides == [16]
            with pytest.raises(ValueError, match=r"shvit_s1 cannot be built with output_stride=32"):
                TimmBackbone(TimmBackboneConfig("shvit_s1", output_stride=32))
