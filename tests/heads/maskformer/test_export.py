"""MaskFormer as one graph: torch.export, torch.compile and ONNX, with any batch, agree with eager."""

import copy
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from maskformer_cases import RESNET, SIZE, SWIN, images, labels, tiny
from oracle import close, perturb

from vertebra import ResNetConfig, SwinConfig


def small(backbone: str, **changes: Any) -> Any:
    """Two maps and two layers: few operations to capture."""
    torch._dynamo.reset()
    selection = {"depths": [1, 1], "out_features": ["stage1", "stage2"]}
    if backbone == "swin":
        config: Any = SwinConfig(**{**SWIN, **selection, "num_heads": [1, 2]})
    else:
        config = ResNetConfig(**{**RESNET, **selection, "hidden_sizes": [8, 16]})
    decoder = {"decoder_layers": 2, **changes.pop("decoder", {})}
    return perturb(tiny(config, decoder=decoder, neck=None, **changes)).eval()


def padded(batch: int, height: int = SIZE[0], width: int = SIZE[1]) -> torch.Tensor:
    mask = torch.ones(batch, height, width, dtype=torch.int64)
    mask[0, :, width // 2 :] = 0
    return mask


def exported(model: Any, height: int, width: int) -> torch.export.ExportedProgram:
    """Its program for any batch."""
    batch = torch.export.Dim("batch", min=1, max=64)
    shapes = {"pixel_values": {0: batch}, "pixel_mask": {0: batch}}
    inputs = {"pixel_mask": padded(2, height, width)}
    x = torch.randn(2, 3, height, width)
    return torch.export.export(model, (x,), inputs, dynamic_shapes=shapes)


def test_exports_with_any_batch() -> None:
    model = small("resnet", decoder={"num_queries": 3})
    program = exported(model, 32, 64).module()
    for count in (1, 5):
        x, mask = torch.randn(count, 3, 32, 64), padded(count, 32, 64)
        with torch.no_grad():
            close(program(x, pixel_mask=mask).to_tuple(), model(x, pixel_mask=mask).to_tuple())


@pytest.mark.slow
def test_compiles_to_one_graph() -> None:
    model = small("resnet")
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for batch in (2, 3):
        x, mask = images(batch, torch.float32), padded(batch)
        with torch.no_grad():
            actual, expected = (each(x, pixel_mask=mask, output_hidden_states=True) for each in (compiled, model))
        assert list(actual) == list(expected)
        close(actual.to_tuple(), expected.to_tuple())


@pytest.mark.slow
# torch looks at .grad of what crosses the break in the graph, where SciPy matches
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_trains_compiled() -> None:
    model = small("resnet", use_auxiliary_loss=True)
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, backend="eager")
    x, targets = images(2, torch.float32), labels(0, 3, dtype=torch.float32)
    losses = [each(x, **targets).loss for each in (compiled, twin)]
    close(*losses)
    for loss in losses:
        loss.backward()
    for (name, parameter), expected in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert (parameter.grad - expected.grad).abs().max() <= 1e-3 * expected.grad.abs().max() + 1e-5, name


@pytest.mark.slow
def test_trains_as_one_graph_with_layers_left_out() -> None:
    model = small("resnet", decoder={"decoder_layerdrop": 0.5}).train()
    output = torch.compile(model, fullgraph=True, backend="eager")(images(2, torch.float32))
    assert output.masks_queries_logits.requires_grad


@pytest.mark.slow
# torch's exporter says of every axis after the first that shares a size that its name is not used
@pytest.mark.filterwarnings("ignore:.*The axis name. batch will not be used:UserWarning")
def test_exports_with_any_batch_and_onnx_runtime_agrees(tmp_path: Path) -> None:
    model = small("swin")
    program = exported(model, *SIZE)
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    torch.onnx.export(program, dynamo=True, verbose=False).save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 5):
        x, mask = images(count, torch.float32), padded(count)
        with torch.no_grad():
            expected = model(x, pixel_mask=mask).to_tuple()
            close(loaded(x, pixel_mask=mask).to_tuple(), expected)
        outputs = session.run(None, {"pixel_values": x.numpy(), "pixel_mask": mask.numpy()})
        close([torch.from_numpy(each) for each in outputs], expected, tol=1e-4)
