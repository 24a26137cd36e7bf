"""What is kept of a level: some of its channels, cells pooled or skipped."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from vertebra.stages import Stage


@dataclass(frozen=True)
class Reduction:
    """What is kept of a map, in this order: channels, then every `stride`-th cell, then pooling.

    Args:
        pool: `"mean"` or `"max"` of the whole map, which leaves one cell; `"mean2"`, `"max2"` of blocks of 2 x 2 cells, where
            blocks at the bottom and right edge may be smaller; None keeps all cells.
        stride: Keep every so many cells along both axes, the first one included.
        channels: `"0:64"`, `"::4"` (a slice as Python writes it) or `"0,5,9"` (numbers); None keeps all.

    Raises:
        ValueError: a value that is not of these forms.
    """

    pool: str | None = None
    stride: int = 1
    channels: str | None = None

    def __post_init__(self) -> None:
        if self.pool is not None and not re.fullmatch(r"(mean|max)([2-9]|[1-9]\d+)?", self.pool):
            raise ValueError(
                f"pool={self.pool!r} must be 'mean' or 'max' for one cell a map, 'mean2' or 'max4' for blocks of so many "
                f"cells, or None."
            )
        if self.stride < 1:
            raise ValueError(f"stride={self.stride} must be at least 1, the number of cells from one kept to the next.")
        if self.channels is not None and not re.fullmatch(r"-?\d*:-?\d*(:[1-9]\d*)?|\d+(,\d+)*", self.channels):
            raise ValueError(
                f"channels={self.channels!r} must be a slice such as '0:64' or '::4', or numbers such as '0,5,9'."
            )

    def __call__(self, level: Tensor) -> Tensor:
        """Reduce `(b, c, h, w)` maps."""
        if self.channels is not None:
            level = level[:, self._kept(level.shape[1])]
        if self.stride > 1:
            level = level[:, :, :: self.stride, :: self.stride]
        if self.pool is None:
            return level
        if self.whole:
            return level.amax((2, 3), keepdim=True) if self.pool == "max" else level.mean((2, 3), keepdim=True)
        if self.pool.startswith("max"):
            return F.max_pool2d(level, self._block, ceil_mode=True)
        return F.avg_pool2d(level, self._block, ceil_mode=True, count_include_pad=False)

    def stage(self, stage: Stage) -> Stage:
        """The stage of the reduced map.

        Raises:
            ValueError: channels that the stage does not have, or none of them.
        """
        kept = self._kept(stage.channels)
        channels = len(range(stage.channels)[kept]) if isinstance(kept, slice) else len(kept)
        if not channels or (not isinstance(kept, slice) and max(kept) >= stage.channels):
            raise ValueError(
                f"channels={self.channels!r} does not fit stage {stage.name!r}, which has the channels 0 to "
                f"{stage.channels - 1}."
            )
        hop = (stage.stride[0] * self.stride, stage.stride[1] * self.stride)
        skipped = replace(stage, channels=channels, stride=hop)
        return skipped.resampled(stage.name, stage.index, channels, (hop[0] * self._block, hop[1] * self._block))

    @property
    def whole(self) -> bool:
        """Whether one cell of the result stands for the whole image, so that it has no stride."""
        return self.pool in ("mean", "max")

    @property
    def _block(self) -> int:
        """Cells along each side of what is pooled to one."""
        return int(re.sub(r"\D", "", self.pool or "") or 1)

    def _kept(self, channels: int) -> slice | list[int]:
        text = self.channels or ":"
        if ":" in text:
            return slice(*(int(part) if part else None for part in text.split(":")))
        return [int(part) for part in text.split(",")]


def level_to_json(stage: Stage, reduction: Reduction = Reduction()) -> dict[str, Any]:
    """A stored level as JSON holds it; strides and offsets are exact, `"14/3"` where they are not whole, None where unknown."""

    def exact(pair: tuple[Fraction, Fraction] | None) -> list[Any] | None:
        return None if pair is None else [int(x) if x.denominator == 1 else str(x) for x in pair]

    kept = reduction.stage(stage)
    place = (
        {"stride": None, "offset": None}
        if reduction.whole
        else {"stride": exact(kept.stride), "offset": exact(kept.offset)}
    )
    content = {"name": kept.name, "index": kept.index, "channels": kept.channels, **place}
    changes = {"pool": reduction.pool, "cell_stride": reduction.stride, "channel_subset": reduction.channels}
    unchanged = {"pool": None, "cell_stride": 1, "channel_subset": None}
    return {**content, **{name: value for name, value in changes.items() if value != unchanged[name]}}
