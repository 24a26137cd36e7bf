"""Models of speech as one graph: torch.compile, torch.export with any batch and length, ONNX Runtime; each equal to eager."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from oracle import close, perturb
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from wav2vec2_cases import STABLE, TINY
from whisper_cases import TINY as WHISPER

from vertebra import (
    Wav2Vec2Config,
    Wav2Vec2ForAudioFrameClassification,
    Wav2Vec2ForCTC,
    Wav2Vec2ForSequenceClassification,
    Wav2Vec2ForXVector,
    Wav2Vec2Model,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

WAV2VEC2 = [
    Wav2Vec2Model,
    Wav2Vec2ForCTC,
    Wav2Vec2ForSequenceClassification,
    Wav2Vec2ForAudioFrameClassification,
    Wav2Vec2ForXVector,
]


def model_of(cls: Any, **settings: Any) -> Any:
    torch._dynamo.reset()
    config = (
        WhisperConfig(**WHISPER) if cls is WhisperForConditionalGeneration else Wav2Vec2Config(**{**TINY, **settings})
    )
    model = perturb(cls(config)).eval()
    model.tie_weights()
    return model


def recordings(batch: int, samples: int) -> dict[str, Tensor]:
    mask = torch.ones(batch, samples, dtype=torch.long)
    mask[-1, samples // 2 :] = 0
    return {"input_values": torch.randn(batch, samples), "attention_mask": mask}


ALL = {"output_attentions": True, "output_hidden_states": True}
OFTEN = [(Wav2Vec2ForCTC, {}, {}), (Wav2Vec2ForXVector, STABLE, ALL)]
CASES = [
    pytest.param(*case, marks=[] if case in OFTEN else pytest.mark.slow)
    for case in product(WAV2VEC2, ({}, STABLE), ({}, ALL))
]


@pytest.mark.parametrize(("cls", "style", "more"), CASES)
def test_wav2vec2_is_one_graph(cls: Any, style: dict[str, Any], more: dict[str, bool]) -> None:
    model = model_of(cls, **style, num_hidden_layers=1)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    inputs = recordings(2, 700)
    with torch.no_grad():
        expected, actual = model(**inputs, **more), compiled(**inputs, **more)
    assert list(actual) == list(expected)
    close(actual.to_tuple(), expected.to_tuple())


@pytest.mark.slow
def test_one_graph_serves_every_batch_and_length() -> None:
    model = model_of(Wav2Vec2ForCTC)
    counting = CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counting, dynamic=True)
    for batch, samples in ((2, 700), (3, 913), (5, 640)):
        inputs = recordings(batch, samples)
        with torch.no_grad():
            close(compiled(**inputs).to_tuple(), model(**inputs).to_tuple())
    assert counting.frame_count == 1


def test_whisper_is_one_graph() -> None:
    model = model_of(WhisperForConditionalGeneration)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    inputs = {"input_features": torch.randn(2, 8, 20), "decoder_input_ids": torch.randint(60, (2, 5))}
    with torch.no_grad():
        expected, actual = model(**inputs), compiled(**inputs)
        close(actual.logits, expected.logits)
        close(list(map(list, actual.past_key_values)), list(map(list, expected.past_key_values)))
        after = {
            "encoder_outputs": (expected.encoder_last_hidden_state,),
            "decoder_input_ids": torch.tensor([[9], [4]]),
        }
        past = expected.past_key_values
        close(compiled(**after, past_key_values=past).logits, model(**after, past_key_values=past).logits)


class Scores(torch.nn.Module):
    """The scores alone: what a file for another engine is to compute."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.model(*inputs, return_dict=True).logits


BATCH, SAMPLES = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("samples", min=100, max=100_000)
SIZES = (({0: BATCH, 1: SAMPLES},) * 2,)


def test_exports_with_any_batch_and_length() -> None:
    model = Scores(model_of(Wav2Vec2ForCTC)).eval()
    example, other = (tuple(recordings(*shape).values()) for shape in ((2, 700), (3, 913)))
    program = torch.export.export(model, example, dynamic_shapes=SIZES).module()
    with torch.no_grad():
        close(program(*other), model(*other))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the exporter
def test_onnx_runtime(tmp_path: Path) -> None:
    model = Scores(model_of(Wav2Vec2ForCTC)).eval()
    example, other = (tuple(recordings(*shape).values()) for shape in ((2, 700), (3, 913)))
    file = tmp_path / "ctc.onnx"
    torch.onnx.export(model, example, file, dynamic_shapes=SIZES, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(file)
    for inputs in (example, other):
        named = {given.name: tensor.numpy() for given, tensor in zip(session.get_inputs(), inputs, strict=True)}
        with torch.no_grad():
            close(torch.from_numpy(session.run(None, named)[0]), model(*inputs), tol=1e-4)
