"""What the models of all families have in common: the forward without a head, the one of a classifier, and its loss."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from vertebra.backbones.timm_native import ReadsTimm
from vertebra.card import CardFacts
from vertebra.errors import listing
from vertebra.linear import Linear
from vertebra.losses import classification_loss
from vertebra.outputs import BaseModelOutput, ImageClassifierOutput


class ImageModel(ReadsTimm):
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


class ImageClassifier(ReadsTimm):
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


def linear_head(features: int, labels: int) -> nn.Module:
    """The usual classifier: a linear layer, or nothing for no labels."""
    return Linear(features, labels) if labels > 0 else nn.Identity()
