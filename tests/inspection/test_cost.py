"""The cost card: FLOPs against closed forms and published figures, memory against what the CPU's allocator gave out."""

import json
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from real import photos, tiny_backbone, tiny_processor
from timm_names import SMALLEST
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from vertebra import AutoBackbone, Backbone, ResNetBackbone, ResNetConfig, SwinBackbone, SwinConfig, cost
from vertebra.extraction.extract import extract
from vertebra.inspection.cost import why_unknown
from vertebra.inspection.facts import NoDraws
from vertebra.inspection.trace import FusedAttention, Trace, is_fused

RES = {"embedding_size": 8, "hidden_sizes": [16, 32, 48], "depths": [1, 2, 1]}
SWIN = {"embed_dim": 24, "depths": [2, 2, 2], "num_heads": [2, 4, 8]}


def timm_backbone(name: str, device: str = "meta", **kwargs: Any) -> Backbone:
    with torch.device(device), NoDraws():
        return AutoBackbone.from_pretrained(name, use_timm_backbone=True, use_pretrained_backbone=False, **kwargs)


def swin(**kwargs: Any) -> Backbone:
    return SwinBackbone(SwinConfig(**{**SWIN, **kwargs})).eval()


def resnet(**kwargs: Any) -> Backbone:
    return ResNetBackbone(ResNetConfig(**{**RES, **kwargs})).eval()


# FLOPs


@pytest.mark.parametrize(
    ("module", "shape", "macs"),
    [
        (nn.Conv2d(3, 8, 5, stride=2, padding=2), (2, 3, 20, 30), 2 * 8 * 10 * 15 * 3 * 5 * 5),
        (nn.Conv2d(8, 8, 3, padding=1, groups=4), (1, 8, 9, 9), 8 * 81 * 2 * 9),
        (nn.ConvTranspose2d(6, 4, 2, stride=2), (1, 6, 5, 7), 6 * 4 * 2 * 2 * 5 * 7),
        (nn.Linear(16, 40), (3, 7, 16), 3 * 7 * 16 * 40),
        (nn.LayerNorm(16), (3, 7, 16), 0),
    ],
)
def test_flops_of_layers_are_two_per_multiply_add(module: nn.Module, shape: tuple[int, ...], macs: int) -> None:
    with torch.no_grad(), Trace() as trace:
        module.to("meta")(torch.empty(shape, device="meta"))
    assert sum(trace.flops) == 2 * macs


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_a_gradient_of_a_convolution_costs_what_the_convolution_does(groups: int, kind: type[nn.Conv2d]) -> None:
    layer = kind(8, 16, 3, groups=groups).to("meta")
    pixels = torch.empty(2, 8, 12, 10, device="meta", requires_grad=True)
    with Trace() as forward:
        result = layer(pixels)
    with Trace() as backward:
        result.sum().backward()
    assert sum(backward.flops) == 2 * sum(forward.flops)


@pytest.mark.parametrize("fused", [True, False])
def test_flops_of_attention_do_not_depend_on_the_kernel(fused: bool) -> None:
    query = torch.empty(2, 3, 50, 16, device="meta")
    key = torch.empty(2, 3, 70, 16, device="meta")
    mask = torch.empty(2, 3, 50, 70, device="meta", requires_grad=not fused)
    with torch.no_grad(), FusedAttention(), Trace() as trace:
        F.scaled_dot_product_attention(query, key, key, mask)
    assert sum(trace.flops) == 2 * 2 * (2 * 3 * 50 * 70 * 16)
    scores = 2 * 3 * 50 * 70 * 4
    held = (query, key, mask)
    assert (trace.peak_bytes() < sum(tensor.nbytes for tensor in held) + scores) == fused


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("resnet50", 4.1),
        ("vit_base_patch16_224", 17.5),
        ("swin_tiny_patch4_window7_224", 4.5),
        ("convnext_tiny", 4.5),
    ],
)
def test_published_multiply_adds(name: str, published: float) -> None:
    found = cost(timm_backbone(name), 224, 224)
    assert found.macs == pytest.approx(published * 1e9, rel=0.03)
    assert found.flops == 2 * found.macs


def test_the_native_swin_costs_what_timms_does() -> None:
    native = cost(SwinBackbone(SwinConfig(out_indices=(1, 2, 3, 4))), 224, 224)
    there = cost(timm_backbone("swin_tiny_patch4_window7_224", out_indices=(0, 1, 2, 3)), 224, 224)
    assert native.flops == pytest.approx(there.flops, rel=0.001)


