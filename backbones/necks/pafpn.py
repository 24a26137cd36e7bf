"""Path Aggregation Network's pyramid (Liu et al. 2018): an FPN, and a second path from the bottom up."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from vertebra.backbones.necks.blocks import Ratio, convolution, nearest, ratio_of
from vertebra.backbones.necks.fpn import FPN, FPNConfig
from vertebra.stages import Stage


class PAFPNConfig(FPNConfig):
    """Configuration of a path aggregation pyramid; the keys are those of `FPNConfig`."""

    model_type = "vertebra_pafpn"


class PAFPN(FPN):
    """An FPN whose levels are then added from the bottom up: each is halved by a 3x3 convolution, added to the next coarser
    one, and the sum passes a 3x3 convolution.
    """

    config_class = PAFPNConfig
    config: PAFPNConfig

    @classmethod
    def inputs_of(cls, level: int, config: Any) -> Sequence[str]:
        """Every level depends on all stages."""
        return list(config.in_features)

    def span(self, levels: Sequence[Stage]) -> tuple[int, int]:
        """Every level is projected; the second path ends with the highest of `levels`."""
        return 0, super().span(levels)[1]

    def build(self, levels: Sequence[Stage]) -> None:
        """The FPN's convolutions up to the highest level, and those of the second path."""
        base = self.stages[: len(self.config.in_features)]
        highest = self.span(levels)[1]
        super().build([*base[: highest + 1], *(stage for stage in levels if stage not in base)])
        width: Any = self.config.channels
        self.down, self.merge = nn.ModuleDict(), nn.ModuleDict()
        self.rest: dict[str, Ratio] = {}  # beyond the stride of the convolution, where that is no whole number
        for finer, stage in itertools.pairwise(base[: highest + 1]):
            hop = round(max(ratio_of(stage.stride, finer.stride)))
            self.down[stage.name] = convolution(width, width, 3, self.config.norm, stride=hop)
            self.rest[stage.name] = ratio_of((finer.stride[0] * hop, finer.stride[1] * hop), stage.stride)
            self.merge[stage.name] = convolution(width, width, 3, self.config.norm)

    def fuse(self, maps: Mapping[str, Tensor], levels: Sequence[Stage]) -> list[Tensor]:
        """From the top down, from the bottom up, then further levels."""
        base = self.stages[: len(self.config.in_features)][: self.span(levels)[1] + 1]
        states = self.top_down(maps, 0)
        results = {stage.name: self.output[stage.name](states[stage.name]) for stage in base}
        for finer, stage in itertools.pairwise(base):
            path, own = self.down[stage.name](results[finer.name]), results[stage.name]
            path = nearest(path, self.rest[stage.name], (own.shape[-2], own.shape[-1]))
            results[stage.name] = self.merge[stage.name](own + path)
        return self.with_extra(results, levels)
