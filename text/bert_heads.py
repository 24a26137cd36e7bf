"""BERT's heads."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vertebra.activations import activation
from vertebra.checks import check_tensors
from vertebra.linear import Linear
from vertebra.outputs import BaseModelOutput
from vertebra.text.bert import NEW, BertConfig, BertModel, BertWeights
from vertebra.text.heads import TextHead
from vertebra.text.inputs import TextInputs
from vertebra.text.losses import pair_loss, token_loss
from vertebra.text.outputs import BertForPreTrainingOutput
from vertebra.text.summary_heads import MultipleChoice, NextSentencePrediction, SequenceClassifier, Summarising
from vertebra.text.token_heads import MaskedLM, QuestionAnswering, TokenClassifier, spans


class Predictions(nn.Module):
    """Scores of tokens: a transform, then the embeddings of all tokens, then a bias of each, which has two names."""

    def __init__(self, width: int, words: int, act: str, eps: float) -> None:
        super().__init__()
        self.transform = Transform(width, act, eps)
        self.decoder = Linear(width, words)
        self.bias = nn.Parameter(torch.zeros(words))

    def reset_parameters(self) -> None:
        """Start without a bias."""
        nn.init.zeros_(self.bias)

    def forward(self, states: Tensor) -> Tensor:
        """`(b, n, width)` to `(b, n, words)`."""
        return self.decoder(self.transform(states))


class Transform(nn.Module):
    """A linear layer, an activation and a norm."""

    def __init__(self, width: int, act: str, eps: float) -> None:
        super().__init__()
        self.dense = Linear(width, width)
        self.transform_act_fn = activation(act)
        self.LayerNorm = nn.LayerNorm(width, eps=eps)

    def forward(self, states: Tensor) -> Tensor:
        """Keep the shape."""
        return self.LayerNorm(self.transform_act_fn(self.dense(states)))


class PreTrainingHeads(nn.Module):
    """The heads BERT is pre-trained with, or one of them."""

    def __init__(self, config: BertConfig, tokens: bool = True, pairs: bool = True) -> None:
        super().__init__()
        width = config.hidden_size
        if tokens:
            self.predictions = Predictions(width, config.vocab_size, config.hidden_act, config.layer_norm_eps)
        if pairs:
            self.seq_relationship = Linear(width, 2)


class BertScoring(BertWeights):
    """What the classes share that score tokens: their bias has two names, of which files hold one unless the weights are apart."""

    output_path = "cls.predictions.decoder"
    cls: PreTrainingHeads

    @property
    def tied_weights(self) -> Mapping[str, str]:
        """The embeddings where the configuration says so, and the bias always."""
        return {**super().tied_weights, "cls.predictions.bias": f"{self.output_path}.bias"}

    @property
    def unsaved_names(self) -> Collection[str]:
        """Files hold the embeddings, and the bias under its first name; of weights that are apart, everything."""
        tied = self.config.tie_word_embeddings
        return (f"{self.output_path}.weight", f"{self.output_path}.bias") if tied else ()


class BertForPreTraining(BertScoring, TextHead):
    """BERT with the heads of its pre-training: it fills in tokens, and tells whether the second text follows the first."""

    pipeline_tag = "fill-mask"
    card_summary = (
        "pairs of texts to scores of all tokens at every place, and to whether the second text follows the first."
    )
    explained_missing = {**NEW, r"^cls\.": "the head is trained on the new task"}

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config)
        self.cls = PreTrainingHeads(config)
        self.post_init()

    def answer(
        self, base: BaseModelOutput, labels: Tensor | None, next_sentence_label: Tensor | None
    ) -> BertForPreTrainingOutput:
        """Compute scores of tokens and of pairs; the loss is the sum of those whose labels are given."""
        tokens = self.cls.predictions(base.last_hidden_state)
        pairs = self.cls.seq_relationship(base.pooler_output)
        losses = [] if labels is None else [token_loss(tokens, labels)]
        if next_sentence_label is not None:
            losses.append(pair_loss(pairs, next_sentence_label, "next_sentence_label"))
        return BertForPreTrainingOutput(
            loss=sum(losses[1:], losses[0]) if losses else None, prediction_logits=tokens, seq_relationship_logits=pairs
        )

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Fill in tokens, and tell whether texts follow each other.

        Args:
            input_ids: `(b, n)` tokens of two texts, as a tokenizer makes them.
            attention_mask: As the encoder takes it.
            token_type_ids: As the encoder takes them.
            position_ids: As the encoder takes them.
            inputs_embeds: `(b, n, hidden_size)` vectors in place of `input_ids`.
            labels: `(b, n)` tokens, -100 where they do not count.
            next_sentence_label: `(b,)`, 0 where the second text follows and 1 where it does not.
            output_attentions: Also return the attention weights.
            output_hidden_states: Also return all states, from the embeddings on.
            return_dict: False returns a plain tuple of what is not None.

        Raises:
            TypeError: an argument that is to be a tensor is none.
            ValueError: an argument that does not fit; says which and what to do.
        """
        inputs = TextInputs(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        right = {"labels": labels, "next_sentence_label": next_sentence_label}
        check_tensors(right)
        return self.run(inputs, (output_hidden_states, output_attentions, return_dict), **right)


class BertForMaskedLM(BertScoring, MaskedLM):
    """BERT that fills in tokens. Labels: `(b, n)` tokens, -100 where they do not count."""

    explained_missing = {r"^cls\.": "the head is trained on the new task"}

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.cls = PreTrainingHeads(config, pairs=False)
        self.post_init()

    def predict(self, states: Tensor) -> Tensor:
        """`(b, n, width)` to `(b, n, vocab_size)`."""
        return self.cls.predictions(states)


class BertForNextSentencePrediction(BertWeights, NextSentencePrediction):
    """BERT that tells whether the second text follows the first. Labels: `(b,)`, 0 where it does and 1 where it does not."""

    explained_missing = {**NEW, r"^cls\.": "the head is trained on the new task"}

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config)
        self.cls = PreTrainingHeads(config, tokens=False)
        self.post_init()

    def relate(self, base: BaseModelOutput) -> Tensor:
        """Scores `(b, 2)`: it follows, it does not."""
        return self.cls.seq_relationship(base.pooler_output)


