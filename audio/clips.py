"""Audio as it is given: what counts as one clip or several, and what cannot be used, with what to do about it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from functools import lru_cache
from math import gcd
from typing import Any

import numpy as np
import torch

Clip = np.ndarray[Any, np.dtype[np.float32]]
FEW_CHANNELS = 8
"""A batch of clips of so few samples is a recording of so many channels."""
LOUD = 32.0
"""Samples are within -1…1; gain may exceed that, but not by so much."""
NO_AUDIO = (
    "Audio is an array, a tensor or a list of samples within -1…1, or a list of these; got {}. Read a file first: "
    "samples, rate = soundfile.read(path)."
)

logger = logging.getLogger(__name__)


def read_clips(audio: Any) -> list[Clip]:
    """Return the clips of `audio` as float32 arrays `(n,)`.

    Args:
        audio: Samples within -1…1: one clip (array or tensor `(n,)`, list of floats), or several (array or tensor `(b, n)`, list
            of clips, which may differ in length).

    Raises:
        TypeError: it is not audio, or its samples are whole numbers.
        ValueError: a clip is empty, has several channels, or holds NaN or infinity. All say what to do.
    """
    return [_checked(clip, index) for index, clip in enumerate(_split(audio))]


def _split(audio: Any) -> list[Any]:
    if isinstance(audio, (list, tuple)) and len(audio):
        _refuse_other(audio[0])
    _refuse_other(audio)
    if not isinstance(audio, (np.ndarray, torch.Tensor, list, tuple)):
        raise TypeError(NO_AUDIO.format(type(audio).__name__))
    if isinstance(audio, (list, tuple)):
        if len(audio) == 0:
            raise ValueError("Audio is an empty list; there must be at least one clip.")
        return list(audio) if isinstance(audio[0], (np.ndarray, torch.Tensor, list, tuple)) else [audio]
    shape = tuple(audio.shape)
    if len(shape) == 1:
        return [audio]
    if len(shape) != 2 or shape[1] <= FEW_CHANNELS < shape[0]:
        raise ValueError(
            f"Audio of shape {shape} is not mono: a clip has the shape (samples,), a batch (clips, samples). "
            f"{_to_mono(len(shape))}"
        )
    if shape[0] == 0:
        raise ValueError(f"Audio of shape {shape} has no clips; there must be at least one.")
    return list(audio)


def _refuse_other(audio: Any) -> None:
    """Say what to do with what holds audio, or names a file of it."""
    if isinstance(audio, Mapping) and "array" in audio:
        raise TypeError(
            f"Pass the samples and their rate apart: audio['array'], sampling_rate={audio.get('sampling_rate', '…')}."
        )
    if isinstance(audio, (str, bytes, os.PathLike, Mapping)):
        raise TypeError(NO_AUDIO.format(type(audio).__name__))


def _to_mono(dimensions: int) -> str:
    axis = {2: "audio.mean(axis=1) for (samples, channels)", 3: "audio.mean(axis=1) for (clips, channels, samples)"}
    return f"Average the channels first: {axis.get(dimensions, 'audio.mean(axis=…) over their axis')}."


def _checked(clip: Any, index: int) -> Clip:
    if isinstance(clip, torch.Tensor):
        clip = (clip.float() if clip.is_floating_point() else clip).numpy(force=True)
    try:
        samples = np.asarray(clip)
    except ValueError as error:
        raise ValueError(f"Clip {index} is no sequence of numbers: {error}.") from error
    if samples.ndim != 1:
        raise ValueError(
            f"Clip {index} has shape {samples.shape}; in a list each clip has the shape (samples,). For one channel pass clip[0] "
            f"or clip[:, 0]; several are averaged first, clip.mean(axis=…)."
        )
    if samples.size == 0:
        raise ValueError(f"Clip {index} is empty: it has no samples. Leave it out.")
    if samples.dtype.kind not in "biufc":
        raise TypeError(
            f"Clip {index} holds objects that are no numbers: {samples[:3]!r} …; models take floats within -1…1."
        )
    if not np.issubdtype(samples.dtype, np.floating):
        scale = float(np.iinfo(samples.dtype).max) + 1 if np.issubdtype(samples.dtype, np.signedinteger) else None
        how = f"divide by {scale:.0f}, the range of {samples.dtype}" if scale else "scale them"
        raise TypeError(
            f"Clip {index} holds samples of dtype {samples.dtype}; models take floats within -1…1: {how} (soundfile.read(path) "
            f"gives floats; of 16-bit samples, samples / 32768)."
        )
    finite = np.isfinite(samples)
    if not finite.all():
        bad = int(np.argmin(finite))
        raise ValueError(
            f"Clip {index} holds {samples[bad]} at sample {bad}, and {int((~finite).sum())} such in all. Repair it "
            f"(numpy.nan_to_num makes them silence) or leave it out."
        )
    if (peak := float(np.abs(samples).max())) > LOUD:
        _warn_loud(round(peak))
    return samples.astype(np.float32, copy=False)


def check_sampling_rate(given: int | None, expected: int, extractor: str) -> None:
    """Refuse audio of another sampling rate; say so once where nobody tells the rate.

    Raises:
        ValueError: the rates differ.
    """
    if given is None:
        _warn_unknown_rate(extractor, expected)
    elif given != expected:
        raise ValueError(
            f"sampling_rate={given}, but {extractor} is for {expected} Hz. Resample first: {resampling(given, expected)}."
        )


def resampling(given: Any, expected: int) -> str:
    """The call that resamples, as text."""
    if not isinstance(given, (int, np.integer)) or given <= 0:
        return f"scipy.signal.resample_poly(audio, {expected}, rate)"
    divisor = gcd(int(given), expected)
    return f"scipy.signal.resample_poly(audio, {expected // divisor}, {int(given) // divisor})"


@lru_cache(maxsize=64)
def _warn_unknown_rate(extractor: str, expected: int) -> None:
    logger.warning(
        "%s was not told the audio's sampling rate and takes it as %d Hz. Pass sampling_rate=…, so that another one is noticed.",
        extractor,
        expected,
    )


@lru_cache(maxsize=1)
def _warn_loud(peak: int) -> None:
    logger.warning(
        "A clip has samples up to %d, and models take -1…1. If these were 16-bit levels, divide them by 32768.", peak
    )
