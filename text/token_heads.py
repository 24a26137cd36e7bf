"""Heads that see the state of every token: classes, words, and where answers begin and end."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor, nn

from vertebra.card import CardFacts
from vertebra.checks import check_tensors
from vertebra.linear import Linear
from vertebra.losses import class_loss
from vertebra.outputs import BaseModelOutput, ModelOutput, TokenClassifierOutput
from vertebra.text.config import TextConfig
from vertebra.text.heads import LabelledHead, TextHead, with_labels
from vertebra.text.inputs import TextInputs
from vertebra.text.losses import place_loss, token_loss
from vertebra.text.outputs import MaskedLMOutput, QuestionAnsweringModelOutput


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
    card_summary = "questions and texts to scores of the answer's first and last token."
    dropout: nn.Dropout
    qa_outputs: nn.Linear

    def answer(
        self, base: BaseModelOutput, start_positions: Tensor | None, end_positions: Tensor | None
    ) -> ModelOutput:
        """Compute scores of the answer's first and last token, `(b, n)` each.

        Raises:
            ValueError: one of the positions is given without the other.
        """
        scores = self.qa_outputs(self.dropout(base.last_hidden_state))
        first, last = (logits.contiguous() for logits in scores.unbind(-1))
        if (start_positions is None) != (end_positions is None):
            raise ValueError("start_positions and end_positions belong together; give both, or neither.")
        loss = None
        if start_positions is not None and end_positions is not None:
            start_loss = place_loss(first, start_positions, "start_positions")
            loss = (start_loss + place_loss(last, end_positions, "end_positions")) / 2
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
            TypeError: an argument that is to be a tensor is none.
            ValueError: an argument that does not fit; says which and what to do.
        """
        inputs = TextInputs(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        right = {"start_positions": start_positions, "end_positions": end_positions}
        check_tensors(right)
        return self.run(inputs, (output_hidden_states, output_attentions, return_dict), **right)


class MaskedLM(LabelledHead):
    """Scores every token of the vocabulary at every place.

    Labels: `(b, n)` tokens, -100 where they do not count.
    """

    pipeline_tag = "fill-mask"
    card_summary = "texts to scores of all tokens of the vocabulary at every place."

    @abstractmethod
    def predict(self, states: Tensor) -> Tensor:
        """`(b, n, width)` states to `(b, n, vocab_size)` scores."""

    def answer(self, base: BaseModelOutput, labels: Tensor | None) -> ModelOutput:
        """Compute `(b, n, vocab_size)` scores."""
        logits = self.predict(base.last_hidden_state)  # type: ignore[arg-type]
        return MaskedLMOutput(loss=None if labels is None else token_loss(logits, labels), logits=logits)


def spans(width: int, config: TextConfig) -> nn.Linear:
    """The linear layer that scores starts and ends of answers.

    Raises:
        ValueError: `num_labels` is not 2.
    """
    if config.num_labels != 2:
        raise ValueError(
            f"num_labels={config.num_labels}: an answer has a start and an end, so that a model that finds it has num_labels=2."
        )
    return Linear(width, 2)
