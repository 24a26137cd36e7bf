"""Write down the speech in wav files.

    python examples/offline_whisper.py demo/whisper        # a checkpoint that needs no network
    python examples/transcribe.py FILE.wav … --model demo/whisper

The model is a folder or a hub id, of Whisper or of a CTC model such as Wav2Vec2. Recordings of any rate, length and number of
channels are taken: channels are averaged, the rate is converted, and what is longer than 30 s is cut where it is quiet.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.io import wavfile
from scipy.signal import resample_poly

from vertebra import AutoConfig, AutoFeatureExtractor, AutoModelForCTC, AutoModelForSpeechSeq2Seq, AutoTokenizer

LONGEST, SEARCHED, QUIET = 30.0, 5.0, 0.2
"""Seconds of a piece at most, from whose end a quiet place is looked for, and how long that is."""


def read_audio(file: Path, rate: int) -> np.ndarray:
    """The samples of a wav file, within -1…1, one channel, at `rate` Hz."""
    found, samples = wavfile.read(file)
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128) / 128
    elif np.issubdtype(samples.dtype, np.integer):
        samples = samples.astype(np.float32) / (np.iinfo(samples.dtype).max + 1)
    samples = samples.mean(axis=1) if samples.ndim > 1 else samples
    divisor = np.gcd(found, rate)
    return resample_poly(samples, rate // divisor, found // divisor).astype(np.float32)


def pieces(samples: np.ndarray, rate: int) -> Iterator[np.ndarray]:
    """Cut samples into pieces of at most `LONGEST` seconds, each but the last where it is quietest near its end."""
    longest, quiet = int(LONGEST * rate), int(QUIET * rate)
    while len(samples) > longest:
        begin = longest - int(SEARCHED * rate)
        power = np.convolve(samples[begin:longest] ** 2, np.ones(quiet), mode="valid")
        cut = begin + int(power.argmin()) + quiet // 2
        yield samples[:cut]
        samples = samples[cut:]
    yield samples


def transcriber(model_name: str, device: str = "cpu", **settings: Any) -> Any:
    """A function that gives the text of a wav file; `settings` go to `generate` (`language="de"`, `task="translate"`, …)."""
    extractor, tokenizer = AutoFeatureExtractor.from_pretrained(model_name), AutoTokenizer.from_pretrained(model_name)
    writes = getattr(AutoConfig.from_pretrained(model_name), "is_encoder_decoder", False)
    if settings and not writes:
        raise SystemExit(f"{model_name} scores letters and does not generate(), so it takes no {', '.join(settings)}.")
    auto = AutoModelForSpeechSeq2Seq if writes else AutoModelForCTC
    model = auto.from_pretrained(model_name, dtype=torch.float32).to(device)

    @torch.no_grad()
    def text_of(piece: np.ndarray) -> str:
        inputs = extractor(piece, sampling_rate=extractor.sampling_rate, return_tensors="pt").to(device)
        if writes:
            return tokenizer.decode(model.generate(inputs.input_features, **settings)[0], skip_special_tokens=True)
        return tokenizer.decode(model(**inputs).logits[0].argmax(-1))

    def transcribe(file: Path) -> str:
        samples = read_audio(Path(file), extractor.sampling_rate)
        texts = [text_of(piece) for piece in pieces(samples, extractor.sampling_rate)]
        return "".join(texts) if writes else " ".join(filter(None, texts))  # Whisper's tokens bring their spaces

    return transcribe


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write down the speech in wav files.")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--model", required=True, help="folder or hub id")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--language", help="of the speech, for models that know several")
    options = parser.parse_args()
    transcribe = transcriber(
        options.model, options.device, **({"language": options.language} if options.language else {})
    )
    for file in options.files:
        print(f"{file.name}:{transcribe(file)}" if len(options.files) > 1 else transcribe(file))
