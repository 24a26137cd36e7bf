"""Channel projection: a 1x1 convolution on each map, all to one width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vertebra.backbones.necks.config import no_such_strides
from vertebra.backbones.necks.interpolate import Interpolate, InterpolateConfig
from vertebra.stages import Stage, pair


class ProjectionConfig(InterpolateConfig):
    """Configuration of a channel projection; the keys are those of `InterpolateConfig`."""

    model_type = "vertebra_projection"

    channels: int | None = 256


class Projection(Interpolate):
    """The backbone's own maps, each projected to `channels`; strides stay as they are."""

    config_class = ProjectionConfig
    config: ProjectionConfig

    @classmethod
    def wire(cls, stages: Sequence[Stage], strides: Sequence[Any] | None) -> tuple[list[Any], list[str]]:
        """The deepest stage of each stride asked for; no other strides."""
        asked, names = super().wire(stages, strides)
        have = {stage.name: stage.stride for stage in stages}
        if missing := [stride for stride, name in zip(asked, names, strict=True) if pair(stride) != have[name]]:
            raise no_such_strides(cls.__name__, asked, missing, stages)
        return asked, names
