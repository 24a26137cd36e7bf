"""A text encoder without a head: how it is called, and what it does."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor

from vertebra.outputs import BaseModelOutput
from vertebra.text.base import TextModel
from vertebra.text.inputs import TextInputs, attention_mask, check_texts
from vertebra.text.layers import Embeddings, Encoder


class TextEncoder(TextModel):
    """A model without a head. A family's constructor makes `self.embeddings` and the layers."""

    embeddings: Embeddings

    @property
    @abstractmethod
    def encoder_layers(self) -> Encoder:
        """The layers."""

    def pool(self, states: Tensor) -> Tensor | None:
        """Make one state `(b, width)` of a text's `(b, n, width)`, where the family does."""
        return None

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput | tuple[Any, ...]:
        """Encode texts.

        Args:
            input_ids: `(b, n)` tokens, as a tokenizer makes them.
            attention_mask: `(b, n)`, 1 for tokens and 0 for padding, which no token attends to; or `(b, n, n)`, 1 where the first
                token may attend to the second. A token that may attend to none gets nothing from attention.
            token_type_ids: `(b, n)` kinds of token: 0 in the first sentence, 1 in the second. All 0 when None.
            position_ids: `(b, n)`, `(1, n)` or `(n)` places; counted when None.
            inputs_embeds: `(b, n, hidden_size)` vectors in place of `input_ids`.
            output_attentions: Also return the attention weights.
            output_hidden_states: Also return all states, from the embeddings on.
            return_dict: False returns a plain tuple of what is not None.

        Returns:
            `last_hidden_state` `(b, n, hidden_size)`, and `pooler_output` `(b, hidden_size)` where the model pools.

        Raises:
            TypeError: an argument is no tensor.
            ValueError: an argument that does not fit; says which and what to do.
        """
        hidden, attentions, as_dict = self.asked_for(output_hidden_states, output_attentions, return_dict)
        inputs = TextInputs(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        output = self.encode(inputs, hidden, attentions)
        return output if as_dict else output.to_tuple()

    def encode(self, inputs: TextInputs, hidden: bool, attentions: bool) -> BaseModelOutput:
        """Compute the last state, its pooled form, and what else is asked for."""
        config, embeddings = self.config, self.embeddings
        words = embeddings.word_embeddings.num_embeddings
        content, places = check_texts(
            inputs, words, config.hidden_size, config.max_position_embeddings, embeddings.kinds
        )
        mask = attention_mask(inputs.attention_mask, content)
        embedded = embeddings(content, places, inputs.token_type_ids)
        last, states, weights = self.encoder_layers(embedded, mask, hidden, attentions)
        return BaseModelOutput(
            last_hidden_state=last, pooler_output=self.pool(last), hidden_states=states, attentions=weights
        )
