"""Spans that are masked while training (SpecAugment, Park et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vertebra.config import PreTrainedConfig


def masked_spans(
    rows: int, steps: int, share: float, length: int, least: int = 0, lengths: Sequence[int] | None = None
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Draw spans to mask, by NumPy's global generator, as transformers draws them.

    Spans may overlap, so `share` is the most that is masked.

    Args:
        rows: How many sequences.
        steps: Their steps, padding included.
        share: Part of the steps to mask, 0…1.
        length: Steps of a span.
        least: Spans in a sequence at least.
        lengths: Steps of each sequence that are not padding; `steps` when None.

    Returns:
        Bool `(rows, steps)`, True where masked.

    Raises:
        ValueError: spans are empty, or longer than the sequences.
    """
    if not 1 <= length <= steps:
        raise ValueError(
            f"Spans of {length} steps cannot be masked in sequences of {steps} steps. Give longer audio, a shorter "
            f"mask_time_length or mask_feature_length, or apply_spec_augment=False."
        )
    rounding = np.random.rand()

    def count(available: int) -> int:
        wanted = max(int(share * available / length + rounding), least)
        return min(wanted, steps // length, max(available - length + 1, 0))

    mask = np.zeros((rows, steps), dtype=bool)
    if count(steps) == 0:
        return mask
    for row, available in zip(mask, [steps] * rows if lengths is None else lengths, strict=True):
        starts = np.random.choice(np.arange(available - length + 1), count(available), replace=False)
        for start in starts:
            row[start : start + length] = True
        if not len(starts):  # too short for any: the last step, which is padding, stands in
            row[-1] = True
    return mask


def drawn_spans(
    config: PreTrainedConfig, axis: str, rows: int, steps: int, device: torch.device, real: Tensor | None = None
) -> Tensor | None:
    """Draw what a configuration masks; errors as `masked_spans`.

    Args:
        config: Has `mask_{axis}_prob`, `mask_{axis}_length` and `mask_{axis}_min_masks`.
        axis: `"time"` or `"feature"`.
        rows: How many sequences.
        steps: Their steps along the axis.
        device: Where the mask is wanted.
        real: `(rows, steps)`, true at steps that are not padding; None where all are.

    Returns:
        Bool `(rows, steps)`, True where masked; None where the configuration masks nothing along the axis.
    """
    share = getattr(config, f"mask_{axis}_prob")
    if share <= 0:
        return None
    spans = (getattr(config, f"mask_{axis}_length"), getattr(config, f"mask_{axis}_min_masks"))
    lengths = None if real is None else real.sum(-1).tolist()
    return torch.from_numpy(masked_spans(rows, steps, share, *spans, lengths)).to(device)
