"""What models of text return, beside what `vertebra.outputs` has."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vertebra.outputs import ModelOutput, Tensors


@dataclass(repr=False)
class MaskedLMOutput(ModelOutput):
    """What a model that fills in tokens returns.

    Args:
        loss: A scalar, when labels were given.
        logits: `(b, n, vocab_size)` scores before softmax.
        hidden_states: On request, all states from the embeddings on.
        attentions: On request, attention weights of every layer.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@dataclass(repr=False)
class QuestionAnsweringModelOutput(ModelOutput):
    """What a model that finds answers in texts returns.

    Args:
        loss: The mean of the losses of start and end, when both were given.
        start_logits: `(b, n)` scores of each token to be the answer's first.
        end_logits: `(b, n)` scores of each token to be its last.
        hidden_states: On request, all states from the embeddings on.
        attentions: On request, attention weights of every layer.
    """

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@dataclass(repr=False)
class MultipleChoiceModelOutput(ModelOutput):
    """What a model that chooses among texts returns.

    Args:
        loss: A scalar, when labels were given.
        logits: `(b, choices)` scores before softmax.
        hidden_states: On request, all states of `b * choices` texts.
        attentions: On request, attention weights of every layer.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@dataclass(repr=False)
class NextSentencePredictorOutput(ModelOutput):
    """What a model returns that tells whether one text follows another.

    Args:
        loss: A scalar, when labels were given.
        logits: `(b, 2)` scores: it follows, it does not.
        hidden_states: On request, all states from the embeddings on.
        attentions: On request, attention weights of every layer.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@dataclass(repr=False)
class BertForPreTrainingOutput(ModelOutput):
    """What a model returns that fills in tokens and tells whether one text follows another.

    Args:
        loss: The sum of the losses whose labels were given.
        prediction_logits: `(b, n, vocab_size)` scores of tokens.
        seq_relationship_logits: `(b, 2)` scores: it follows, it does not.
        hidden_states: On request, all states from the embeddings on.
        attentions: On request, attention weights of every layer.
    """

    loss: Tensor | None = None
    prediction_logits: Tensor | None = None
    seq_relationship_logits: Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None