# Stages


def traced(backbone: Backbone, size: tuple[int, int], **selection: Any) -> tuple[int, int, int]:
    """FLOPs, most live bytes and parameters of a backbone that really is pruned to a selection, for two images."""
    twin = backbone.twin(**selection).eval()
    with torch.no_grad(), FusedAttention(), Trace([*twin.parameters(), *twin.buffers()]) as trace:
        twin(torch.empty(2, 3, *size, device="meta"))
    return sum(trace.flops), trace.peak_bytes(), twin.num_parameters()


@pytest.mark.parametrize(
    "make",
    [
        resnet,
        swin,
        lambda: timm_backbone("test_vit", dynamic_img_size=True),
        lambda: timm_backbone("test_efficientnet"),
        lambda: timm_backbone("cs3darknet_focus_s"),
    ],
    ids=["resnet", "swin", "vit", "efficientnet", "csp"],
)
def test_stages_cost_what_pruned_backbones_cost(make: Callable[[], Backbone]) -> None:
    backbone = make()
    found = cost(backbone, 64, 96, batch=2)
    assert [row.stage for row in found.stages] == list(backbone.stages)
    shapes = backbone.twin(out_indices=range(len(backbone.stages))).output_shapes(64, 96)
    for row in found.stages:
        flops, _, parameters = traced(backbone, (64, 96), out_indices=[row.stage.index])
        _, peak, _ = traced(backbone, (64, 96), out_indices=range(row.stage.index + 1))
        assert (row.flops, row.parameters, row.peak_bytes) == (flops, parameters, peak)
        assert row.map_shape == shapes[row.stage.name]
        assert row.map_bytes == 2 * 4 * row.map_shape[0] * row.map_shape[1] * row.map_shape[2]
        assert row.selected == (row.stage.index in backbone.selected)
    assert sum(row.own_flops for row in found.stages) == found.stages[-1].flops
    assert cost(backbone, 64, 96).flops * 2 == found.flops


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLEST.values())
def test_stages_of_every_class_of_timm(name: str) -> None:
    backbone = timm_backbone(name)
    if why_unknown(backbone):
        return
    size = backbone.native_size
    found = cost(backbone, *size, batch=2)
    for index in sorted({0, len(found.stages) // 2, len(found.stages) - 1}):
        row = found.stages[index]
        flops, _, parameters = traced(backbone, size, out_indices=[index])
        _, peak, _ = traced(backbone, size, out_indices=range(index + 1))
        idle = 0.25 if "gradients" in backbone.exceptions else 0.0  # what a pruned backbone computes for nothing
        assert flops * (1 - idle) <= row.flops <= flops
        assert parameters * (1 - idle) <= row.parameters <= parameters
        assert row.peak_bytes == pytest.approx(peak, rel=0.02)


def test_stages_that_an_image_is_too_small_for_have_no_row() -> None:
    backbone = timm_backbone("inception_v3", out_indices=[0])
    found = cost(backbone, 40, 40)
    assert 1 <= len(found.stages) < len(backbone.stages)
    assert found.stages[0].selected


# Memory


def allocated(backbone: Backbone, pixels: Tensor, training: bool) -> int:
    """Most bytes that torch's CPU allocator had given out at once during a run, the pixels included."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        with torch.set_grad_enabled(training):
            maps = backbone(pixels, return_dict=True).feature_maps
        if training:
            torch.autograd.backward(maps, [torch.zeros_like(level) for level in maps])
        del maps
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = most = pixels.nbytes
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return most


BASIC = {"embedding_size": 64, "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "layer_type": "basic"}
NETS: dict[str, tuple[int, Callable[[], Backbone]]] = {
    "resnet-96": (96, lambda: resnet(**BASIC, out_indices=[1, 2, 3, 4])),
    "lite0": (224, lambda: timm_backbone("efficientnet_lite0", "cpu")),
    "vgg": (96, lambda: timm_backbone("vgg11", "cpu")),
    "regnet": (128, lambda: timm_backbone("regnetx_002", "cpu")),
    "resnet": (224, lambda: resnet(**BASIC, out_indices=[1, 2, 3, 4])),
    "swin": (96, lambda: swin(out_indices=[1, 2, 3])),
    "vit": (96, lambda: timm_backbone("vit_tiny_patch16_224", "cpu", img_size=96)),
    "timm-swin": (96, lambda: timm_backbone("swin_tiny_patch4_window7_224", "cpu", img_size=96, embed_dim=24)),
    "convnext": (224, lambda: timm_backbone("convnext_atto", "cpu")),
    "efficientnet": (224, lambda: timm_backbone("efficientnet_b0", "cpu")),
    "mobilenet": (224, lambda: timm_backbone("mobilenetv3_small_100", "cpu")),
}


@pytest.mark.parametrize("name", NETS)
def test_most_live_bytes_are_what_the_allocator_gave_out(name: str) -> None:
    """OneDNN's convolutions copy into memory from the same allocator; in channels_last the weights alone."""
    side, make = NETS[name]
    backbone, pixels = make(), torch.rand(2, 3, side, side)
    found = cost(backbone, side, side, batch=2)
    assert found.peak_bytes <= found.cpu_peak_bytes
    assert found.cpu_peak_bytes == pytest.approx(allocated(backbone, pixels, training=False), rel=0.1)
    if name in ("convnext", "efficientnet", "mobilenet"):
        backbone, pixels = backbone.to(memory_format=torch.channels_last), pixels.to(memory_format=torch.channels_last)
        assert found.peak_bytes == pytest.approx(allocated(backbone, pixels, training=False), rel=0.01)


@pytest.mark.parametrize("name", sorted(NETS.keys() - {"convnext"}))
def test_training_memory_is_what_the_allocator_gave_out(name: str) -> None:
    """But for ConvNeXt: oneDNN's gradient of a depthwise convolution in channels_last takes 16 MB, whatever the image."""
    side, make = NETS[name]
    backbone = make().train()
    found = cost(backbone, side, side, batch=2, training=True)
    assert found.training
    pixels = torch.rand(2, 3, side, side)
    assert found.cpu_peak_bytes == pytest.approx(allocated(backbone, pixels, training=True), rel=0.1)
    forward = cost(backbone, side, side, batch=2)
    assert 2 * forward.flops < found.flops < 3.1 * forward.flops
    assert found.stages == forward.stages


COPIES = {
    "3x3": ((2, 64, 24, 24), {"kernel_size": 3, "padding": 1}),
    "strided": ((2, 64, 24, 24), {"kernel_size": 3, "stride": 2, "padding": 1}),
    "stem": ((2, 3, 96, 96), {"kernel_size": 3, "stride": 2, "padding": 1}),
    "small image": ((2, 64, 3, 3), {"kernel_size": 3, "padding": 1}),
    "depthwise": ((2, 64, 24, 24), {"kernel_size": 3, "padding": 1, "groups": 64}),
    "1x1": ((2, 64, 24, 24), {"kernel_size": 1}),
}


@pytest.mark.parametrize("case", COPIES)
def test_copies_of_convolutions(case: str) -> None:
    shape, options = COPIES[case]
    layer, pixels = nn.Conv2d(shape[1], 64, bias=False, **options), torch.rand(shape)
    with torch.no_grad():
        layer(pixels)
        with Trace([layer.weight]) as trace:
            layer(pixels)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            layer(pixels)
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    taken = max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))
    assert trace.peak_bytes(copies=True) == pytest.approx(pixels.nbytes + taken, rel=0.05)


