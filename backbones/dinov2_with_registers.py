"""DINOv2 with registers (Darcet et al. 2023): checkpoints of the `facebook/dinov2-with-registers-*` kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from vertebra.backbones.dinov2 import (
    Dinov2Backbone,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    Dinov2Weights,
)
from vertebra.backbones.patches import Token


class Dinov2WithRegistersConfig(Dinov2Config):
    """Configuration of a DINOv2 with registers. Arguments as in `Dinov2Config`, and one more.

    Args:
        num_register_tokens: Learned tokens between class token and patches, which have no position.
    """

    model_type = "dinov2_with_registers"

    patch_size: int | Sequence[int] = 16
    num_register_tokens: int = 4


class Dinov2WithRegistersWeights(Dinov2Weights):
    """What all classes of DINOv2 with registers share."""

    config_class = Dinov2WithRegistersConfig
    base_model_prefix: ClassVar[str] = "dinov2_with_registers"
    antialias = True

    def tokens(self) -> list[Token]:
        """Class token and registers; the first has a position."""
        config = self.config
        return [*super().tokens(), Token("register_tokens", (1, config.num_register_tokens, config.hidden_size))]


class Dinov2WithRegistersBackbone(Dinov2WithRegistersWeights, Dinov2Backbone):
    """DINOv2 with registers as a backbone: stages `stem`, `stage1`, `stage2`, …, all at the stride of the patches."""

    config: Dinov2WithRegistersConfig


class Dinov2WithRegistersModel(Dinov2WithRegistersWeights, Dinov2Model):
    """DINOv2 with registers, without a head; the pooled output is the class token."""

    config: Dinov2WithRegistersConfig


class Dinov2WithRegistersForImageClassification(Dinov2WithRegistersWeights, Dinov2ForImageClassification):
    """DINOv2 with registers and a linear classifier on the class token and the mean of the patches."""

    config: Dinov2WithRegistersConfig
    model_class = Dinov2WithRegistersModel
