"""Heads over text encoders: the forward and the loss of each, which a family fills with its modules."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from vertebra.card import CardFacts
from vertebra.errors import listing
from vertebra.losses import class_loss, classification_loss
from vertebra.outputs import BaseModelOutput, ModelOutput, SequenceClassifierOutput, TokenClassifierOutput
from vertebra.text.base import TextModel
from vertebra.text.config import TextConfig
from vertebra.text.inputs import TextInputs
from vertebra.text.losses import pair_loss, place_loss, token_loss
from vertebra.text.outputs import (
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    NextSentencePredictorOutput,
    QuestionAnsweringModelOutput,
)

Flags = tuple[bool | None, bool | None, bool | None]
"""`output_hidden_states`, `output_attentions` and `return_dict` of a call."""


class TextHead(TextModel):
    """A model with a head. A family's constructor makes the encoder, under the name `base_model_prefix`, and the head's modules."""

    answer: Callable[..., Any]
    """Computes the output of the encoder's and of what is right, which brings the loss."""

    def run(self, inputs: TextInputs, flags: Flags, **right: Any) -> Any:
        """Encode texts and answer; states and attention weights are the encoder's."""
        hidden, attentions, as_dict = self.asked_for(*flags)
        base = self.base_model.encode(inputs, hidden, attentions)
        output = self.answer(base, **right)
        output.hidden_states, output.attentions = base.hidden_states, base.attentions
        return output if as_dict else output.to_tuple()


class LabelledHead(TextHead):
    """A head that is told what is right by `labels` alone."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Encode texts and answer.

        Args:
            input_ids: `(b, n)` tokens, as a tokenizer makes them.
            attention_mask: As the encoder takes it.
            token_type_ids: As the encoder takes them.
            position_ids: As the encoder takes them.
            inputs_embeds: `(b, n, hidden_size)` vectors in place of `input_ids`.
            labels: What is right, as the class says; with them the output holds the loss.
            output_attentions: Also return the attention weights.
            output_hidden_states: Also return all states, from the embeddings on.
            return_dict: False returns a plain tuple of what is not None.

        Raises:
            TypeError: the texts are no tensor.
            ValueError: an argument that does not fit; says which and what to do.
        """
        inputs = TextInputs(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        return self.run(inputs, (output_hidden_states, output_attentions, return_dict), labels=labels)


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

    def run(self, inputs: TextInputs, flags: Flags, **right: Any) -> Any:
        """Encode all choices as texts of their own.

        Raises:
            ValueError: the axis of choices is missing.
        """
        content = inputs.content
        if content.ndim != (3 if inputs.inputs_embeds is None else 4):
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


class TokenClassifier(LabelledHead):
    """Gives every token a class.

    Labels: `(b, n)` class indices, -100 for tokens that do not count.
    """

    pipeline_tag = "token-classification"
    dropout: nn.Dropout
    classifier: nn.Linear

    def answer(self, base: BaseModelOutput, labels: Tensor | None) -> ModelOutput:
        """Compute `(b, n, num_labels)` scores."""
        logits = self.classifier(self.dropout(base.last_hidden_state))
        return TokenClassifierOutput(loss=None if labels is None else class_loss(logits, labels), logits=logits)

    def card_facts(self) -> CardFacts:
        """What a model card says about a classifier: how many labels, and some of them."""
        return with_labels(super().card_facts(), "tokens", self.config)


class QuestionAnswering(TextHead):
    """Finds where in a text the answer begins and ends.

    Raises:
        ValueError: when built, `num_labels` is not 2.
    """

    pipeline_tag = "question-answering"
    dropout: nn.Dropout
    qa_outputs: nn.Linear

    def answer(self, base: BaseModelOutput, start: Tensor | None, end: Tensor | None) -> ModelOutput:
        """Compute scores of the answer's first and last token, `(b, n)` each."""
        scores = self.qa_outputs(self.dropout(base.last_hidden_state))
        first, last = (logits.contiguous() for logits in scores.unbind(-1))
        if (start is None) != (end is None):
            raise ValueError("start_positions and end_positions belong together; give both, or neither.")
        loss = None
        if start is not None and end is not None:
            loss = (place_loss(first, start, "start_positions") + place_loss(last, end, "end_positions")) / 2
        return QuestionAnsweringModelOutput(loss=loss, start_logits=first, end_logits=last)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Find answers.

        Args:
            input_ids: `(b, n)` tokens of question and text, as a tokenizer makes them.
            attention_mask: As the encoder takes it.
            token_type_ids: As the encoder takes them.
            position_ids: As the encoder takes them.
            inputs_embeds: `(b, n, hidden_size)` vectors in place of `input_ids`.
            start_positions: `(b,)` number of the answer's first token; `n` or more where the text was cut before it, which counts
                in no loss.
            end_positions: `(b,)` number of its last token, in the same way.
            output_attentions: Also return the attention weights.
            output_hidden_states: Also return all states, from the embeddings on.
            return_dict: False returns a plain tuple of what is not None.

        Raises:
            TypeError: the texts are no tensor.
            ValueError: an argument that does not fit; says which and what to do.
        """
        inputs = TextInputs(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        flags = (output_hidden_states, output_attentions, return_dict)
        return self.run(inputs, flags, start=start_positions, end=end_positions)


class MaskedLM(LabelledHead):
    """Scores every token of the vocabulary at every place.

    Labels: `(b, n)` tokens, -100 where they do not count.
    """

    pipeline_tag = "fill-mask"

    @abstractmethod
    def predict(self, states: Tensor) -> Tensor:
        """`(b, n, width)` states to `(b, n, vocab_size)` scores."""

    def answer(self, base: BaseModelOutput, labels: Tensor | None) -> ModelOutput:
        """Compute `(b, n, vocab_size)` scores."""
        logits = self.predict(base.last_hidden_state)  # type: ignore[arg-type]
        return MaskedLMOutput(loss=None if labels is None else token_loss(logits, labels), logits=logits)


class NextSentencePrediction(LabelledHead):
    """Tells whether the second text follows the first.

    Labels: `(b,)`, 0 where it follows and 1 where it does not.
    """

    pipeline_tag = "text-classification"

    @abstractmethod
    def relate(self, base: BaseModelOutput) -> Tensor:
        """Scores `(b, 2)`: it follows, it does not."""

    def answer(self, base: BaseModelOutput, labels: Tensor | None) -> ModelOutput:
        """Compute `(b, 2)` scores."""
        logits = self.relate(base)
        return NextSentencePredictorOutput(loss=None if labels is None else pair_loss(logits, labels), logits=logits)


def spans(width: int, config: TextConfig) -> nn.Linear:
    """The linear layer that scores starts and ends of answers.

    Raises:
        ValueError: `num_labels` is not 2.
    """
    if config.num_labels != 2:
        raise ValueError(
            f"num_labels={config.num_labels}: an answer has a start and an end, so that a model that finds it has num_labels=2."
        )
    return nn.Linear(width, 2)


def with_labels(facts: CardFacts, what: str, config: TextConfig) -> CardFacts:
    """Facts of a card, with how many labels there are, and some of them."""
    labels = list(config.labels.values())
    counted = {**facts.facts, "labels": f"{len(labels)}: {listing(labels, 5)}"}
    return replace(facts, summary=f"{what} to scores of {len(labels)} labels.", facts=counted)
