"""Whisper's feature extractor against transformers'."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers.audio_utils import mel_filter_bank

from vertebra import WhisperFeatureExtractor
from vertebra.audio.mel import mel_filters

TOLERANCE = 1e-5
SMALL: dict[str, Any] = {"chunk_length": 2, "n_fft": 400, "hop_length": 160}


def clips(*lengths: int) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(1)
    return [(0.2 * rng.standard_normal(n) * np.sin(np.arange(n) / 900)).astype(np.float32) for n in lengths]


def pair(**settings: Any) -> tuple[Any, Any]:
    return WhisperFeatureExtractor(**settings), transformers.WhisperFeatureExtractor(**settings)


@pytest.mark.parametrize(("bands", "rate"), [(40, 22050), (80, 16000), (80, 22050), (128, 16000)])
def test_filters(bands: int, rate: int) -> None:
    expected = mel_filter_bank(201, bands, 0.0, 8000.0, rate, norm="slaney", mel_scale="slaney")
    np.testing.assert_allclose(mel_filters(bands, 400, rate), expected, rtol=0, atol=1e-15)


def assert_close(ours: Any, theirs: Any) -> None:
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert type(ours[name]) is type(theirs[name])
        assert ours[name].dtype == theirs[name].dtype
        assert ours[name].shape == theirs[name].shape
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"return_tensors": "pt"},
        {"return_attention_mask": True, "return_tensors": "np"},
        {"padding": "longest", "return_attention_mask": True},
        {"padding": "longest", "pad_to_multiple_of": 320, "return_attention_mask": True},
        {"max_length": 20001, "truncation": True, "return_attention_mask": True},
        {"truncation": False, "padding": "longest", "return_attention_mask": True},
        {"do_normalize": True},
        {"do_normalize": True, "return_attention_mask": True},
    ],
    ids=str,
)
def test_equals_transformers(options: dict[str, Any]) -> None:
    ours, theirs = pair(**SMALL)
    call = {"sampling_rate": 16000, **options}
    for given in (clips(9001, 31999, 160, 4000), clips(12345)[0], np.stack(clips(20000, 20000)), list(clips(3000)[0])):
        assert_close(ours(given, **call), theirs(given, **call))


@pytest.mark.parametrize("bands", [80, 128])
def test_thirty_seconds(bands: int) -> None:
    ours, theirs = pair(feature_size=bands)
    given = clips(24000, 480000)
    batch = ours(given, sampling_rate=16000, return_tensors="pt")
    assert batch.input_features.shape == (2, bands, 3000)
    assert_close(batch, theirs(given, sampling_rate=16000, return_tensors="pt"))


def test_what_follows_the_clips_is_not_transformed_and_the_same() -> None:
    ours = WhisperFeatureExtractor()
    short = clips(5000)
    padded = np.pad(short[0], (0, 480000 - 5000))
    full = ours(padded, sampling_rate=16000).input_features  # every step is computed
    np.testing.assert_allclose(ours(short, sampling_rate=16000).input_features, full, rtol=0, atol=1e-6)


def test_silence() -> None:
    ours, theirs = pair(**SMALL)
    given = [np.zeros(5000, np.float32), clips(6000)[0]]
    assert_close(ours(given, sampling_rate=16000), theirs(given, sampling_rate=16000))


def test_dither_draws_as_transformers_does() -> None:
    ours, theirs = pair(**SMALL, dither=1e-3)
    torch.manual_seed(3)
    found = ours(clips(3000, 200), sampling_rate=16000)
    torch.manual_seed(3)
    assert_close(found, theirs(clips(3000, 200), sampling_rate=16000))


def test_clips_of_their_own_length() -> None:
    ours = WhisperFeatureExtractor(**SMALL)
    given = clips(1600, 4800)
    features = ours(given, sampling_rate=16000, padding=False).input_features
    assert [one.shape for one in features] == [(80, 10), (80, 30)]
    for clip, one in zip(given, features, strict=True):
        np.testing.assert_array_equal(one, ours(clip, sampling_rate=16000, padding=False).input_features[0])
    with pytest.raises(ValueError, match="Clips of 100 samples are shorter than half a window"):
        ours(clips(100), sampling_rate=16000, padding=False)


def test_longer_clips_are_refused_unless_told_what_to_do() -> None:
    ours = WhisperFeatureExtractor()
    given = [*clips(300), np.full(16000 * 600, 0.1, np.float32)]
    with pytest.raises(
        ValueError, match=r"Clip 1 has 600\.0 s, and the model takes 30 s at a time\. Cut it into pieces"
    ):
        ours(given, sampling_rate=16000)
    assert ours(given, sampling_rate=16000, truncation=True).input_features.shape == (2, 80, 3000)


class TestFiles:
    def test_defaults_are_those_of_transformers(self) -> None:
        ours, theirs = pair()
        assert json.loads(ours.to_json_string()) == json.loads(theirs.to_json_string())
        assert (ours.n_samples, ours.nb_max_frames) == (480000, 3000)
        np.testing.assert_allclose(ours.mel_filters, theirs.mel_filters, rtol=0, atol=1e-15)

    def test_both_ways(self, tmp_path: Path) -> None:
        ours, theirs = pair(feature_size=128, chunk_length=5, return_attention_mask=True)
        theirs.save_pretrained(tmp_path / "theirs")
        loaded = WhisperFeatureExtractor.from_pretrained(tmp_path / "theirs")
        assert loaded.to_dict() == ours.to_dict() == json.loads(theirs.to_json_string())
        ours.save_pretrained(tmp_path / "ours")
        again = transformers.WhisperFeatureExtractor.from_pretrained(tmp_path / "ours")
        assert json.loads(again.to_json_string()) == ours.to_dict()

    def test_first_files_hold_the_filters_too(self, tmp_path: Path) -> None:
        stored = {"feature_extractor_type": "WhisperFeatureExtractor", "mel_filters": [[0.0]], "n_samples": 1}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(stored))
        ours = WhisperFeatureExtractor.from_pretrained(tmp_path)
        assert ours.mel_filters.shape == (201, 80)
        assert ours.to_dict() == WhisperFeatureExtractor().to_dict()
        assert WhisperFeatureExtractor.from_pretrained(tmp_path, chunk_length=7).n_samples == 112000
