"""Necks as they are put together and used: aligned sums, dtypes, loads, freezing, geometry, what is refused."""

import copy
import logging
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import timm
import tiny
import torch
from oracle import perturb, same
from torch import nn

from vertebra import (
    FPN,
    PAFPN,
    AutoBackbone,
    Interpolate,
    Projection,
    Reassemble,
    ResNetConfig,
    SimpleFeaturePyramid,
    SwinConfig,
    TimmBackboneConfig,
    pyramid,
)

RESNET = ResNetConfig(**tiny.RESNET)
SWIN = SwinConfig(embed_dim=12, depths=[1, 1, 2, 1], num_heads=[1, 2, 2, 2], window_size=4)
TIMM = TimmBackboneConfig("test_resnet", use_pretrained_backbone=False)


def resnet(**selection: Any) -> Any:
    config = copy.deepcopy(RESNET)
    for name, value in {"out_indices": [1, 2, 3, 4], **selection}.items():
        setattr(config, name, value)
    return AutoBackbone.from_config(config)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_neck_has_the_dtype_of_its_backbone(dtype: torch.dtype, tmp_path: Path) -> None:
    resnet().save_pretrained(tmp_path)
    for neck in (
        pyramid(tmp_path, channels=12, dtype=dtype, neck_options={"norm": "batch"}),
        pyramid(RESNET, (2, 4), 12, dtype=dtype),
        SimpleFeaturePyramid(resnet().to(dtype), channels=12),
    ):
        assert {parameter.dtype for parameter in neck.parameters()} == {dtype}
        maps = neck.eval()(torch.rand(1, 3, 64, 64).to(dtype)).feature_maps
        assert {level.dtype for level in maps} == {dtype}
        assert all(level.isfinite().all() for level in maps)


def test_a_neck_is_where_its_backbone_is() -> None:
    with torch.device("meta"):
        real = resnet().to_empty(device="cpu")
        assert {parameter.device.type for parameter in FPN(real).parameters()} == {"cpu"}
    assert {parameter.device.type for parameter in FPN(resnet().to("meta")).parameters()} == {"meta"}


def test_other_image_channels_reach_the_backbone_of_a_saved_neck(tmp_path: Path) -> None:
    for config in (RESNET, TIMM):
        neck = perturb(pyramid(config, channels=12)).eval()
        neck.save_pretrained(tmp_path)
        for name in ("num_channels", "in_chans"):
            gray = AutoBackbone.from_pretrained(tmp_path, **{name: 1})
            assert gray.config.num_channels == gray.backbone.config.num_channels == 1
            pixels = torch.randn(1, 1, 64, 64)
            for ours, theirs in zip(
                gray(pixels).feature_maps, neck(pixels.expand(-1, 3, -1, -1)).feature_maps, strict=True
            ):
                torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
        four = copy.deepcopy(neck.config)
        four.in_chans = 4
        assert AutoBackbone.from_config(four)(torch.randn(1, 4, 64, 64)).feature_maps[0].shape[1] == 12
    with pytest.raises(TypeError, match=r"num_channels=4 cannot change a backbone that is built.*pyramid\(name"):
        FPN(resnet(), num_channels=4)


