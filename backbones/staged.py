"""What families of a stem and a chain of stages have in common: a width and a depth for each stage, and how they run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from vertebra.backbones.base import Backbone
from vertebra.backbones.config import BackboneConfigMixin
from vertebra.backbones.layers import run_stages
from vertebra.backbones.models import ImageModel
from vertebra.outputs import BackboneOutput, BaseModelOutput


class StagedConfig(BackboneConfigMixin):
    """A configuration with a width and a depth for each stage; null in a file stands for the default of these two."""

    if TYPE_CHECKING:
        hidden_sizes: Sequence[int]
        depths: Sequence[int]

    def _settle(self, given: dict[str, Any]) -> None:
        for name in ("hidden_sizes", "depths"):
            if getattr(self, name) is None:
                setattr(self, name, list(getattr(type(self), name)))
        super()._settle(given)

    @property
    def stage_names(self) -> list[str]:
        """`stem`, `stage1`, `stage2`, …."""
        return ["stem", *(f"stage{number}" for number in range(1, len(self.depths) + 1))]

    def validate(self) -> None:
        """Check that there are as many widths as depths. Raises ValueError."""
        super().validate()
        if len(self.hidden_sizes) != len(self.depths):
            raise ValueError(
                f"hidden_sizes={self.hidden_sizes} and depths={self.depths} must have one entry per stage each."
            )


class StagedBackbone(Backbone):
    """A backbone whose maps are what the stem `embedder` and the stages `encoder.stages` give, as they are."""

    has_attentions = False

    @property
    def trunk(self) -> Any:
        """What holds `embedder` and `encoder`."""
        return self

    def forward_features(
        self, pixel_values: Tensor, *, output_hidden_states: bool, output_attentions: bool
    ) -> BackboneOutput:
        """Run the stem and the stages needed."""
        stages = self.trunk.encoder.stages[: max(self.final_stage(output_hidden_states), 0)]
        states = run_stages(stages, self.trunk.embedder(pixel_values))
        return BackboneOutput(
            feature_maps=tuple(states[index] for index in self.selected),
            hidden_states=tuple(states) if output_hidden_states else None,
        )


class StagedModel(ImageModel):
    """A model without a head of the same parts, and a `pooler`."""

    embedder: nn.Module
    encoder: Any
    pooler: nn.Module

    def finish(self, x: Tensor) -> Tensor:
        """What becomes of the last map `(b, c, h, w)`, of the same shape; nothing, unless a family has a final norm."""
        return x

    def encode(self, pixel_values: Tensor, output_hidden_states: bool, output_attentions: bool) -> BaseModelOutput:
        """Return the last map `(b, c, h, w)`, its mean `(b, c, 1, 1)` and, on request, the states of all stages."""
        states = run_stages(self.encoder.stages, self.embedder(pixel_values))
        last = self.finish(states[-1])
        return BaseModelOutput(
            last_hidden_state=last,
            pooler_output=self.pooler(last),
            hidden_states=tuple(states) if output_hidden_states else None,
        )
