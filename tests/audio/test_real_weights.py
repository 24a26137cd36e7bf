"""Whisper tiny.en with its real weights on real speech: what transformers computes and writes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from oracle import close
from real_speech import recording, whisper

from vertebra import AutoFeatureExtractor, AutoModelForSpeechSeq2Seq, AutoTokenizer

SPOKEN = {
    "Front_Center": " Front, center.",
    "Front_Left": " Front, left.",
    "Rear_Left": " rear left.",
    "Side_Right": " Side, right.",
}


@pytest.fixture(scope="module")
def ours() -> Any:
    model, info = AutoModelForSpeechSeq2Seq.from_pretrained(whisper(), output_loading_info=True)
    assert all(not keys for keys in info.values())
    return model


@pytest.fixture(scope="module")
def features() -> torch.Tensor:
    clips = [recording(name) for name in SPOKEN]
    found = AutoFeatureExtractor.from_pretrained(whisper())(clips, sampling_rate=16000, return_tensors="pt")
    expected = transformers.WhisperFeatureExtractor.from_pretrained(whisper())(clips, sampling_rate=16000)
    np.testing.assert_allclose(found.input_features, expected["input_features"], rtol=0, atol=1e-5)
    return found.input_features


def test_speech_is_written_down(ours: Any, features: torch.Tensor) -> None:
    tokenizer = AutoTokenizer.from_pretrained(whisper())
    ids = ours.generate(features)
    assert tokenizer.batch_decode(ids, skip_special_tokens=True) == list(SPOKEN.values())


def test_scores_and_tokens_are_those_of_transformers(ours: Any, features: torch.Tensor) -> None:
    theirs, info = transformers.WhisperForConditionalGeneration.from_pretrained(whisper(), output_loading_info=True)
    assert not any(info.values()), info
    assert torch.equal(theirs.eval().generate(features[:1]), ours.generate(features[:1]))
    tokens = torch.tensor([[50257, 50362, 8880, 11]])
    with torch.no_grad():
        expected, found = (model(features[:1], decoder_input_ids=tokens) for model in (theirs, ours))
    close(found.encoder_last_hidden_state, expected.encoder_last_hidden_state)
    close(found.logits, expected.logits)
