"""The memory format in which convolutions on a CPU are fastest."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vertebra.linear import runs_plainly


def for_convolutions(maps: Sequence[Tensor]) -> list[Tensor]:
    """`(b, c, h, w)` maps in channels-last, which spares convolutions and enlargements copies; as they are while training."""
    if not runs_plainly(*maps):
        return list(maps)
    return [x.contiguous(memory_format=torch.channels_last) for x in maps]
