"""What engines compute beside the plain models: every engine, many kinds of model."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mask2former_cases
import maskformer_cases
import pytest
import torch
from engine_cases import optimized, probe, resnet, swin, upernet
from oracle import close, perturb, same

from vertebra import (
    AutoBackbone,
    CLIPVisionConfig,
    Dinov2WithRegistersConfig,
)


@pytest.fixture(scope="module")
def short() -> tuple[Any, Any]:
    """A plain backbone, and what OpenVINO makes of it; tests do not change them."""
    plain = resnet(out_indices=[1])
    return plain, optimized(plain, "openvino")


SHAPES = ((1, 3, 32, 32), (3, 3, 32, 32), (2, 3, 45, 37))
SLOW = pytest.mark.slow  # a graph takes an engine seconds, Inductor some ten


@pytest.mark.parametrize(
    ("build", "backend", "shapes"),
    [
        (swin, "openvino", SHAPES[2:]),
        (resnet, "openvino", SHAPES[:2]),
        (resnet, "onnxruntime", SHAPES[1:2]),
        pytest.param(swin, "openvino", SHAPES, marks=SLOW),
        pytest.param(resnet, "onnxruntime", SHAPES, marks=SLOW),
        (resnet, "inductor", SHAPES[:1]),
        pytest.param(swin, "onnxruntime", SHAPES, marks=SLOW),
        pytest.param(swin, "inductor", SHAPES, marks=SLOW),
        pytest.param(resnet, "inductor", SHAPES, marks=SLOW),
    ],
)
def test_maps_are_those_of_the_plain_model(build: Callable[[], Any], backend: str, shapes: Any) -> None:
    torch._dynamo.reset()
    plain = build()
    fast = optimized(plain, backend)
    for shape in shapes:
        pixels = torch.randn(shape)
        with torch.no_grad():
            close(fast(pixels).feature_maps, plain(pixels).feature_maps)
    assert fast.optimization.backend == backend
    assert fast.optimization.error < 1e-5


@pytest.mark.parametrize("backend", ["openvino", pytest.param("inductor", marks=SLOW)])
def test_bfloat16_is_near_and_says_how_near(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    torch._dynamo.reset()
    plain, pixels = resnet(), torch.randn(2, 3, 32, 32)
    fast = optimized(plain, backend, dtype="bfloat16", verbose=True)
    assert f"{backend} in bfloat16 for images of 1x3x32x32; differs from the plain model by" in capsys.readouterr().err
    with torch.no_grad():
        for mine, its in zip(fast(pixels).feature_maps, plain(pixels).feature_maps, strict=True):
            assert mine.dtype == torch.float32
            assert 1e-5 * its.abs().max() < (mine - its).abs().max() < 3e-2 * its.abs().max()
    assert 1e-5 < fast.optimization.error < 3e-2


TRANSFORMER = {"hidden_size": 16, "num_attention_heads": 2, "image_size": 32, "patch_size": 8, "out_indices": [1]}


@pytest.mark.parametrize("config", [Dinov2WithRegistersConfig, pytest.param(CLIPVisionConfig, marks=SLOW)])
def test_positions_are_resized_as_by_torch(config: Callable[..., Any]) -> None:
    """OpenVINO has no bicubic resize with antialiasing; the one without is off at some sizes."""
    plain = perturb(AutoBackbone.from_config(config(num_hidden_layers=1, **TRANSFORMER))).eval()
    fast = optimized(plain, "openvino", image_size=(48, 40))
    with torch.no_grad():
        for batch in (1, 3):
            pixels = torch.randn(batch, 3, 48, 40)
            close(fast(pixels).feature_maps, plain(pixels).feature_maps)


def test_outputs_belong_to_the_caller(short: tuple[Any, Any]) -> None:
    _, fast = short
    with torch.no_grad():
        first = fast(torch.randn(1, 3, 32, 32)).feature_maps
        kept = [feature_map.clone() for feature_map in first]
        fast(torch.randn(1, 3, 32, 32))
    same(first, kept)


def test_threads_take_turns(short: tuple[Any, Any]) -> None:
    plain, fast = short
    images = [torch.randn(1, 3, 32, 32) for _ in range(12)]
    with ThreadPoolExecutor(4) as threads, torch.no_grad():
        expected = [plain(pixels).feature_maps for pixels in images]
        found = list(threads.map(lambda pixels: [tensor.detach() for tensor in fast(pixels).feature_maps], images))
    close(found, expected)


COMPOSED = {
    "maskformer": maskformer_cases.tiny,
    "mask2former": mask2former_cases.tiny,
    "upernet": upernet,
    "probe": probe,
}


@pytest.mark.parametrize("backend", ["openvino", pytest.param("onnxruntime", marks=SLOW)])
@pytest.mark.parametrize(
    "name", ["probe", *(pytest.param(name, marks=SLOW) for name in ("maskformer", "mask2former", "upernet"))]
)
def test_composed_models(name: str, backend: str) -> None:
    plain = perturb(COMPOSED[name]()).eval()
    fast = optimized(plain, backend, image_size=64)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected, found = plain(pixels), fast(pixels)
    assert list(found) == list(expected)
    for key in ("logits", "class_queries_logits", "masks_queries_logits"):
        if key in expected:
            close(found[key], expected[key], name=key)
