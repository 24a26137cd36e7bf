"""What models of audio return, beside what `vertebra.outputs` has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vertebra.audio.attention import Seen
from vertebra.outputs import BaseModelOutput, ModelOutput, Tensors


@dataclass(repr=False)
class Wav2Vec2BaseModelOutput(ModelOutput):
    """What Wav2Vec2 without a head returns.

    Args:
        last_hidden_state: `(b, steps, hidden_size)`.
        extract_features: `(b, steps, conv_dim[-1])`, the normed features of the convolutions.
        hidden_states: On request, all states from the first layer's input on.
        attentions: On request, `(b, heads, steps, steps)` weights of every layer.
    """

    last_hidden_state: Tensor | None = None
    extract_features: Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@dataclass(repr=False)
class CTCOutput(ModelOutput):
    """What a model for connectionist temporal classification returns.

    Args:
        loss: A scalar (or `(b,)` without reduction), when labels were given.
        logits: `(b, steps, vocab_size)` scores before softmax.
        hidden_states: On request, as the base model gives them.
        attentions: On request, as the base model gives them.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@dataclass(repr=False)
class XVectorOutput(ModelOutput):
    """What a model of speakers returns.

    Args:
        loss: A scalar, when labels were given.
        logits: `(b, xvector_output_dim)`, the vectors after a further layer; the loss compares these.
        embeddings: `(b, xvector_output_dim)` vectors of the speakers.
        hidden_states: On request, as the base model gives them.
        attentions: On request, as the base model gives them.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    embeddings: Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@dataclass(repr=False)
class DecoderOutput(ModelOutput):
    """What a decoder returns.

    Args:
        last_hidden_state: `(b, n, d_model)`.
        past_key_values: What each layer keeps of the tokens so far, for the next call.
        hidden_states: On request, all states from the embeddings on.
        attentions: On request, `(b, heads, n, n so far)` weights among tokens.
        cross_attentions: On request, `(b, heads, n, steps)` weights on the encoder's states.
    """

    last_hidden_state: Tensor | None = None
    past_key_values: tuple[Seen, ...] | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None
    cross_attentions: Tensors | None = None


@dataclass(repr=False)
class Seq2SeqModelOutput(ModelOutput):
    """What an encoder and a decoder return.

    Args:
        last_hidden_state: `(b, n, d_model)`, of the decoder.
        past_key_values: What each layer of the decoder keeps of the tokens so far, for the next call.
        decoder_hidden_states: On request, all states of the decoder.
        decoder_attentions: On request, attention weights among tokens.
        cross_attentions: On request, attention weights of tokens on the encoder's states.
        encoder_last_hidden_state: `(b, steps, d_model)`.
        encoder_hidden_states: On request, all states of the encoder.
        encoder_attentions: On request, attention weights of the encoder.
    """

    last_hidden_state: Tensor | None = None
    past_key_values: tuple[Seen, ...] | None = None
    decoder_hidden_states: Tensors | None = None
    decoder_attentions: Tensors | None = None
    cross_attentions: Tensors | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: Tensors | None = None
    encoder_attentions: Tensors | None = None


@dataclass(repr=False)
class Seq2SeqLMOutput(ModelOutput):
    """What a model that writes tokens returns; the fields after the scores are those of `Seq2SeqModelOutput`.

    Args:
        loss: A scalar, when labels were given.
        logits: `(b, n, vocab_size)` scores before softmax.
        past_key_values: As there.
        decoder_hidden_states: As there.
        decoder_attentions: As there.
        cross_attentions: As there.
        encoder_last_hidden_state: As there.
        encoder_hidden_states: As there.
        encoder_attentions: As there.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: tuple[Seen, ...] | None = None
    decoder_hidden_states: Tensors | None = None
    decoder_attentions: Tensors | None = None
    cross_attentions: Tensors | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: Tensors | None = None
    encoder_attentions: Tensors | None = None


def as_encoded(given: Any) -> BaseModelOutput:
    """Read `encoder_outputs`: an encoder's output, or a dict or tuple of its states, all states and attention weights.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(given, BaseModelOutput):
        return given
    if isinstance(given, Mapping):
        given = tuple(given.values())
    if not isinstance(given, (tuple, list)) or not given or not isinstance(given[0], Tensor):
        raise TypeError(
            f"encoder_outputs is a {type(given).__name__}; it must be what the encoder gave, or a tuple that begins with its "
            f"states: (states,)."
        )
    names = ("last_hidden_state", "hidden_states", "attentions")
    return BaseModelOutput(**dict(zip(names, given, strict=False)))
