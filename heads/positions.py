"""Sine position embeddings of maps, as DETR has them (Carion et al. 2020)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vertebra.backbones.layers import Tables

TEMPERATURE = 10000
TINY = 1e-6


class SinePositions(nn.Module):
    """Sines and cosines of each cell's row (first half of the channels) and column, counted from 1 and scaled to 2 pi.

    Args:
        channels: Of the embedding, a multiple of 4.

    Raises:
        ValueError: the channels do not divide into sines and cosines of two directions.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels % 4:
            raise ValueError(
                f"Sine positions of {channels} channels: sines and cosines of rows and columns share them, so that they must "
                f"be a multiple of 4."
            )
        self.channels = channels
        self.tables = Tables(limit=8)

    def forward(self, like: Tensor, real: Tensor | None = None) -> Tensor:
        """Embed the cells of a map.

        Args:
            like: A map `(b, c, h, w)`, for size, dtype and device.
            real: `(b, h, w)`, True where a cell belongs to the image; rows and columns are counted and scaled over these alone.

        Returns:
            `(1, channels, h, w)`, or `(b, channels, h, w)` with `real`.
        """
        height, width, device = like.shape[-2], like.shape[-1], like.device
        # counted in float32 at least: half precision holds no more than 2048 rows, and far fewer angles
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        if real is not None:
            return self._embed(real.to(dtype)).to(like.dtype)
        return self.tables.get(
            (height, width, device, like.dtype),
            lambda: self._embed(torch.ones(1, height, width, dtype=dtype, device=device)).to(like.dtype),
        )

    def _embed(self, real: Tensor) -> Tensor:
        """`(b, h, w)` of ones and zeros to `(b, channels, h, w)`."""
        pairs = torch.arange(self.channels // 4, dtype=real.dtype, device=real.device)
        frequencies = TEMPERATURE ** (-pairs / (self.channels // 4))
        halves = []
        for axis in (1, 2):
            count = real.cumsum(axis)
            total = count.narrow(axis, count.shape[axis] - 1, 1)
            angles = (count / (total + TINY) * (2 * math.pi)).unsqueeze(-1) * frequencies  # (b, h, w, channels / 4)
            halves.append(torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(3))
        return torch.cat(halves, dim=-1).permute(0, 3, 1, 2)

    def extra_repr(self) -> str:
        """Show the channels."""
        return f"channels={self.channels}"