def test_what_is_frozen_costs_less_to_train() -> None:
    backbone = resnet(out_indices=[3])
    free = cost(backbone, 64, 64, batch=2, training=True)
    backbone.freeze(upto="stage2")
    frozen = cost(backbone, 64, 64, batch=2, training=True)
    assert frozen.peak_bytes < 0.8 * free.peak_bytes
    assert frozen.flops < free.flops
    assert cost(backbone.freeze() and backbone, 64, 64, training=True).flops == cost(backbone, 64, 64).flops


def test_dtypes() -> None:
    backbone = resnet()
    single, half = cost(backbone, 64, 64), cost(backbone, 64, 64, dtype="bfloat16")
    assert cost(backbone.half(), 64, 64).dtype == torch.float16
    assert single.weight_bytes == sum(tensor.nbytes for tensor in backbone.float().state_dict().values())
    assert half.peak_bytes == pytest.approx(single.peak_bytes / 2, rel=0.2)  # indices of the max pooling stay int64
    assert half.flops == single.flops
    assert half.stages[-1].map_bytes * 2 == single.stages[-1].map_bytes


IS_FUSED = [
    ((1, 2, 5, 8), (1, 2, 5, 8), None, False),
    ((1, 2, 5, 8), (1, 2, 5, 8), (5, 5), False),
    ((2, 2, 5, 8), (2, 2, 7, 8), (1, 1, 5, 7), False),
    ((2, 2, 5, 8), (2, 2, 7, 8), (2, 2, 5, 7), True),
    ((2, 2, 5, 8), (2, 2, 7, 8), (2, 5, 7), False),
    ((2, 2, 5, 8), (1, 2, 5, 8), None, False),
]


