"""Feature Pyramid Network (Lin et al. 2017): coarse maps are added to finer ones from the top down."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from vertebra.backbones.necks.base import Neck
from vertebra.backbones.necks.blocks import check_norm, convolution, nearest, ratio_of
from vertebra.backbones.necks.config import NeckConfig, no_such_strides
from vertebra.stages import Stage, pair, plain_stride

EXTRA = ("pool", "conv")


class FPNConfig(NeckConfig):
    """Configuration of a feature pyramid network.

    Args:
        backbone_config: Configuration of the backbone below.
        channels: Channels of every level.
        strides: Strides of the levels: those of `in_features`, then further ones that double.
        in_features: The backbone's stages, finest first.
        norm: `"batch"`, `"group"` or `"layer"` after every convolution; None for convolutions with a bias.
        extra_levels: How levels beyond the coarsest stage are made: `"pool"` takes every second cell of the level before
            (torchvision, detectron2), `"conv"` a 3x3 convolution of stride 2 with a ReLU between two (RetinaNet).
    """

    model_type = "vertebra_fpn"

    norm: str | None = None
    extra_levels: str = "conv"

    def validate(self) -> None:
        """Check the norm and the kind of further levels. Raises ValueError."""
        super().validate()
        check_norm(self.norm)
        if self.channels is None:
            raise ValueError(f"{type(self).__name__} adds maps, so they need one width: channels=256, say, not None.")
        if self.extra_levels not in EXTRA:
            raise ValueError(f"extra_levels={self.extra_levels!r} must be one of {', '.join(EXTRA)}.")


class FPN(Neck):
    """Feature pyramid network: 1x1 convolutions, sums from the top down (nearest neighbour), 3x3 convolutions.

    `FPN(backbone, channels=256)` has a level for each of the backbone's selected maps, whose strides must differ;
    `strides=(4, 8, 16, 32, 64)` adds levels that double the last stride.
    """

    config_class = FPNConfig
    config: FPNConfig

    @classmethod
    def wire(cls, stages: Sequence[Stage], strides: Sequence[Any] | None) -> tuple[list[Any], list[str]]:
        """The deepest stage of each stride asked for, in order; strides beyond the coarsest must double."""
        deepest = {stage.stride: stage for stage in sorted(stages, key=lambda stage: stage.index)}
        asked = [pair(stride) for stride in strides] if strides is not None else sorted(deepest)
        base = [stride for stride in asked if stride in deepest]
        extra = asked[len(base) :]
        ladder = [base[-1], *extra] if base else []
        doubles = all(b == (2 * a[0], 2 * a[1]) for a, b in zip(ladder, extra, strict=False))
        if not base or asked[: len(base)] != base or not doubles or asked != sorted(asked):
            missing = [stride for stride in asked if stride not in deepest]
            raise no_such_strides(cls.__name__, asked, missing or asked, stages)
        return [plain_stride(stride) for stride in asked], [deepest[stride].name for stride in base]

    @classmethod
    def inputs_of(cls, level: int, config: Any) -> Sequence[str]:
        """A level depends on its own stage and all coarser ones."""
        return list(config.in_features[min(level, len(config.in_features) - 1) :])

    @classmethod
    def level(cls, source: Stage, index: int, config: Any) -> Stage:
        """Levels lie where their stages lie; further ones keep every second cell."""
        name, hop = config.stage_names[index], config.hops[index]
        return Stage(name, index, config.channels, hop, source.offset, source.offset_note)

    def build(self, levels: Sequence[Stage]) -> None:
        """1x1 convolutions from the lowest level up, 3x3 ones where a level is returned or continued."""
        config, base = self.config, len(self.config.in_features)
        lowest, highest = self.span(levels)
        widths = {stage.name: stage.channels for stage in self.inputs}
        rising = self.stages[lowest:base]
        continued = {base - 1} if highest >= base else set()
        returned = [self.stages[i] for i in sorted({stage.index for stage in levels if stage.index < base} | continued)]
        width: Any = config.channels
        self.lateral = nn.ModuleDict(
            {s.name: convolution(widths[config.source_of(s.index)], width, norm=config.norm) for s in rising}
        )
        self.output = nn.ModuleDict({s.name: convolution(width, width, 3, config.norm) for s in returned})
        further = self.stages[base : highest + 1]
        self.extra = nn.ModuleDict({s.name: self._extra_level(first=s.index == base) for s in further})

    def span(self, levels: Sequence[Stage]) -> tuple[int, int]:
        """Index of the lowest stage that is projected, and of the highest level made, for `levels`."""
        indices = [stage.index for stage in levels]
        top = len(self.config.in_features) - 1
        return min([*indices, top]), max(indices, default=-1)

    def _extra_level(self, first: bool) -> nn.Module:
        width: Any = self.config.channels
        if self.config.extra_levels == "pool":
            return nn.MaxPool2d(1, 2)
        conv = convolution(width, width, 3, self.config.norm, stride=2)
        return conv if first else nn.Sequential(nn.ReLU(), *conv)

    def fuse(self, maps: Mapping[str, Tensor], levels: Sequence[Stage]) -> list[Tensor]:
        """From the top down, then one convolution a level; further levels follow the coarsest."""
        lowest, highest = self.span(levels)
        base = len(self.config.in_features)
        states = self.top_down(maps, lowest)
        results = {
            stage.name: self.output[stage.name](states[stage.name])
            for stage in self.stages[lowest:base]
            if stage in levels or (highest >= base and stage.index == base - 1)
        }
        return self.with_extra(results, levels)

    def top_down(self, maps: Mapping[str, Tensor], lowest: int) -> dict[str, Tensor]:
        """Level name to its projected map with all coarser ones added, from the coarsest down to level `lowest`."""
        states: dict[str, Tensor] = {}
        above: Stage | None = None
        for stage in reversed(self.stages[lowest : len(self.config.in_features)]):
            state: Tensor = self.lateral[stage.name](maps[self.config.source_of(stage.index)])
            if above is not None:
                ratio = ratio_of(above.stride, stage.stride)
                state = state + nearest(states[above.name], ratio, (state.shape[-2], state.shape[-1]))
            states[stage.name], above = state, stage
        return states

    def with_extra(self, results: dict[str, Tensor], levels: Sequence[Stage]) -> list[Tensor]:
        """The maps of `levels`, those beyond the coarsest stage made one from the other."""
        base = len(self.config.in_features)
        for before, stage in itertools.pairwise(self.stages[base - 1 : self.span(levels)[1] + 1]):
            results[stage.name] = self.extra[stage.name](results[before.name])
        return [results[stage.name] for stage in levels]
