"""Heads that see one state of every text: classes, choices, and whether texts follow each other."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from vertebra.card import CardFacts
from vertebra.losses import class_loss, classification_loss
from vertebra.outputs import BaseModelOutput, ModelOutput, SequenceClassifierOutput
from vertebra.text.heads import Flags, LabelledHead, with_labels
from vertebra.text.inputs import TextInputs
from vertebra.text.losses import pair_loss
from vertebra.text.outputs import MultipleChoiceModelOutput, NextSentencePredictorOutput


class Summarising(LabelledHead):
    """A head that sees one state of every text."""

    dropout: nn.Dropout
    classifier: nn.Linear

    @abstractmethod
    def summarise(self, base: BaseModelOutput) -> Tensor:
        """What `(b, width)` the classifier sees."""

    def score(self, base: BaseModelOutput) -> Tensor:
        """Compute the classifier's scores of every text."""
        return self.classifier(self.dropout(self.summarise(base)))


class SequenceClassifier(Summarising):
    """Gives every text a class, several, or numbers: as `config.problem_type` says, or the labels' dtype.

    Labels: `(b,)` class indices; `(b,)` or `(b, num_labels)` numbers for regression or several labels.
    """

    pipeline_tag = "text-classification"

    def answer(self, base: BaseModelOutput, labels: Tensor | None) -> ModelOutput:
        """Compute `(b, num_labels)` scores."""
        logits = self.score(base)
        loss = None if labels is None else classification_loss(logits, labels, self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def card_facts(self) -> CardFacts:
        """What a model card says about a classifier: how many labels, and some of them."""
        return with_labels(super().card_facts(), "texts", self.config)


class MultipleChoice(Summarising):
    """Scores texts that are choices; every argument has one axis more, `(b, choices, n)`.

    Labels: `(b,)` numbers of choices.
    """

    pipeline_tag = "multiple-choice"
    card_summary = "choices, each a text, to a score of each."

    def run(self, inputs: TextInputs, flags: Flags, **right: Any) -> Any:
        """Encode all choices as texts of their own.

        Raises:
            ValueError: the axis of choices is missing or empty.
        """
        content = inputs.content
        if content.ndim != (3 if inputs.inputs_embeds is None else 4) or not content.shape[1]:
            raise ValueError(
                f"{type(self).__name__} takes (batch, choices, tokens), got texts of shape {tuple(content.shape)}: stack the "
                f"choices of each question, or add an axis to a batch of one, e.g. input_ids[None]."
            )
        flat = TextInputs(*(part.flatten(0, 1) if part is not None and part.ndim > 2 else part for part in inputs))
        return super().run(flat, flags, choices=content.shape[1], **right)

    def answer(self, base: BaseModelOutput, labels: Tensor | None, choices: int) -> ModelOutput:
        """Compute `(b, choices)` scores."""
        logits = self.score(base).view(-1, choices)
        hint = f"There are {choices} choices."
        loss = None if labels is None else class_loss(logits, labels, hint=hint)
        return MultipleChoiceModelOutput(loss=loss, logits=logits)

    def card_facts(self) -> CardFacts:
        """What a model card says, with an example of two choices."""
        facts = super().card_facts()
        return replace(facts, example=facts.example.replace("(1, ", "(1, 2, "))


class NextSentencePrediction(LabelledHead):
    """Tells whether the second text follows the first.

    Labels: `(b,)`, 0 where it follows and 1 where it does not.
    """

    pipeline_tag = "text-classification"
    card_summary = "pairs of texts to whether the second follows the first."

    @abstractmethod
    def relate(self, base: BaseModelOutput) -> Tensor:
        """Scores `(b, 2)`: it follows, it does not."""

    def answer(self, base: BaseModelOutput, labels: Tensor | None) -> ModelOutput:
        """Compute `(b, 2)` scores."""
        logits = self.relate(base)
        return NextSentencePredictorOutput(loss=None if labels is None else pair_loss(logits, labels), logits=logits)
