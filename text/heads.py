"""What all heads over text encoders share: how they are called and checked, and what their cards say of labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from vertebra.card import CardFacts
from vertebra.checks import check_tensors
from vertebra.errors import listing
from vertebra.text.base import TextModel
from vertebra.text.config import TextConfig
from vertebra.text.inputs import TextInputs

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
            TypeError: an argument that is to be a tensor is none.
            ValueError: an argument that does not fit; says which and what to do.
        """
        inputs = TextInputs(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        check_tensors({"labels": labels})
        return self.run(inputs, (output_hidden_states, output_attentions, return_dict), labels=labels)


def with_labels(facts: CardFacts, what: str, config: TextConfig) -> CardFacts:
    """Facts of a card, with how many labels there are, and some of them."""
    labels = list(config.labels.values())
    counted = {**facts.facts, "labels": f"{len(labels)}: {listing(labels, 5)}"}
    return replace(facts, summary=f"{what} to scores of {len(labels)} labels.", facts=counted)
