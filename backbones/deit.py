"""DeiT (Touvron et al. 2020), distilled: checkpoints of the `facebook/deit-*-distilled-*` kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

from torch import Tensor

from vertebra.backbones.models import linear_head
from vertebra.backbones.patches import Token
from vertebra.backbones.vit import (
    NO_NORM,
    POOLER,
    PRETRAINING,
    ViTBackbone,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
    ViTWeights,
)
from vertebra.losses import classification_loss
from vertebra.outputs import BaseModelOutput, ModelOutput

HEADS = {r"^(cls_|distillation_)?classifier\.": "a classification head"}
TEACHER = {r"^(cls|distillation)_classifier\.": "the two heads of a classifier with teacher"}


class DeiTConfig(ViTConfig):
    """Configuration of a DeiT; the defaults are DeiT-B/16. Arguments as in `ViTConfig`."""

    model_type = "deit"


class DeiTWeights(ViTWeights):
    """What all DeiT classes share."""

    config_class = DeiTConfig
    base_model_prefix: ClassVar[str] = "deit"
    explained_unexpected = {**HEADS, **POOLER, **PRETRAINING}

    def tokens(self) -> list[Token]:
        """Class token and distillation token, each with a position."""
        shape = (1, 1, self.config.hidden_size)
        return [Token("cls_token", shape), Token("distillation_token", shape)]


class DeiTBackbone(DeiTWeights, ViTBackbone):
    """DeiT as a backbone: stages `stem`, `stage1`, `stage2`, …, all at the stride of the patches, each through the final norm."""

    config: DeiTConfig
    explained_unexpected = {**DeiTWeights.explained_unexpected, **NO_NORM}


class DeiTModel(DeiTWeights, ViTModel):
    """DeiT without a head."""

    config: DeiTConfig
    explained_unexpected = {**HEADS, **PRETRAINING}


class DeiTForImageClassification(DeiTWeights, ViTForImageClassification):
    """DeiT with a linear classifier on the class token."""

    config: DeiTConfig
    model_class = DeiTModel
    explained_unexpected = {**TEACHER, **POOLER, **PRETRAINING}
    deit: DeiTModel


@dataclass(repr=False)
class DeiTForImageClassificationWithTeacherOutput(ModelOutput):
    """What a DeiT with two heads returns.

    Args:
        loss: A scalar, when labels were given.
        logits: `(b, num_labels)`, the mean of the two.
        cls_logits: Scores from the class token.
        distillation_logits: Scores from the distillation token.
        hidden_states: On request, as the base model gives them.
        attentions: On request, as the base model gives them.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    cls_logits: Tensor | None = None
    distillation_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class DeiTForImageClassificationWithTeacher(DeiTForImageClassification):
    """DeiT with a linear classifier on each of the two tokens, as it was distilled: what is published is this one."""

    explained_missing = {r"^(cls|distillation)_classifier\.": "the heads are trained on the new task"}
    explained_unexpected = {**HEADS, **POOLER, **PRETRAINING}

    def make_head(self, width: int, labels: int) -> None:
        """Make a classifier for each token."""
        self.cls_classifier = linear_head(width, labels)
        self.distillation_classifier = linear_head(width, labels)

    def forward(  # type: ignore[override]  # an output with more fields
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> DeiTForImageClassificationWithTeacherOutput | tuple[Any, ...]:
        """Classify images. Arguments as in `ImageClassifier.forward`; the loss is that of the mean of the two heads."""
        hidden, attentions, as_dict = self.asked_for(output_hidden_states, output_attentions, return_dict)
        base: BaseModelOutput = self.deit(pixel_values, hidden, attentions, return_dict=True)
        last = cast(Tensor, base.last_hidden_state)
        first, second = self.cls_classifier(last[:, 0]), self.distillation_classifier(last[:, 1])
        logits = (first + second) / 2
        output = DeiTForImageClassificationWithTeacherOutput(
            loss=None if labels is None else classification_loss(logits, labels, self.config),
            logits=logits,
            cls_logits=first,
            distillation_logits=second,
            hidden_states=base.hidden_states,
            attentions=base.attentions,
        )
        return output if as_dict else output.to_tuple()
