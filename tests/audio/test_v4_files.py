"""Models of speech that transformers 4 wrote, with the outputs it computed: `tests/fixtures/v4` says how they were made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_server import HubServer
from oracle import close, saved_keys
from safetensors.torch import load_file

from vertebra import (
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    AutoModelForCTC,
    AutoModelForSpeechSeq2Seq,
    Wav2Vec2CTCTokenizer,
)

AUTO: dict[str, Any] = {
    "wav2vec2_ctc": AutoModelForCTC,
    "wav2vec2_weighted": AutoModelForAudioClassification,
    "whisper": AutoModelForSpeechSeq2Seq,
}
INPUTS = ("input_values", "input_features", "attention_mask", "labels")
BESIDE = ("clip_0", "clip_1", "generated", "generated_german")


def load(folder: Path) -> tuple[Any, dict[str, torch.Tensor]]:
    """The model, whose keys all arrived, and what version 4 computed."""
    model, info = AUTO[folder.name].from_pretrained(folder, output_loading_info=True)
    assert all(not keys for keys in info.values()), info
    return model, load_file(folder / "expected.safetensors")


@pytest.mark.parametrize("name", AUTO)
def test_outputs(name: str, v4: Path, hub: HubServer, tmp_path: Path) -> None:
    model, expected = load(v4 / name)
    inputs = {key: expected.pop(key) for key in INPUTS if key in expected}
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True, output_attentions=True)
    compared = {key: tensor for key, tensor in expected.items() if key not in BESIDE}
    for key, tensor in compared.items():
        field, _, index = key.partition(".")
        close(output[field][int(index)] if index else output[field], tensor, name=key)
    assert {"logits", "loss"} < {key.partition(".")[0] for key in compared}
    assert hub.requests == []
    model.save_pretrained(tmp_path)
    assert saved_keys(tmp_path) == set(load_file(v4 / name / "model.safetensors"))


@pytest.mark.parametrize(("name", "field"), [("wav2vec2_ctc", "input_values"), ("whisper", "input_features")])
def test_feature_extractors(name: str, field: str, v4: Path) -> None:
    _, expected = load(v4 / name)
    clips = [expected["clip_0"].numpy(), expected["clip_1"].numpy()]
    options = {"padding": True} if field == "input_values" else {}
    extractor = AutoFeatureExtractor.from_pretrained(v4 / name)
    found = extractor(clips, sampling_rate=16000, return_tensors="pt", **options)
    np.testing.assert_allclose(found[field], expected[field], rtol=0, atol=1e-5)
    if "attention_mask" in expected:
        assert torch.equal(found["attention_mask"], expected["attention_mask"])


def test_the_last_state_is_the_one_that_version_4_had(v4: Path) -> None:
    model, expected = load(v4 / "wav2vec2_weighted")
    inputs = {key: expected[key] for key in INPUTS if key in expected}
    newer = type(model).from_pretrained(v4 / "wav2vec2_weighted", transformers_version="5.23.0")
    with torch.no_grad():
        older_logits, newer_logits = model(**inputs).logits, newer(**inputs).logits
    close(older_logits, expected["logits"])
    assert (newer_logits - older_logits).abs().max() > 1e-2


def test_tokenizer(v4: Path) -> None:
    _, expected = load(v4 / "wav2vec2_ctc")
    tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(v4 / "wav2vec2_ctc")
    found = tokenizer(["HE", "A EH"], padding=True, return_tensors="pt")["input_ids"]
    assert torch.equal(found.masked_fill(found == tokenizer.pad_token_id, -100), expected["labels"])


def test_what_is_written(v4: Path) -> None:
    model, expected = load(v4 / "whisper")
    found = model.generate(expected["input_features"], max_new_tokens=6)
    assert torch.equal(found, expected["generated"])
    german = model.generate(expected["input_features"], max_new_tokens=6, language="german", task="translate")
    assert torch.equal(german, expected["generated_german"])
