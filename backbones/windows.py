"""Attention windows: cutting a map into them, putting it together, and the tables that go with cyclic shifts."""

from __future__ import annotations

import torch
from torch import Tensor

MASKED = -100.0
"""Added to attention scores between regions that a cyclic shift brought together; what the checkpoints were trained with."""


def relative_index(window: int | tuple[int, int], device: torch.device) -> Tensor:
    """Row of the bias table for every pair of cells of a window (a side, or `(rows, columns)`), flattened to `(n * n,)`."""
    rows, columns = (window, window) if isinstance(window, int) else window
    index = steps(rows, device)[:, None, :, None] * (2 * columns - 1) + steps(columns, device)[None, :, None, :]
    return index.flatten()


def steps(cells: int, device: torch.device) -> Tensor:
    """`(cells, cells)`: how far the first cell of a line is behind the second, from 0 to `2 * cells - 2`."""
    line = torch.arange(cells, device=device)
    return line[:, None] - line[None, :] + cells - 1


def log_spaced_steps(window: int, trained: int, device: torch.device) -> Tensor:
    """`(rows of the bias table, 2)`: vertical and horizontal step between two cells of a window, on a logarithmic scale.

    Args:
        window: Side of the windows in cells.
        trained: Side of the windows that 1 stands for (what weights were first trained with); 0 for the windows themselves.
        device: Where the table is made.
    """
    line = torch.arange(1 - window, window, device=device, dtype=torch.float32) * 8
    if (trained or window) > 1:
        line = line / ((trained or window) - 1)
    line = line.sign() * (line.abs() + 1).log2() / 3
    return torch.stack(torch.meshgrid(line, line, indexing="ij"), dim=-1).flatten(0, 1)


def shift_mask(rows: int, columns: int, window: int, shift: int, like: Tensor, masked: float = MASKED) -> Tensor:
    """`(windows, n, n)`: 0 between cells that were neighbours before the cyclic shift, `masked` between others."""
    regions = torch.zeros(rows, columns, device=like.device)
    regions[rows - window :] += 1
    regions[rows - shift :] += 1
    regions[:, columns - window :] += 3
    regions[:, columns - shift :] += 3
    cells = to_windows(regions[None, :, :, None], window).squeeze(-1)  # (windows, n)
    apart = cells[:, :, None] != cells[:, None, :]
    return torch.zeros(apart.shape, device=like.device, dtype=like.dtype).masked_fill_(apart, masked)


def to_windows(x: Tensor, window: int) -> Tensor:
    """`(b, h, w, c)` to `(b * windows, window * window, c)`."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // window, window, width // window, window, channels)
    return x.transpose(2, 3).reshape(-1, window * window, channels)


def from_windows(windows: Tensor, window: int, height: int, width: int) -> Tensor:
    """`(b * windows, window * window, c)` to `(b, h, w, c)`."""
    x = windows.view(-1, height // window, width // window, window, window, windows.shape[-1])
    return x.transpose(2, 3).reshape(-1, height, width, windows.shape[-1])


def window_rows(batch: int, height: int, width: int, window: int, shift: int, device: torch.device) -> Tensor:
    """Where the cells of shifted windows stand in a map whose sides are multiples of a window's.

    Returns:
        `(b * h * w,)`: for every cell in the order of `to_windows(x.roll((-shift, -shift), dims=(1, 2)), window)`, its row in `x`
        flattened to `(b * h * w, c)`.
    """
    cells = torch.arange(batch * height * width, device=device).view(batch, height, width, 1)
    return to_windows(cells.roll((-shift, -shift), dims=(1, 2)), window).flatten()


def unroll(x: Tensor, stride: tuple[int, int], times: int) -> Tensor:
    """Bring the cells of a map into an order in which pooling and windows are plain reshaping.

    Cells that pooling by `stride` joins first differ in the leading part of the new index, so the maximum over a pool is
    `y.view(b, pooled, -1, c).max(1)`, and again for the next pool, `times` in all.

    Args:
        x: `(b, h, w, c)`; sides are multiples of `stride` to the power of `times`.
        stride: `(vertical, horizontal)`.
        times: How often.

    Returns:
        `(b, h * w, c)`.
    """
    batch, height, width, channels = x.shape
    down, right = stride
    rows, columns = height // down**times, width // right**times
    x = x.reshape(batch, rows, *[down] * times, columns, *[right] * times, channels)
    return x.permute(_unrolled_axes(times)).reshape(batch, height * width, channels)


def from_unrolled(x: Tensor, stride: tuple[int, int], times: int, height: int, width: int) -> Tensor:
    """`(b, h * w, c)` of `unroll` (after pooling: with as many `times` less) to the map `(b, h, w, c)`."""
    axes = _unrolled_axes(times)
    rows, columns = height // stride[0] ** times, width // stride[1] ** times
    x = x.view(x.shape[0], *stride * times, rows, columns, x.shape[-1])
    return x.permute([axes.index(axis) for axis in range(len(axes))]).reshape(x.shape[0], height, width, x.shape[-1])


def _unrolled_axes(times: int) -> list[int]:
    """The axes of `(b, rows, *steps, columns, *steps, c)` in unrolled order: finest step first, whole units last."""
    steps = [axis for step in reversed(range(times)) for axis in (2 + step, times + 3 + step)]
    return [0, *steps, 1, times + 2, 2 * times + 3]