def test_what_a_load_leaves_out_of_a_wider_backbone_is_explained(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A neck over stages of a backbone that was built further, and a neck over levels of a neck that has more."""
    over_part = FPN(resnet(), strides=(4, 8), channels=12)
    over_neck = Interpolate(FPN(resnet(), strides=(4, 8, 16, 32, 64), channels=12), strides=(8, 16))
    for neck in (over_part, over_neck):
        neck.eval().save_pretrained(tmp_path)
        with caplog.at_level(logging.WARNING, "vertebra"):
            loaded, info = AutoBackbone.from_pretrained(tmp_path, output_loading_info=True)
        assert info["unexpected_keys"]
        assert not {*info["unexpected_keys"]} - info["explained"].keys()
        assert not caplog.records
        pixels = torch.randn(1, 3, 64, 64)
        same(loaded(pixels).feature_maps, neck(pixels).feature_maps)


def test_what_is_frozen_at_the_bottom_of_two_necks_stays_so() -> None:
    top = pyramid(TIMM, (2, 4, 6), 12, freeze="layer1")
    assert (type(top), type(top.backbone)) == (Interpolate, FPN)
    bottom = top.backbone.backbone

    def awake() -> list[str]:
        top.train()
        return [
            name for name, module in bottom.named_modules() if isinstance(module, nn.BatchNorm2d) and module.training
        ]

    before, trainable = awake(), {name for name, each in top.named_parameters() if each.requires_grad}
    assert before
    assert not any(name.startswith(("bn1", "layer1")) for name in before)
    report = top.freeze()
    assert report.frozen == report.total
    assert {"backbone", "backbone.backbone"} <= {*report.modules}
    top.unfreeze()
    assert awake() == before
    assert {name for name, each in top.named_parameters() if each.requires_grad} == trainable


def test_nothing_is_built_that_no_level_needs(tmp_path: Path) -> None:
    """Parameters without a gradient stop `DistributedDataParallel`, and a load of the saved files would not have them."""
    for config, strides in ((TIMM, (4, 6, 8)), (SWIN, (2, 4)), (RESNET, (6, 48))):
        neck = pyramid(config, strides, 12, neck_options={"norm": "batch"}).train()
        torch.stack([level.sum() for level in neck(torch.rand(2, 3, 128, 128)).feature_maps]).sum().backward()
        assert not [name for name, each in neck.named_parameters() if each.grad is None]
        neck.save_pretrained(tmp_path)
        assert AutoBackbone.from_pretrained(tmp_path).state_dict().keys() == neck.state_dict().keys()


def test_the_report_and_the_card_tell_what_is_frozen_below() -> None:
    neck = pyramid(RESNET, channels=12, freeze="stage2")
    assert str(neck.frozen_report()).startswith("frozen: ")
    assert "| frozen up to | `stage2` of the backbone |" in neck.model_card("me/neck")
    neck.freeze("stride32")
    assert str(neck.frozen_report()).startswith("frozen up to stride32: ")
    assert "| frozen up to | `stride32` |" in neck.model_card("me/neck")


def test_the_card_names_what_the_backbone_came_from() -> None:
    neck = pyramid(RESNET, channels=12)
    neck.backbone.hub_id = "org/resnet"
    assert "base_model: org/resnet" in neck.model_card("me/neck")


def test_offsets_of_levels_over_timm_are_measured() -> None:
    top = pyramid(pyramid(TIMM, channels=12), (2, 8), 12, "interpolate")
    with pytest.raises(ValueError, match=r"timm does not say; backbone\.measure_offsets\(\) measures it"):
        top.backbone.stages[0].cell_to_pixel(0, 0)
    below = copy.deepcopy(top.backbone.backbone).measure_offsets()
    stride4, stride8 = (below[name] for name in top.backbone.config.in_features[:2])
    expected = {"stride2": (stride4[0] - 1, stride4[1] - 1), "stride8": stride8}
    assert top.measure_offsets(64, 96) == expected
    assert top.stages[0].offset is None  # a size of its own fills nothing in
    assert top.measure_offsets() == expected
    assert {stage.name: stage.offset for stage in top.stages} == expected
    assert {stage.name: stage.offset for stage in top.backbone.stages} == top.backbone.measure_offsets()
    top(torch.rand(1, 3, 64, 96))


@torch.no_grad()
@pytest.mark.parametrize(("strides", "size"), [((4, 8, 16, 32), (333, 517)), ((4, 16), (68, 84)), ((4, 32), (100, 68))])
@pytest.mark.parametrize("kind", [FPN, PAFPN])
def test_cells_are_added_where_they_lie(kind: type[Any], strides: tuple[int, ...], size: tuple[int, int]) -> None:
    """By sizes, which are rounded, up to half of the cells got the sum of a neighbour (ConvNeXt rounds down, so 83 become 41)."""
    backbone = AutoBackbone.from_pretrained("convnext_atto", use_pretrained_backbone=False, out_strides=strides)
    neck = kind(backbone, channels=2)
    sizes = [shape[1:] for shape in backbone.output_shapes(*size).values()]
    for projection in neck.lateral.values():  # what is projected has the position of every cell, from the edge
        nn.init.zeros_(projection[0].weight)
        nn.init.zeros_(projection[0].bias)
    maps, last = {}, neck.stages[-1]
    for stage, shape in zip(neck.stages, sizes, strict=True):
        maps[neck.config.source_of(stage.index)] = torch.zeros(1, backbone.channels[stage.index], *shape)
    neck.lateral[last.name] = nn.Identity()
    rows, columns = (torch.arange(float(n)) for n in sizes[-1])
    maps[neck.config.source_of(last.index)] = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]
    for stage, shape in zip(neck.stages, sizes, strict=True):
        found = neck.top_down(maps, 0)[stage.name][0]
        times = int(last.stride[0] / stage.stride[0])
        for axis, (cells, most) in enumerate(zip(shape, sizes[-1], strict=True)):
            expected = (torch.arange(cells) // times).clamp(max=most - 1).float()
            assert torch.equal(found[axis].amax(1 - axis), expected)
            assert torch.equal(found[axis].amin(1 - axis), expected)


def test_a_selection_changed_below_a_neck_is_refused() -> None:
    neck = pyramid(RESNET, channels=12)
    neck.backbone.out_features = ["stage1", "stage2"]
    with pytest.raises(
        ValueError, match=r"reads stage1, stage2, stage3, stage4.*selects stage1, stage2.*neck\.out_features"
    ):
        neck(torch.rand(1, 3, 64, 64))


def test_loading_options_reach_the_load_alone(tmp_path: Path) -> None:
    backbone = perturb(resnet()).eval()
    backbone.save_pretrained(tmp_path)
    options = {"ignore_mismatched_sizes": True, "use_safetensors": True, "variant": None, "key_mapping": {}}
    neck = pyramid(tmp_path, channels=12, **options)
    pixels = torch.randn(1, 3, 64, 64)
    same(neck.backbone(pixels).feature_maps, backbone(pixels).feature_maps)
    with pytest.raises(TypeError, match=r"output_loading_info=True.*AutoBackbone\.from_pretrained"):
        pyramid(tmp_path, output_loading_info=True)


EMPTY = {"out_indices": []}


@pytest.mark.parametrize(
    ("build", "error", "text"),
    [
        (lambda: pyramid(RESNET, ("4", 8)), ValueError, r"strides=\['4', 8\] holds '4', which is no stride.*8, 3.5"),
        (lambda: pyramid(RESNET, (None, 8)), ValueError, r"holds None, which is no stride"),
        (lambda: pyramid(RESNET, ((1, 2, 3), 8)), ValueError, r"holds \(1, 2, 3\), which is no stride"),
        (lambda: pyramid(RESNET, (float("nan"), 8)), ValueError, r"holds nan, which is no stride"),
        (lambda: Interpolate(resnet(), strides=(8, 4)), ValueError, "must be positive, ascending and without repeats"),
        (lambda: Interpolate(resnet(), strides=(-4, 8)), ValueError, "must be positive, ascending"),
        (lambda: Reassemble(resnet(), strides=(0, 8)), ValueError, "must be positive, ascending"),
        (lambda: Reassemble(resnet(), strides=8), ValueError, r"strides=8 must be a list or tuple"),
        (lambda: FPN(resnet(), strides=()), ValueError, r"strides=\(\) must be a list or tuple"),
        (lambda: FPN(resnet(), channels=12.5), ValueError, "channels=12.5 must be at least 1, and a whole number"),
        (lambda: FPN(resnet(), channels="12"), ValueError, "channels='12' must be at least 1, and a whole number"),
        (lambda: FPN(resnet(**EMPTY)), ValueError, "FPN is made of maps, and nothing is selected below it.*out_indices"),
        (lambda: Projection(resnet(**EMPTY)), ValueError, "Projection is made of maps"),
        (lambda: pyramid(resnet(**EMPTY)), ValueError, "is made of maps, and nothing is selected below it"),
        (lambda: pyramid(timm.create_model("test_resnet")), TypeError, "a built backbone.*got ResNet.*AutoBackbone.from_pretr"),
        (lambda: pyramid(RESNET.to_dict()), TypeError, "a configuration.*got dict"),
        (lambda: pyramid(RESNET, neck=nn.Conv2d), TypeError, "neck=.*Conv2d.*is not a neck.*derives from Neck"),
        (lambda: pyramid(RESNET, neck=FPN(resnet())), TypeError, "is not a neck.*'fpn'"),
        (lambda: pyramid(RESNET, neck=None, neck_options={"norm": "batch"}), TypeError, "neck_options.*neck=None"),
    ],
)  # fmt: skip
def test_errors_teach(build: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        build()


def test_strides_of_any_kind_of_sequence() -> None:
    for strides in (range(8, 24, 8), torch.tensor([8, 16]).numpy(), (stride for stride in (8, 16.0))):
        assert pyramid(RESNET, strides, 12).strides == [8, 16]
    assert pyramid(RESNET, (3.5, (8, 16)), 12, "interpolate").strides == [Fraction(7, 2), (8, 16)]
