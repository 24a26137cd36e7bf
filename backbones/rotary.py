"""Rotary positions of patches (Su et al. 2021; axial, as in DINOv3): angles by which queries and keys are turned."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vertebra.backbones.layers import Tables


class Rotary(nn.Module):
    """Cosines and sines for the patches of an image of any size; each lies between -1 and 1 along both axes.

    In training the whole grid may be moved at random: shifted, stretched along each axis, and scaled.

    Args:
        channels: Of a head, a multiple of 4: half of them turn with the row, half with the column.
        base: Of the powers that the frequencies are.
        shift: Largest shift, or None.
        jitter: Largest factor along one axis, or None.
        rescale: Largest factor along both, or None.
    """

    def __init__(
        self,
        channels: int,
        base: float = 100.0,
        shift: float | None = None,
        jitter: float | None = None,
        rescale: float | None = None,
    ) -> None:
        super().__init__()
        self.channels, self.base = channels, base
        self.shift, self.jitter, self.rescale = shift, jitter, rescale
        self.tables = Tables()

    def forward(self, rows: int, columns: int, prefix: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines, `(prefix + rows * columns, channels)` each, of the dtype of `like`; a prefix is not turned."""

        def compute() -> Tensor:
            return self._turned(self._places(rows, columns, like.device), prefix, like.dtype)

        if self.training and any(moved is not None for moved in (self.shift, self.jitter, self.rescale)):
            table = self._turned(self._moved(self._places(rows, columns, like.device)), prefix, like.dtype)
        else:
            table = self.tables.get((rows, columns, prefix, like.device, like.dtype), compute)
        cosines, sines = table.unbind()
        return cosines, sines

    @staticmethod
    def _places(rows: int, columns: int, device: torch.device) -> Tensor:
        """`(rows * columns, 2)`: row and column of each patch's centre, in float32."""
        lines = [2.0 * (torch.arange(0.5, count, device=device) / count) - 1.0 for count in (rows, columns)]
        return torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1).flatten(0, 1)

    def _moved(self, places: Tensor) -> Tensor:
        if self.shift is not None:
            places = places + places.new_empty(2).uniform_(-self.shift, self.shift)
        for factor, axes in ((self.jitter, 2), (self.rescale, 1)):
            if factor is not None:
                places = places * places.new_empty(axes).uniform_(-math.log(factor), math.log(factor)).exp()
        return places

    def _turned(self, places: Tensor, prefix: int, dtype: torch.dtype) -> Tensor:
        """`(2, prefix + n, channels)`: cosines and sines, computed in float32 at least."""
        steps = torch.arange(self.channels // 4, dtype=torch.float64, device=places.device) * (4 / self.channels)
        frequencies = (1 / self.base ** steps.float()).to(torch.promote_types(dtype, torch.float32))
        angles = (2 * math.pi * places[:, :, None] * frequencies).flatten(1).tile(2)
        cosines, sines = angles.cos().to(dtype), angles.sin().to(dtype)
        return torch.stack([F.pad(cosines, (0, 0, prefix, 0), value=1.0), F.pad(sines, (0, 0, prefix, 0))])

    def extra_repr(self) -> str:
        """Show the frequencies and what moves in training."""
        return f"channels={self.channels}, base={self.base}, shift={self.shift}, jitter={self.jitter}, rescale={self.rescale}"
