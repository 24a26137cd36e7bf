"""Mask2Former as one graph: torch.compile, torch.export and ONNX, with any batch, agree with eager."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from mask2former_cases import RESNET, SWIN, tiny
from oracle import close, perturb

from vertebra import ResNetConfig, SwinConfig

SIZE = (32, 64)
SMALL = {"encoder_layers": 1, "decoder_layers": 2, "num_queries": 3}
BATCH = torch.export.Dim("batch", min=1, max=64)
SHAPES = {"pixel_values": {0: BATCH}, "pixel_mask": {0: BATCH}}


def small(backbone: str = "resnet", **changes: Any) -> Any:
    torch._dynamo.reset()
    swin = SwinConfig(**{**SWIN, "depths": [1, 1, 1, 1]})
    config = swin if backbone == "swin" else ResNetConfig(**{**RESNET, "depths": [1, 1, 1, 1]})
    return perturb(tiny(config, **{**SMALL, **changes})).eval()


def images(batch: int) -> torch.Tensor:
    return torch.randn(batch, 3, *SIZE)


def padded(batch: int) -> torch.Tensor:
    mask = torch.ones(batch, *SIZE, dtype=torch.int64)
    mask[0, :, SIZE[1] // 2 :] = 0
    return mask


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "masked"), [("resnet", True), ("resnet", False), ("swin", True)])
def test_one_graph_serves_every_batch(backbone: str, masked: bool) -> None:
    model, graphs = small(backbone), []

    def counting(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    compiled = torch.compile(model, fullgraph=True, backend=counting)
    with torch.no_grad():
        for batch in (2, 3, 5, 7):
            x, mask = images(batch), padded(batch) if masked else None
            for given in (x, mask)[: 1 + masked]:
                torch._dynamo.mark_dynamic(given, 0)
            close(compiled(x, pixel_mask=mask).to_tuple(), model(x, pixel_mask=mask).to_tuple())
    assert len(graphs) == 1


@pytest.mark.slow
def test_trains_as_one_graph_with_layers_left_out() -> None:
    model = small(dropout=0.5).train()
    output = torch.compile(model, fullgraph=True, backend="eager")(images(2), output_auxiliary_logits=True)
    assert output.masks_queries_logits.requires_grad
    assert len(output.auxiliary_logits) == 1


@pytest.fixture(scope="module", params=["resnet", pytest.param("swin", marks=pytest.mark.slow)])
def exported(request: pytest.FixtureRequest) -> tuple[Any, torch.export.ExportedProgram]:
    """A model and its program, for any batch."""
    torch.manual_seed(0)
    model, x, mask = small(request.param), images(2), padded(2)
    return model, torch.export.export(model, (x,), {"pixel_mask": mask}, dynamic_shapes=SHAPES)


def test_exports_with_any_batch(exported: tuple[Any, torch.export.ExportedProgram]) -> None:
    model, program = exported
    module = program.module()
    for count in (1, 5):
        x, mask = images(count), padded(count)
        with torch.no_grad():
            close(module(x, pixel_mask=mask).to_tuple(), model(x, pixel_mask=mask).to_tuple())


@pytest.mark.slow
def test_an_exported_program_can_be_saved(exported: tuple[Any, torch.export.ExportedProgram], tmp_path: Path) -> None:
    model, program = exported
    torch.export.save(program, tmp_path / "m.pt2")
    loaded, x, mask = torch.export.load(tmp_path / "m.pt2").module(), images(3), padded(3)
    with torch.no_grad():
        close(loaded(x, pixel_mask=mask).to_tuple(), model(x, pixel_mask=mask).to_tuple())


def agrees(model: Any, program: Any, folder: Path, **inputs: Callable[[int], torch.Tensor]) -> None:
    """ONNX Runtime gives what the model gives, for several batches."""
    program.save(folder / "model.onnx")
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 3):
        given = {name: make(count) for name, make in inputs.items()}
        outputs = session.run(None, {name: tensor.numpy() for name, tensor in given.items()})
        with torch.no_grad():
            expected = model(**given).to_tuple()
        close([torch.from_numpy(each) for each in outputs], expected, tol=1e-4)


# torch's exporter says of every axis after the first that shares a size, that its name is not used
@pytest.mark.filterwarnings("ignore:.*The axis name. batch will not be used:UserWarning")
def test_onnx_runtime_agrees(exported: tuple[Any, torch.export.ExportedProgram], tmp_path: Path) -> None:
    model, program = exported
    onnx = torch.onnx.export(program, dynamo=True, verbose=False)
    agrees(model, onnx, tmp_path, pixel_values=images, pixel_mask=padded)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet", "swin"])
def test_onnx_runtime_agrees_without_a_mask(backbone: str, tmp_path: Path) -> None:
    model = small(backbone)
    shapes = {"pixel_values": SHAPES["pixel_values"]}
    onnx = torch.onnx.export(
        model, (), kwargs={"pixel_values": images(2)}, dynamo=True, dynamic_shapes=shapes, verbose=False
    )
    agrees(model, onnx, tmp_path, pixel_values=images)
