"""The base of all necks: a backbone whose maps are made of another backbone's maps."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from vertebra.auto.compose import build_backbone
from vertebra.backbones.base import Backbone, Size
from vertebra.backbones.necks.config import NeckConfig
from vertebra.card import CardFacts
from vertebra.errors import listing
from vertebra.outputs import BackboneOutput
from vertebra.stages import Stage, exact_strides


class Neck(Backbone):
    """A neck over a backbone. Its parameters stand beside those of the backbone, which keep their names under `backbone.`.

    A neck reads strides and channels from what is below it. Levels that are not selected are not built, and the backbone below
    is built only as far as the selected ones need it.

    Args:
        source: The built backbone (its selected maps are what the neck may use, and it becomes part of the neck), or a
            configuration of this neck (the backbone is built with random weights).
        **options: With a built backbone, keys of the configuration: `channels=256`, `strides=(4, 8, 16, 32)`, ….

    Raises:
        ValueError: a stride that this neck cannot make of the maps below; names what exists and which neck can.
    """

    config: NeckConfig

    def __init__(self, source: Backbone | NeckConfig, **options: Any) -> None:
        config, backbone = self._compose(source, options)
        below = {stage.name: stage for stage in backbone.stages}
        stages = [self.level(below[config.source_of(index)], index, config) for index in range(len(config.strides))]
        super().__init__(config, stages=stages)
        self.backbone = backbone
        self.config.backbone_config = backbone.config
        self.has_attentions = backbone.has_attentions
        self.inputs: tuple[Stage, ...] = tuple(below[name] for name in self._input_names(self.config))
        """The backbone's stages whose maps this neck reads, in stage order."""
        with torch.device(backbone.device):
            self.build([self.stages[index] for index in self.config.levels()])
        self.train(backbone.training)
        self.post_init()
        for child in self._own_children():
            child.to(backbone.dtype)

    @classmethod
    def _compose(cls, source: Backbone | NeckConfig, options: dict[str, Any]) -> tuple[Any, Backbone]:
        if isinstance(source, Backbone):
            strides, names = cls.plan(source.output_stages, options.pop("strides", None))
            config = cls.config_class(backbone_config=source.config, strides=strides, in_features=names, **options)
            if config.num_channels != source.config.num_channels:
                raise TypeError(
                    f"num_channels={config.num_channels} cannot change a backbone that is built; "
                    f"pyramid(name, num_channels={config.num_channels}) builds one."
                )
            if (needed := cls._input_names(config)) != source.out_features:
                source.out_features = needed
            return config, source
        if not isinstance(source, cls.config_class):
            raise TypeError(
                f"{cls.__name__} takes a built backbone or a {cls.config_class.__name__}, got {type(source).__name__}. For a name "
                f"use pyramid(name, …)."
            )
        if options:
            raise TypeError(f"{cls.__name__}(config) takes no further arguments, got {sorted(options)}.")
        return source, build_backbone(source.backbone_for(cls._input_names(source)))

    @classmethod
    def _input_names(cls, config: Any) -> list[str]:
        names = {name for index in config.levels() for name in cls.inputs_of(index, config)}
        return [name for name in config._below.stage_names if name in names]

    @classmethod
    def plan(cls, stages: Sequence[Stage], strides: Any = None) -> tuple[list[Any], list[str]]:
        """What `wire` chooses, after a check of what every neck needs. Raises ValueError."""
        if not stages:
            raise ValueError(
                f"{cls.__name__} is made of maps, and nothing is selected below it. Select stages of the backbone, as in "
                f"AutoBackbone.from_pretrained(name, out_indices=(1, 2, 3, 4))."
            )
        return cls.wire(stages, None if strides is None else exact_strides(strides))

    @classmethod
    @abstractmethod
    def wire(cls, stages: Sequence[Stage], strides: Sequence[Any] | None) -> tuple[list[Any], list[str]]:
        """Choose the levels: their strides, and the stage each is made of (the last stands for all further ones).

        Args:
            stages: What is below, in stage order.
            strides: What is asked for, checked and ascending; None for what this neck makes of these stages by itself.

        Raises:
            ValueError: a stride it cannot make.
        """

    @abstractmethod
    def build(self, levels: Sequence[Stage]) -> None:
        """Build the modules that `levels` need."""

    @abstractmethod
    def fuse(self, maps: Mapping[str, Tensor], levels: Sequence[Stage]) -> list[Tensor]:
        """Compute the maps of `levels` from the maps of the backbone's stages, given by name."""

    @classmethod
    def inputs_of(cls, level: int, config: Any) -> Sequence[str]:
        """Names of the backbone's stages that a level depends on."""
        return [config.source_of(level)]

    @classmethod
    def level(cls, source: Stage, index: int, config: Any) -> Stage:
        """A level as a stage; the default covers the same area as the map it is made of, edge to edge."""
        channels = source.channels if config.channels is None else config.channels
        return source.resampled(config.stage_names[index], index, channels, config.hops[index])

    def _own_children(self) -> list[nn.Module]:
        return [child for name, child in self.named_children() if name != "backbone"]

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_uniform_(module.weight, a=1)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    # What the backbone below says

    @property
    def native_size(self) -> Size:
        """The image size the backbone is made for."""
        return self.backbone.native_size

    @property
    def exceptions(self) -> Any:
        """What the backbone is known not to keep."""
        return self.backbone.exceptions

    @property
    def size_divisor(self) -> int:
        """Sizes that are multiples of it are divided by every level, and by what the backbone computes for it."""
        hops = [hop.numerator for stage in self.stages[: self.last_stage + 1] for hop in stage.stride]
        return math.lcm(self.backbone.size_divisor, *hops)

    def size_steps(self) -> list[Size]:
        """Those of the levels, and those of the backbone."""
        return [*super().size_steps(), *self.backbone.size_steps()]

    def map_sizes(self, height: int, width: int) -> list[Size]:
        """Map size of every level, from the sizes of the backbone's maps under its own size policy.

        Raises:
            ValueError: the backbone does not run at this size.
        """
        below = self.backbone.returned_sizes(height, width)
        positions = {stage.name: stage.index for stage in self.backbone.stages}
        sizes = []
        for stage in self.stages:
            index = positions[self.config.source_of(stage.index)]
            if index < len(below):
                cells, hops = below[index], self.backbone.stages[index].stride
            else:  # a level that is not computed
                cells, hops = (height, width), (Fraction(1), Fraction(1))
            ratios = [hop / own for hop, own in zip(hops, stage.stride, strict=True)]
            sizes.append((math.ceil(cells[0] * ratios[0]), math.ceil(cells[1] * ratios[1])))
        return sizes

    def measure_offsets(
        self, height: int | None = None, width: int | None = None
    ) -> dict[str, tuple[Fraction, Fraction] | None]:
        """Where the first cell of every level lies, from what is measured of the backbone's; see `Backbone.measure_offsets`."""
        if height is None or width is None:
            found = self.backbone.measure_offsets()
        else:
            found = self.backbone.measure_offsets(*self._fitted(height, width))
        below = {stage.name: replace(stage, offset=found[stage.name]) for stage in self.backbone.stages}
        config = self.config
        levels = tuple(self.level(below[config.source_of(each.index)], each.index, config) for each in self.stages)
        if height is None or width is None:
            self.stages = levels
        return {stage.name: stage.offset for stage in levels}

    @property
    def flat_channels_last(self) -> bool:
        """As the backbone's."""
        return self.backbone.flat_channels_last

    def unpruned_names(self) -> set[str]:
        """Names of all tensors of neck and backbone with nothing pruned of either."""
        return super().unpruned_names() | {f"backbone.{name}" for name in self.backbone.unpruned_names()}

    def card_facts(self) -> CardFacts:
        """As of every backbone; where the weights came from, and what is frozen, may be known of the backbone alone."""
        facts, below = super().card_facts(), self.backbone.card_facts()
        frozen = {}
        if self.config.freeze is None and self.backbone.config.freeze is not None:
            frozen = {"frozen up to": f"{below.facts['frozen up to']} of the backbone"}
        return replace(
            facts,
            facts={**facts.facts, **frozen},
            base_model=facts.base_model or below.base_model,
            upstream_license=facts.upstream_license or below.upstream_license,
        )

    # Running

    def forward_features(
        self, pixel_values: Tensor, *, output_hidden_states: bool, output_attentions: bool
    ) -> BackboneOutput:
        """Run the backbone, then the neck; hidden states, attentions and tokens are the backbone's."""
        if self.backbone.selected != tuple(stage.index for stage in self.inputs):
            raise ValueError(
                f"This {type(self).__name__} reads {listing(stage.name for stage in self.inputs)} of its backbone, which now "
                f"selects {listing(self.backbone.out_features) or 'nothing'}. Assign to neck.out_features instead, and put "
                f"the backbone's selection back."
            )
        below: Any = self.backbone(pixel_values, output_hidden_states, output_attentions, return_dict=True)
        maps = dict(zip([stage.name for stage in self.inputs], below.feature_maps, strict=True))
        return BackboneOutput(
            feature_maps=tuple(self.fuse(maps, self.output_stages)),
            hidden_states=below.hidden_states,
            attentions=below.attentions,
            tokens=below.tokens,
        )

    @property
    def hidden_stages(self) -> tuple[Stage, ...]:
        """The stages that hidden states belong to: the backbone's."""
        return self.backbone.hidden_stages

    # Freezing

    def twin(self, device: str = "meta", **changes: Any) -> Backbone:
        """The same neck over the same backbone with random weights, both unfrozen; see `Backbone.twin`."""
        lowest = below = copy.deepcopy(self.backbone.config)
        lowest.freeze = None
        while isinstance(lowest, NeckConfig):
            lowest = lowest._below
            lowest.freeze = None
        return super().twin(device, backbone_config=below, **changes)

    def unfreeze(self) -> None:
        """Undo `freeze`; what is frozen of the backbone by its own `freeze` stays so."""
        super().unfreeze()
        self._freeze_below()

    def _freeze_below(self) -> None:
        if self.backbone.config.freeze is not None:
            self.backbone.freeze(self.backbone.config.freeze)
        elif isinstance(self.backbone, Neck):
            self.backbone._freeze_below()
