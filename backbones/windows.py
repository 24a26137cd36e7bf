"""Attention windows: cutting a map into them, putting it together, and the tables that go with cyclic shifts."""

from __future__ import annotations

import torch
from torch import Tensor

MASKED = -100.0
"""Added to attention scores between regions that a cyclic shift brought together; what the checkpoints were trained with."""


def relative_index(window: int, device: torch.device) -> Tensor:
    """Row of the bias table for every pair of cells of a window, flattened to `(n * n,)`."""
    line = torch.arange(window, device=device)
    step = line[:, None] - line[None, :] + window - 1  # (window, window), 0 … 2 * window - 2
    index = step[:, None, :, None] * (2 * window - 1) + step[None, :, None, :]
    return index.flatten()


def shift_mask(rows: int, columns: int, window: int, shift: int, like: Tensor) -> Tensor:
    """`(windows, n, n)`: 0 between cells that were neighbours before the cyclic shift, `MASKED` between others."""
    regions = torch.zeros(rows, columns, device=like.device)
    regions[rows - window :] += 1
    regions[rows - shift :] += 1
    regions[:, columns - window :] += 3
    regions[:, columns - shift :] += 3
    cells = to_windows(regions[None, :, :, None], window).squeeze(-1)  # (windows, n)
    apart = cells[:, :, None] != cells[:, None, :]
    return torch.zeros(apart.shape, device=like.device, dtype=like.dtype).masked_fill_(apart, MASKED)


def to_windows(x: Tensor, window: int) -> Tensor:
    """`(b, h, w, c)` to `(b * windows, window * window, c)`."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // window, window, width // window, window, channels)
    return x.transpose(2, 3).reshape(-1, window * window, channels)


def from_windows(windows: Tensor, window: int, height: int, width: int) -> Tensor:
    """`(b * windows, window * window, c)` to `(b, h, w, c)`."""
    x = windows.view(-1, height // window, width // window, window, window, windows.shape[-1])
    return x.transpose(2, 3).reshape(-1, height, width, windows.shape[-1])
