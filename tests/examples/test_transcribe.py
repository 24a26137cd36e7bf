"""The example that writes down wav files: real speech, long, stereo and at any rate, and models of both kinds."""

from __future__ import annotations

import runpy
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from real import ROOT, example
from real_speech import recording, speech, whisper
from scipy.io import wavfile
from wav2vec2_cases import TINY

from vertebra import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

SPARSE = {"conv_stride": [20, 8, 2], "conv_kernel": [40, 16, 2]}
"""As few steps a second as Wav2Vec2 has, so that long audio costs little."""


def transcribe(*arguments: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["transcribe", *map(str, arguments)])
    runpy.run_path(str(ROOT / "examples" / "transcribe.py"), run_name="__main__")


def test_speech(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = speech()
    transcribe(folder / "Front_Center.wav", "--model", whisper(), monkeypatch=monkeypatch)
    assert capsys.readouterr().out == " Front, center.\n"
    files = [folder / "Rear_Left.wav", folder / "Side_Right.wav"]
    transcribe(*files, "--model", whisper(), monkeypatch=monkeypatch)
    assert capsys.readouterr().out == "Rear_Left.wav: rear left.\nSide_Right.wav: Side, right.\n"


def test_longer_than_the_model_takes(tmp_path: Path) -> None:
    silence = np.zeros(16000 * 20, np.float32)
    samples = np.concatenate([recording("Front_Center"), silence, silence, recording("Side_Right")])
    stereo = np.stack([samples, samples], axis=1)
    wavfile.write(tmp_path / "long.wav", 16000, stereo)
    text = example("transcribe")["transcriber"](str(whisper()))(tmp_path / "long.wav")
    assert "Front, center." in text
    assert text.endswith(" Side, right.")


def test_pieces_are_cut_where_it_is_quiet() -> None:
    pieces = example("transcribe")["pieces"]
    rate, noise = 100, np.random.default_rng(0)
    samples = noise.standard_normal(75 * rate)
    samples[2700:2730] = samples[5200:5230] = 0
    cut = list(pieces(samples, rate))
    assert len(cut[0]) == pytest.approx(2715, abs=6)
    assert all(len(piece) <= 30 * rate for piece in cut)
    np.testing.assert_array_equal(np.concatenate(cut), samples)
    assert [len(piece) for piece in pieces(samples[:3000], rate)] == [3000]


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint8, np.float32])
def test_wav_files_of_any_kind(dtype: type[np.generic], tmp_path: Path) -> None:
    wave = 0.5 * np.sin(2 * np.pi * 50 * np.arange(8000) / 8000)
    levels = {np.int16: wave * 32768, np.int32: wave * 2**31, np.uint8: wave * 128 + 128, np.float32: wave}[dtype]
    wavfile.write(tmp_path / "tone.wav", 8000, np.stack([levels, levels], 1).astype(dtype))
    found = example("transcribe")["read_audio"](tmp_path / "tone.wav", 16000)
    expected = 0.5 * np.sin(2 * np.pi * 50 * np.arange(16000) / 16000)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[200:-200], expected[200:-200], atol=0.01)


def test_ctc_models(tmp_path: Path) -> None:
    tokenizer = Wav2Vec2CTCTokenizer(
        {token: at for at, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", *"|ABCDEF"])}
    )
    tokenizer.save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    model = Wav2Vec2ForCTC(Wav2Vec2Config(**{**TINY, **SPARSE, "vocab_size": len(tokenizer)})).eval()
    model.save_pretrained(tmp_path)
    samples = np.random.default_rng(1).uniform(-0.5, 0.5, 16000).astype(np.float32)
    wavfile.write(tmp_path / "noise.wav", 16000, samples)
    inputs = Wav2Vec2FeatureExtractor()(samples, sampling_rate=16000, return_tensors="pt")
    expected = tokenizer.decode(model(**inputs).logits[0].argmax(-1))
    transcribe = example("transcribe")["transcriber"](str(tmp_path))
    assert transcribe(tmp_path / "noise.wav") == expected
    with pytest.raises(SystemExit, match=r"scores letters .* takes no language"):
        example("transcribe")["transcriber"](str(tmp_path), language="de")
    long = np.tile(samples, 31)
    wavfile.write(tmp_path / "long.wav", 16000, long)
    parts = []
    for piece in example("transcribe")["pieces"](long, 16000):
        inputs = Wav2Vec2FeatureExtractor()(piece, sampling_rate=16000, return_tensors="pt")
        parts.append(tokenizer.decode(model(**inputs).logits[0].argmax(-1)))
    assert len(parts) > 1
    assert all(parts)
    assert transcribe(tmp_path / "long.wav") == " ".join(parts)


def test_other_formats_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    file.write_bytes(struct.pack("<I", 5) + struct.pack("<H", 12) + b"WhisperSpec\0" + struct.pack("<II", 3, 0))
    with pytest.raises(SystemExit, match="is version 5 of a WhisperSpec; this reads version 6"):
        example("offline_whisper")["read_variables"](file)
