"""Text models as one graph: torch.compile, torch.export with any batch and length, ONNX Runtime; each equal to eager."""

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from oracle import close, perturb
from text_cases import CASES, FAMILIES, Case, labels_of
from torch import Tensor
from torch._dynamo.testing import CompileCounter

BATCH = torch.export.Dim("batch", min=1, max=64)
TOKENS = torch.export.Dim("tokens", min=1, max=9)


def some(cases: list[Case], *often: str) -> Any:
    """All cases, of which those that are not named are slow."""
    marks = [() if str(case) in often else pytest.mark.slow for case in cases]
    return pytest.mark.parametrize(
        "case", [pytest.param(c, marks=m, id=str(c)) for c, m in zip(cases, marks, strict=True)]
    )


def model_of(case: Case) -> Any:
    torch._dynamo.reset()
    model = perturb(case.ours(num_hidden_layers=1)).eval()
    model.tie_weights()
    return model


def texts(batch: int, tokens: int, kinds: bool) -> dict[str, Tensor]:
    mask = torch.ones(batch, tokens, dtype=torch.long)
    mask[-1, tokens // 2 + 1 :] = 0
    more = {"token_type_ids": torch.randint(2, (batch, tokens))} if kinds else {}
    return {"input_ids": torch.randint(1, 31, (batch, tokens)), "attention_mask": mask, **more}


@pytest.mark.parametrize(
    "more",
    [pytest.param({}, marks=pytest.mark.slow), {"output_attentions": True, "output_hidden_states": True}],
    ids=["least", "all"],
)
@some(CASES, "BertForPreTraining", "BertForMultipleChoice", "DistilBertForQuestionAnswering")
def test_compiles_to_one_graph(case: Case, more: dict[str, bool]) -> None:
    """Attentions that are asked for are computed in another way; without, see the next test."""
    model = model_of(case)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    inputs = {**case.inputs(), **labels_of(case.task)}
    expected, actual = model(**inputs, **more), compiled(**inputs, **more)
    assert list(actual) == list(expected)
    close(actual.to_tuple(), expected.to_tuple())


@pytest.mark.parametrize("case", FAMILIES, ids=str)
def test_one_graph_serves_every_batch_and_length(case: Case) -> None:
    model = model_of(case)
    counting = CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counting, dynamic=True)
    for batch, tokens in ((2, 5), (3, 7), (5, 4), (2, 9)):
        inputs = texts(batch, tokens, case.family == "Bert")
        with torch.no_grad():
            close(compiled(**inputs).to_tuple(), model(**inputs).to_tuple())
    assert counting.frame_count == 1


@some([CASES[1], CASES[8]], "DistilBertForSequenceClassification")
def test_trains_as_one_graph(case: Case) -> None:
    model = model_of(case).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for layer in model.base_model.encoder_layers.layer:
        layer.attention_dropout = 0.0
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    inputs = {**case.inputs(), **labels_of(case.task)}
    gradients = []
    for each in (compiled, model):
        model.zero_grad()
        each(**inputs).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    close(*gradients, tol=1e-4)


@some([*FAMILIES, CASES[1], CASES[8]], "BertModel", "DistilBertForSequenceClassification")
def test_exports_with_any_batch_and_length(case: Case, tmp_path: Path) -> None:
    model = model_of(case)
    kinds = case.family == "Bert"
    inputs = texts(2, 5, kinds)
    shapes = {name: {0: BATCH, 1: TOKENS} for name in inputs}
    torch.export.save(torch.export.export(model, (), inputs, dynamic_shapes=shapes), tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    for batch, tokens in ((1, 9), (5, 3), (4, 1)):
        more = texts(batch, tokens, kinds)
        with torch.no_grad():
            close(loaded(**more).to_tuple(), model(**more).to_tuple())


@pytest.mark.slow
@pytest.mark.parametrize("case", [FAMILIES[0], CASES[8]], ids=str)
@pytest.mark.filterwarnings("ignore")  # of the exporter
def test_onnx_runtime(case: Case, tmp_path: Path) -> None:
    model = model_of(case)
    kinds = case.family == "Bert"
    inputs = texts(2, 5, kinds)
    path = tmp_path / "model.onnx"
    shapes = {name: {0: BATCH, 1: TOKENS} for name in inputs}
    torch.onnx.export(model, (), path, kwargs=inputs, dynamic_shapes=shapes, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path)
    for batch, tokens in ((3, 7), (1, 9)):
        more = texts(batch, tokens, kinds)
        named = {given.name: more[given.name].numpy() for given in session.get_inputs()}
        with torch.no_grad():
            expected = model(**more).to_tuple()
        close(tuple(map(torch.from_numpy, session.run(None, named))), expected, 1e-4)
