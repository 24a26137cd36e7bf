"""At which image sizes timm's architectures run, found by running them on the meta device, and what building for one takes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vertebra.backbones import timm_models
from vertebra.backbones.sizes import Size, distance
from vertebra.backbones.timm_sizes import NO_META_RUN, fixed_size_reason
from vertebra.stages import Stage

if TYPE_CHECKING:
    from vertebra.backbones.timm_backbone import TimmBackbone, TimmBackboneConfig

UNFIT = (AssertionError, IndexError, RuntimeError, TypeError, ValueError, ZeroDivisionError)
"""What timm's models raise on image sizes they do not run at."""
PROBED = 256
"""Sizes whose outcome a probe remembers."""


class SizeProbe:
    """Runs an architecture on the meta device to see which image sizes it takes; each size is tried once.

    Args:
        config: Names the architecture.
    """

    def __init__(self, config: TimmBackboneConfig) -> None:
        self.config = config
        self._built: tuple[nn.Module, list[Stage]] | None = None
        self._known: dict[tuple[int, int, int], list[Size] | None] = {}

    def __reduce__(self) -> tuple[type[SizeProbe], tuple[Any, ...]]:
        return SizeProbe, (self.config,)  # copies and pickles begin anew

    def map_sizes(self, height: int, width: int, last: int) -> list[Size] | None:
        """Map size of every level up to `last`, or None where the architecture does not run.

        Raises:
            ValueError: the architecture cannot be built.
        """
        key = (height, width, last)
        if last >= 0 and key not in self._known:
            if len(self._known) >= PROBED:
                self._known.clear()
            self._known[key] = self._run(*key)
        return self._known[key] if last >= 0 else []

    def _run(self, height: int, width: int, last: int) -> list[Size] | None:
        with torch.device("meta"), torch.no_grad():
            if self._built is None:
                built = timm_models.build_configured(self.config).eval()
                self._built = built, timm_models.describe_levels(built)
            model, levels = self._built
            if fixed_size_reason(model, height, width, timm_models.native_size(model)) is not None:
                return None
            if type(model).__name__ in NO_META_RUN:
                return [(int(height // level.stride[0]), int(width // level.stride[1])) for level in levels[: last + 1]]
            try:
                states = timm_levels(
                    model, torch.empty(1, self.config.num_channels, height, width), list(range(last + 1))
                )
            except UNFIT:
                return None
        if any(swollen(level, state, height, width) for level, state in zip(levels, states, strict=False)):
            return None
        return [(state.shape[-2], state.shape[-1]) for state in states]


def swollen(stage: Stage, state: Tensor, height: int, width: int) -> bool:
    """Whether a map has more cells than the image can give: a single cell was spread over a table of positions."""
    rows, columns = height / stage.stride[0], width / stage.stride[1]  # some pad to whole windows: one more is right
    return bool(state.shape[-2] > math.ceil(rows) + 1 or state.shape[-1] > math.ceil(columns) + 1)


def timm_levels(model: Any, pixel_values: Tensor, indices: list[int]) -> list[Tensor]:
    """The maps of the levels `indices` (ascending), `(b, c, h, w)` each, before any final norm."""
    return list(
        model.forward_intermediates(
            pixel_values, indices=indices, norm=False, stop_early=True, output_fmt="NCHW", intermediates_only=True
        )
    )


def settle_size(config: TimmBackboneConfig, build: Callable[[TimmBackboneConfig], TimmBackbone]) -> TimmBackboneConfig:
    """Turn the wish `config.image_size` into what the architecture needs: `img_size`, or nothing.

    `img_size` is what an architecture needs that does not run at the size otherwise, and what those in `FLEXIBLE` get so
    that tables and windows are laid out for the size once. Under a size policy the network sees the padded or cropped size.

    Args:
        config: A configuration with a wish.
        build: Builds a configuration on the meta device.

    Returns:
        A configuration without a wish.

    Raises:
        ValueError: the architecture cannot run at that size; names the nearest size at which it can.
    """
    wish = config.image_size
    assert wish is not None
    plain = copy.deepcopy(config)
    plain.image_size = None
    whole = build(plain)
    if not whole.is_flexible and whole.accepts(*wish):
        return plain
    fitted = whole._fitted(*wish)
    if can_be_built(plain, fitted, whole.last_stage):
        return _sized(plain, fitted)
    if whole.accepts(*wish):
        return plain
    candidates = _candidates(wish, (whole.size_divisor, *whole.native_size))
    near = next((size for size in candidates if can_be_built(plain, whole._fitted(*size), whole.last_stage)), None)
    raise whole.refuse_size(*wish, f"timm's {config.backbone} cannot be built for images of {wish[0]}x{wish[1]}", near)


def can_be_built(config: TimmBackboneConfig, size: Size, last: int) -> bool:
    """Whether the architecture takes `img_size` of `(height, width)` and then runs at it, up to the level `last`."""
    try:
        return SizeProbe(_sized(config, size)).map_sizes(*size, last) is not None
    except ValueError:
        return False


def _sized(config: TimmBackboneConfig, size: Size) -> TimmBackboneConfig:
    sized = copy.deepcopy(config)
    sized.model_args = {**(config.model_args or {}), "img_size": list(size)}
    return sized


def _candidates(size: Size, steps: Iterable[int]) -> list[Size]:
    """The multiples of each step around `size`, and squares of them, nearest first."""
    found: set[Size] = set()
    for step in steps:
        rows, columns = ([side // step * step, -(-side // step) * step] for side in size)
        found |= {(row, column) for row in rows for column in columns} | {(side, side) for side in (*rows, *columns)}
    return sorted({each for each in found if min(each) > 0}, key=lambda each: distance(size, each))
