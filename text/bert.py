"""BERT (Devlin et al. 2018): checkpoints of the `bert-*` kind."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from vertebra.activations import activation
from vertebra.text.base import TextModel
from vertebra.text.config import TextConfig
from vertebra.text.encoder import TextEncoder
from vertebra.text.layers import Embeddings, Encoder, EncoderLayer, Pooler, Spelling

LAYER = Spelling(
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    context="attention.output.dense",
    context_norm="attention.output.LayerNorm",
    inner="intermediate.dense",
    outer="output.dense",
    outer_norm="output.LayerNorm",
)
HEADS = {
    r"^(bert\.)?pooler\.": "the pooler, which this model has no use for",
    r"^(cls|classifier|qa_outputs)\.": "another head",
}
NEW = {r"^(bert\.)?pooler\.": "the pooler is trained on the new task"}


class BertConfig(TextConfig):
    """Configuration of BERT; the defaults are `bert-base-uncased`.

    Args:
        vocab_size: How many tokens there are.
        hidden_size: Channels of every state.
        num_hidden_layers: How many layers.
        num_attention_heads: How many heads share the channels.
        intermediate_size: Channels inside the perceptrons.
        hidden_act: Name of their activation.
        hidden_dropout_prob: Of embeddings and of each residual branch.
        attention_probs_dropout_prob: Of attention weights.
        max_position_embeddings: The most tokens a text may have.
        type_vocab_size: How many kinds of token.
        initializer_range: Standard deviation of initial weights.
        layer_norm_eps: Of the norms.
        pad_token_id: Number of the token that fills up texts.
        use_cache: For models that continue texts.
        classifier_dropout: Before a classifier; `hidden_dropout_prob` when None.
    """

    model_type = "bert"
    least = {**TextConfig.least, "intermediate_size": 1, "type_vocab_size": 0}

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    use_cache: bool = True
    classifier_dropout: float | None = None

    @property
    def head_dropout(self) -> float:
        """Probability of dropout before a classifier."""
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout


class BertWeights(TextModel):
    """What all BERT classes share about their weights."""

    config_class = BertConfig
    base_model_prefix: ClassVar[str] = "bert"
    explained_missing = NEW
    explained_unexpected = {**TextModel.explained_unexpected, **HEADS}
    config: Any


class BertModel(BertWeights, TextEncoder):
    """BERT without a head.

    Args:
        config: The configuration.
        add_pooling_layer: Whether the first token's state is pooled, for heads that see whole texts.
    """

    def __init__(self, config: BertConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        width, head_width = config.hidden_size, config.hidden_size // config.num_attention_heads
        dropout, eps = config.hidden_dropout_prob, config.layer_norm_eps
        self.embeddings = Embeddings(
            config.vocab_size,
            width,
            config.max_position_embeddings,
            config.type_vocab_size,
            config.pad_token_id,
            dropout,
            eps,
        )
        self.encoder = Encoder(
            EncoderLayer(
                LAYER,
                width,
                config.heads_left(number),
                head_width,
                config.intermediate_size,
                activation(config.hidden_act),
                context_dropout=dropout,
                outer_dropout=dropout,
                attention_dropout=config.attention_probs_dropout_prob,
                eps=eps,
            )
            for number in range(config.num_hidden_layers)
        )
        self.pooler = Pooler(width) if add_pooling_layer else None
        self.post_init()

    @property
    def encoder_layers(self) -> Encoder:
        """The layers."""
        return self.encoder

    def pool(self, states: Tensor) -> Tensor | None:
        """The first token's state, transformed; None without a pooler."""
        return None if self.pooler is None else self.pooler(states)