class BertSummarising(BertWeights, Summarising):
    """What BERT's heads share that see one state of a text: the pooler's."""

    explained_missing = {**NEW, r"^classifier\.": "the head is trained on the new task"}

    def build(self, config: BertConfig, outputs: int) -> None:
        """Make the modules."""
        self.bert = BertModel(config)
        self.dropout = nn.Dropout(config.head_dropout)
        self.classifier = Linear(config.hidden_size, outputs)
        self.post_init()

    def summarise(self, base: BaseModelOutput) -> Tensor:
        """The pooled state."""
        return base.pooler_output  # type: ignore[return-value]


class BertForSequenceClassification(BertSummarising, SequenceClassifier):
    """BERT that classifies texts; what labels are, `config.problem_type` or their dtype says."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.build(config, config.num_labels)


class BertForMultipleChoice(BertSummarising, MultipleChoice):
    """BERT that chooses among texts `(b, choices, n)`. Labels: `(b,)` numbers of choices."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.build(config, 1)


class BertForTokenClassification(BertWeights, TokenClassifier):
    """BERT that classifies tokens. Labels: `(b, n)` class indices, -100 where they do not count."""

    explained_missing = {r"^classifier\.": "the head is trained on the new task"}

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.dropout = nn.Dropout(config.head_dropout)
        self.classifier = Linear(config.hidden_size, config.num_labels)
        self.post_init()


class BertForQuestionAnswering(BertWeights, QuestionAnswering):
    """BERT that finds where in a text the answer begins and ends."""

    explained_missing = {r"^qa_outputs\.": "the head is trained on the new task"}

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.dropout = nn.Dropout(0.0)
        self.qa_outputs = spans(config.hidden_size, config)
        self.post_init()
