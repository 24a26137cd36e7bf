"""Audio that cannot be used: what the errors say."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch

from vertebra import SequenceFeatureExtractor, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor
from vertebra.audio import clips

RATE = 16000
BAD: list[tuple[Any, type[Exception], str]] = [
    (
        np.zeros((4000, 2)),
        ValueError,
        r"shape \(4000, 2\) is not mono.*audio\.mean\(axis=1\) for \(samples, channels\)",
    ),
    (np.zeros((2, 2, 4000)), ValueError, r"shape \(2, 2, 4000\) is not mono"),
    ([np.zeros((2, 4000))], ValueError, r"Clip 0 has shape \(2, 4000\).*clip\.mean\(axis=…\)"),
    ([], ValueError, "Audio is an empty list"),
    (np.zeros((0, 400)), ValueError, r"shape \(0, 400\) has no clips"),
    (np.zeros(0), ValueError, "Clip 0 is empty: it has no samples"),
    ([np.zeros(5), []], ValueError, "Clip 1 is empty"),
    (np.zeros(99, np.int16), TypeError, "samples of dtype int16; .* divide by 32768, the range of int16"),
    ([np.zeros(99), torch.zeros(9, dtype=torch.int32)], TypeError, "Clip 1 .* divide by 2147483648"),
    ([0, 1, 2], TypeError, "Clip 0 holds samples of dtype int64"),
    (np.zeros(9, np.uint8), TypeError, "dtype uint8; models take floats within -1…1: scale them"),
    (np.array([0.1, np.nan, np.nan]), ValueError, "Clip 0 holds nan at sample 1, and 2 such in all. Repair it"),
    ([np.zeros(9), np.array([np.inf])], ValueError, "Clip 1 holds inf at sample 0"),
    ("speech.wav", TypeError, r"got str\. Read a file first: samples, rate = soundfile\.read\(path\)"),
    (None, TypeError, "got NoneType"),
    ({"array": np.zeros(9), "sampling_rate": 8000}, TypeError, r"audio\['array'\], sampling_rate=8000"),
    ([[0.1, 0.2], [[0.1], 0.2]], ValueError, "Clip 1 is no sequence of numbers"),
    (["a.wav", "b.wav"], TypeError, r"got str\. Read a file first"),
    ([{"array": np.zeros(9), "sampling_rate": 8000}], TypeError, r"audio\['array'\], sampling_rate=8000"),
    ([0.1, None], TypeError, "Clip 0 holds objects that are no numbers"),
    (np.zeros(9, complex), TypeError, "Clip 0 holds samples of dtype complex128; models take floats"),
]


@pytest.mark.parametrize("extractor", [Wav2Vec2FeatureExtractor(), WhisperFeatureExtractor()], ids=["wave", "mel"])
@pytest.mark.parametrize(("audio", "error", "text"), BAD, ids=range(len(BAD)))
def test_bad_audio(extractor: Any, audio: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        extractor(audio, sampling_rate=RATE)


@pytest.mark.parametrize("extractor", [Wav2Vec2FeatureExtractor(), WhisperFeatureExtractor()], ids=["wave", "mel"])
@pytest.mark.parametrize(
    ("rate", "call"),
    [(48000, "(audio, 1, 3)"), (44100, "(audio, 160, 441)"), (8000, "(audio, 2, 1)"), ("x", "16000, rate")],
)
def test_another_rate(extractor: SequenceFeatureExtractor, rate: Any, call: str) -> None:
    with pytest.raises(ValueError, match=r"is for 16000 Hz\. Resample first: scipy\.signal\.resample_poly") as caught:
        extractor(np.zeros(500), sampling_rate=rate)  # type: ignore[operator]
    assert call in str(caught.value)


def test_an_unknown_rate_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    clips._warn_unknown_rate.cache_clear()
    with caplog.at_level(logging.WARNING, "vertebra"):
        for _ in range(2):
            Wav2Vec2FeatureExtractor()(np.zeros(500))
    (record,) = caplog.records
    assert "takes it as 16000 Hz. Pass sampling_rate=…" in record.getMessage()


def test_levels_of_16_bits_as_floats_are_told(caplog: pytest.LogCaptureFixture) -> None:
    clips._warn_loud.cache_clear()
    with caplog.at_level(logging.WARNING, "vertebra"):
        Wav2Vec2FeatureExtractor()(np.array([0.0, 12000.0]), sampling_rate=RATE)
    assert "samples up to 12000, and models take -1…1" in caplog.text


def test_ten_minutes_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "vertebra"):
        Wav2Vec2FeatureExtractor(do_normalize=False)(np.zeros(600 * RATE, np.float32), sampling_rate=RATE)
    assert "A clip of 600 s takes a Wav2Vec2 model about 12 GB" in caplog.text
    assert "Cut it into pieces" in caplog.text
