"""Log-mel spectrograms: power in frequency bands that are spaced as we hear them, on Slaney's scale."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

FLOOR = 1e-10
"""The least power that is told from silence."""
RANGE = 8.0
"""Powers of ten below a clip's loudest cell that are kept."""

LINEAR_TO, MELS_THERE = 1000.0, 15.0
LOG_STEP = np.log(6.4) / 27.0


def to_mel(hertz: float) -> float:
    """Mels of a frequency on Slaney's scale: linear up to 1000 Hz, logarithmic above."""
    if hertz < LINEAR_TO:
        return hertz * MELS_THERE / LINEAR_TO
    return MELS_THERE + float(np.log(hertz / LINEAR_TO)) / LOG_STEP


def to_hertz(mels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The inverse of `to_mel`."""
    above = LINEAR_TO * np.exp(LOG_STEP * (np.maximum(mels, MELS_THERE) - MELS_THERE))
    return np.where(mels < MELS_THERE, mels * LINEAR_TO / MELS_THERE, above)


@lru_cache(maxsize=16)
def mel_filters(bands: int, n_fft: int, sampling_rate: int, highest: float = 8000.0) -> np.ndarray[Any, Any]:
    """Weights of triangular bands of equal area, `(n_fft // 2 + 1, bands)` float64.

    Args:
        bands: How many.
        n_fft: Samples of a window.
        sampling_rate: In Hz.
        highest: Where the last band ends, in Hz; the first begins at 0.
    """
    edges = to_hertz(np.linspace(to_mel(0.0), to_mel(highest), bands + 2))
    frequencies = np.linspace(0, sampling_rate // 2, n_fft // 2 + 1)[:, None]
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (frequencies - lower) / (centre - lower), (upper - frequencies) / (upper - centre)
    weights = np.maximum(0, np.minimum(rising, falling)) * (2 / (upper - lower))
    weights.setflags(write=False)
    return weights


def log_mel(waveforms: Tensor, filters: Tensor, n_fft: int, hop: int, active: int | None = None) -> Tensor:
    """Return the log-mel spectrogram of each clip, scaled as Whisper takes it.

    Args:
        waveforms: `(b, n)` float32, `n > n_fft // 2`.
        filters: `(n_fft // 2 + 1, bands)`, as `mel_filters` gives them.
        n_fft: Samples of a window (Hann).
        hop: Samples from a window to the next; the first is centred on sample 0.
        active: Samples after which all clips are zero; what follows is not transformed.

    Returns:
        `(b, bands, n // hop)`: log10 of the power, at most `RANGE` below the clip's highest, plus 4, divided by 4.
    """
    steps = waveforms.shape[1] // hop
    heard = steps if active is None else min(steps, -(-(active + n_fft // 2) // hop))
    end = waveforms.shape[1] if heard == steps else active + n_fft  # type: ignore[operator]
    window = torch.hann_window(n_fft, device=waveforms.device)
    spectrum = torch.stft(waveforms[:, :end], n_fft, hop, window=window, return_complex=True)
    power = (spectrum[..., :heard].abs() ** 2).contiguous()  # a view would make the product below slow
    levels = (filters.T @ power).clamp(min=FLOOR).log10()
    lowest = levels.amax((1, 2), keepdim=True) - RANGE
    silence = lowest.clamp(min=float(np.log10(FLOOR))).expand(-1, levels.shape[1], steps - heard)
    return (torch.cat([torch.maximum(levels, lowest), silence], dim=-1) + 4) / 4
