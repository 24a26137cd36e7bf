"""UperNet as one graph: torch.compile, torch.export with a dynamic batch, and ONNX Runtime, each equal to eager."""

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from oracle import close, perturb
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from vertebra import ResNetConfig, SwinConfig, TimmBackboneConfig, UperNetConfig, UperNetForSemanticSegmentation

RESNET = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 1, 1], layer_type="basic")
SWIN = SwinConfig(embed_dim=8, depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8], window_size=3)
TIMM = TimmBackboneConfig("test_resnet", use_pretrained_backbone=False)
BELOW = [
    pytest.param(RESNET, id="resnet"),
    pytest.param(SWIN, id="swin", marks=pytest.mark.slow),
    pytest.param(TIMM, id="timm", marks=pytest.mark.slow),
]


def upernet(below: Any, width: int = 96) -> UperNetForSemanticSegmentation:
    """So wide that the convolutions over several maps mix channels first, so narrow on request that they do not."""
    torch._dynamo.reset()
    config = UperNetConfig(backbone_config=below, hidden_size=width, auxiliary_channels=8, num_labels=5)
    return perturb(UperNetForSemanticSegmentation(config), scale=0.05).eval()


def batch(count: int, height: int = 32, width: int = 64) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(count, 3, height, width), "labels": torch.randint(0, 5, (count, height, width))}


@pytest.mark.slow
@pytest.mark.parametrize("below", BELOW)
def test_compiles_to_one_graph_for_every_batch(below: Any) -> None:
    model = upernet(below)
    counting = CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counting)
    for count in (2, 3, 5):
        inputs = batch(count)
        for tensor in inputs.values():
            torch._dynamo.mark_dynamic(tensor, 0)
        with torch.no_grad():
            expected, actual = model(**inputs), compiled(**inputs)
        assert list(actual) == list(expected) == ["loss", "logits"]
        close(actual.to_tuple(), expected.to_tuple())
    assert counting.frame_count == 1


@pytest.mark.slow
def test_every_size_is_a_graph_of_its_own() -> None:
    model = upernet(RESNET)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for size in ((64, 64), (70, 90), (33, 40)):
        pixels = torch.randn(1, 3, *size)
        with torch.no_grad():
            close(compiled(pixels).logits, model(pixels).logits)


@pytest.mark.slow
def test_trains_as_one_graph() -> None:
    model = upernet(RESNET).train()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    inputs = batch(2)
    gradients = []
    for each in (compiled, model):
        model.zero_grad()
        each(**inputs).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    close(*gradients, tol=1e-4)


@pytest.mark.parametrize("below", BELOW)
def test_exports_with_a_dynamic_batch(below: Any) -> None:
    model = upernet(below)
    dynamic = {"pixel_values": {0: torch.export.Dim("batch", min=1, max=16)}}
    program = torch.export.export(
        model, (), {"pixel_values": batch(2)["pixel_values"]}, dynamic_shapes=dynamic
    ).module()
    for count in (1, 2, 5):
        pixels = batch(count)["pixel_values"]
        with torch.no_grad():
            close(program(pixel_values=pixels).logits, model(pixels).logits)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("below", "width", "size"),
    [
        pytest.param(RESNET, 96, (64, 96), id="resnet"),
        pytest.param(RESNET, 8, (70, 90), id="resnet-narrow"),
        pytest.param(SWIN, 96, (64, 64), id="swin"),
        pytest.param(TIMM, 96, (64, 64), id="timm"),
    ],
)
def test_onnx_runtime_agrees(below: Any, width: int, size: tuple[int, int], tmp_path: Path) -> None:
    model = upernet(below, width)
    path = tmp_path / "upernet.onnx"
    torch.onnx.export(
        model,
        (torch.randn(2, 3, *size),),
        path,
        dynamo=True,
        verbose=False,
        input_names=["pixel_values"],
        output_names=["logits"],
        dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch", min=1, max=16)}},
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 3):
        pixels = torch.randn(count, 3, *size)
        (actual,) = session.run(["logits"], {"pixel_values": pixels.numpy()})
        with torch.no_grad():
            close(torch.from_numpy(actual), model(pixels).logits, tol=1e-4)