@pytest.mark.parametrize(("query", "key", "mask", "grad"), IS_FUSED)
def test_attention_is_fused_where_the_cpu_fuses_it(query: Any, key: Any, mask: Any, grad: bool) -> None:
    left, right = torch.rand(query), torch.rand(key)
    bias = None if mask is None else torch.zeros(mask, requires_grad=grad)
    choice = torch._fused_sdp_choice(left, right, right, bias)
    assert is_fused(left, right, right, bias) == (choice != torch.nn.attention.SDPBackend.MATH.value)


# The largest batch, and the disk


@pytest.mark.parametrize(("make", "training"), [(resnet, True), (swin, False)], ids=["resnet", "swin"])
def test_the_largest_batch_fits_and_the_next_does_not(make: Callable[[], Backbone], training: bool) -> None:
    found = cost(make(), 64, 96, batch=2, training=training)
    batch = found.largest_batch(10**9)
    assert found.memory_at(batch) <= 10**9 < found.memory_at(batch + 1)
    assert found.largest_batch(found.memory_at(5) - 1) == 4
    assert cost(make(), 64, 96, batch=5, training=training).memory_bytes == found.memory_at(5)
    assert found.largest_batch(found.memory_at(5)) == 5
    assert found.largest_batch(found.weight_bytes) == 0
    assert found.largest_batch(0) == 0
    with pytest.raises(ValueError, match=r"budget_bytes=-1 must be a number of bytes from 0, e\.g\. 16 \* 10\*\*9"):
        found.largest_batch(-1)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_disk_bytes_are_what_extract_writes(dtype: str, tmp_path: Path) -> None:
    backbone = tiny_backbone(out_indices=[0, 2])
    done = extract(photos(), tmp_path / "out", backbone, tiny_processor(), dtype=dtype, progress=False)
    sizes = cost(backbone, 32, 48).disk_bytes(done.extracted, dtype)
    assert list(sizes) == ["stem", "stage2"]
    assert sum(sizes.values()) < done.size_bytes < sum(sizes.values()) + 2000
    with pytest.raises(ValueError, match="dtype='int8' must be a floating-point dtype"):
        cost(backbone, 32, 48).disk_bytes(1, "int8")


# What it is as an object, and errors


def test_it_prints_and_is_json() -> None:
    backbone = resnet(out_indices=[1, 3])
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    found = cost(backbone, 64, 96, batch=4)
    content = json.loads(json.dumps(found.to_dict()))
    assert content["macs"] * 2 == content["flops"]
    assert [row["selected"] for row in content["stages"]] == [False, True, False, True]
    lines = str(found).splitlines()
    assert lines[0] == "cost        a forward of 4 images of 64x96, float32"
    assert lines[4].startswith("* stage1")
    assert lines[-1].endswith("on a CPU, whose convolutions copy); workspace of other kernels not counted")
    assert "GFLOP" in lines[-2]
    training = str(cost(backbone, 64, 96, training=True))
    assert "a forward and a backward of 1 image of 64x96, float32; the rows are of a forward alone" in training
    assert training.endswith("workspace of other kernels and optimizers not counted")
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_errors_teach() -> None:
    backbone = resnet()
    with pytest.raises(ValueError, match="batch=0 must be a whole number of at least 1"):
        cost(backbone, 64, 64, batch=0)
    with pytest.raises(ValueError, match=r"batch=2\.5 must be a whole number of at least 1"):
        cost(backbone, 64, 64, batch=2.5)
    with pytest.raises(ValueError, match="An image of -32x64 has no pixels"):
        cost(backbone, -32, 64)
    with pytest.raises(TypeError, match=r"cost takes a Backbone, got Linear; AutoBackbone\.from_pretrained"):
        cost(nn.Linear(2, 2), 64, 64)
    with pytest.raises(ValueError, match="dtype='int8' must be a floating-point dtype"):
        cost(backbone, 64, 64, dtype="int8")
    with pytest.raises(ValueError, match="An image of 0x64 has no pixels"):
        cost(resnet(size_policy="pad"), 0, 64)
    with pytest.raises(ValueError, match=r"Gemma4Vit.* is not known: its forward reads values, .* Only a run on real"):
        cost(timm_backbone("gemma4_vit_167m"), 96, 144)
