"""What the models of all families have in common: the forward without a head, the one of a classifier, and its loss."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from vertebra.card import CardFacts
from vertebra.config import PreTrainedConfig
from vertebra.errors import listing
from vertebra.model import PreTrainedModel
from vertebra.outputs import BaseModelOutput, ImageClassifierOutput


class ImageModel(PreTrainedModel):
    """A model without a head. A family implements `encode`."""

    def card_facts(self) -> CardFacts:
        """What a model card says about a model without a head."""
        return replace(
            super().card_facts(),
            summary="images to the network's final state, without a head.",
            show="print(tuple(output.last_hidden_state.shape))",
        )

    @abstractmethod
    def encode(self, pixel_values: Tensor, output_hidden_states: bool, output_attentions: bool) -> BaseModelOutput:
        """Compute the final state, its pooled form, and what else is asked for."""

    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput | tuple[Any, ...]:
        """Encode images.

        Args:
            pixel_values: `(b, c, h, w)` images, normalised as the image processor does.
            output_hidden_states: Also return the hidden states.
            output_attentions: Also return the attention weights.
            return_dict: False returns a plain tuple of what is not None.
        """
        hidden, attentions, as_dict = self.asked_for(output_hidden_states, output_attentions, return_dict)
        output = self.encode(pixel_values, hidden, attentions)
        return output if as_dict else output.to_tuple()


class ImageClassifier(PreTrainedModel):
    """A model with a classification head.

    A family's constructor makes the base model, under the name `base_model_prefix`, and `self.classifier`.
    """

    classifier: nn.Module
    explained_missing = {r"^classifier\.": "the head is trained on the new task"}
    pipeline_tag = "image-classification"

    def card_facts(self) -> CardFacts:
        """What a model card says about a classifier: how many labels, and some of them."""
        facts = super().card_facts()
        labels = list(self.config.labels.values())
        return replace(
            facts,
            summary=f"images to scores of {len(labels)} labels.",
            facts={**facts.facts, "labels": f"{len(labels)}: {listing(labels, 5)}"},
            show="print(model.config.labels[output.logits.argmax(-1).item()])",
        )

    def classify(
        self, pixel_values: Tensor, output_hidden_states: bool, output_attentions: bool
    ) -> tuple[Tensor, BaseModelOutput]:
        """Compute the logits `(b, num_labels)`, and the base model's output."""
        model = getattr(self, self.base_model_prefix)
        base: BaseModelOutput = model(pixel_values, output_hidden_states, output_attentions, return_dict=True)
        return self.classifier(base.pooler_output), base

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> ImageClassifierOutput | tuple[Any, ...]:
        """Classify images.

        Args:
            pixel_values: `(b, c, h, w)` images, normalised as the image processor does.
            labels: `(b,)` class indices; `(b,)` or `(b, num_labels)` numbers for regression or several labels. With them
                the output holds the loss that `config.problem_type` names (see `classification_loss`).
            output_hidden_states: Also return the hidden states.
            output_attentions: Also return the attention weights.
            return_dict: False returns a plain tuple of what is not None.
        """
        hidden, attentions, as_dict = self.asked_for(output_hidden_states, output_attentions, return_dict)
        logits, base = self.classify(pixel_values, hidden, attentions)
        output = ImageClassifierOutput(
            loss=None if labels is None else classification_loss(logits, labels, self.config),
            logits=logits,
            hidden_states=base.hidden_states,
            attentions=base.attentions,
            reshaped_hidden_states=base.reshaped_hidden_states,
        )
        return output if as_dict else output.to_tuple()


def classification_loss(logits: Tensor, labels: Tensor, config: PreTrainedConfig) -> Tensor:
    """Return the loss of `(b, n)` logits, as `config.problem_type` names it.

    Without a problem type, one label means regression, whole-number labels mean one class each, and other labels mean
    several classes each. The choice is not stored: it depends on these labels alone.

    Raises:
        ValueError: an unknown problem type, or labels whose shape or range does not fit.
    """
    count = logits.shape[-1]
    whole = not labels.is_floating_point()
    kind = config.problem_type or (
        "regression" if count == 1 else "single_label_classification" if whole else "multi_label_classification"
    )
    if kind == "regression":
        _fits(labels.numel() == logits.numel(), labels, logits, kind)
        return F.mse_loss(logits.flatten(), labels.to(logits.dtype).flatten())
    if kind == "single_label_classification":
        _fits(whole and labels.numel() == logits.shape[0], labels, logits, kind)
        return F.cross_entropy(logits, labels.flatten().long())
    if kind == "multi_label_classification":
        _fits(labels.shape == logits.shape, labels, logits, kind)
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    raise ValueError(
        f"problem_type={kind!r} must be 'regression', 'single_label_classification', 'multi_label_classification' or None."
    )


def _fits(good: bool, labels: Tensor, logits: Tensor, kind: str) -> None:
    if not good:
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} and dtype {labels.dtype} do not fit logits of shape {tuple(logits.shape)} for "
            f"problem_type {kind!r}: class indices are whole numbers of shape (batch,), several labels or targets have the shape "
            f"of the logits."
        )


def linear_head(features: int, labels: int) -> nn.Module:
    """The usual classifier: a linear layer, or nothing for no labels."""
    return nn.Linear(features, labels) if labels > 0 else nn.Identity()
