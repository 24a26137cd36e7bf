"""DistilBERT (Sanh et al. 2019): checkpoints of the `distilbert-*` kind."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from vertebra.activations import activation
from vertebra.linear import Linear
from vertebra.outputs import BaseModelOutput
from vertebra.text.base import TextModel
from vertebra.text.config import TextConfig
from vertebra.text.encoder import TextEncoder
from vertebra.text.layers import Embeddings, Encoder, EncoderLayer, Spelling
from vertebra.text.summary_heads import MultipleChoice, SequenceClassifier, Summarising
from vertebra.text.token_heads import MaskedLM, QuestionAnswering, TokenClassifier, spans

LAYER = Spelling(
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    context="attention.out_lin",
    context_norm="sa_layer_norm",
    inner="ffn.lin1",
    outer="ffn.lin2",
    outer_norm="output_layer_norm",
)
EPS = 1e-12
HEAD = r"^(vocab_(transform|layer_norm|projector)|pre_classifier|classifier|qa_outputs)\."


class DistilBertConfig(TextConfig):
    """Configuration of DistilBERT; the defaults are `distilbert-base-uncased`.

    `hidden_size`, `num_attention_heads` and `num_hidden_layers` are other names of `dim`, `n_heads` and `n_layers`.

    Args:
        vocab_size: How many tokens there are.
        max_position_embeddings: The most tokens a text may have.
        sinusoidal_pos_embds: Whether places start as sines and cosines.
        n_layers: How many layers.
        n_heads: How many attention heads share the channels.
        dim: Channels of every state.
        hidden_dim: Channels inside the perceptrons.
        dropout: Of embeddings, of each perceptron, and before a classifier of tokens.
        attention_dropout: Of attention weights.
        activation: Name of the activation.
        initializer_range: Standard deviation of initial weights.
        qa_dropout: Before answers to questions.
        seq_classif_dropout: Before a classifier of texts.
        pad_token_id: Number of the token that fills up texts.
    """

    model_type = "distilbert"
    attribute_map = {"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"}
    least = {**TextConfig.least, "hidden_dim": 1}

    vocab_size: int = 30522
    max_position_embeddings: int = 512
    sinusoidal_pos_embds: bool = False
    n_layers: int = 6
    n_heads: int = 12
    dim: int = 768
    hidden_dim: int = 3072
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation: str = "gelu"
    initializer_range: float = 0.02
    qa_dropout: float = 0.1
    seq_classif_dropout: float = 0.2
    pad_token_id: int | None = 0


class DistilBertWeights(TextModel):
    """What all DistilBERT classes share about their weights."""

    config_class = DistilBertConfig
    base_model_prefix: ClassVar[str] = "distilbert"
    explained_missing = {HEAD: "the head is trained on the new task"}
    explained_unexpected = {**TextModel.explained_unexpected, HEAD: "another head"}
    config: Any


class DistilBertModel(DistilBertWeights, TextEncoder):
    """DistilBERT without a head."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(
            config.vocab_size,
            config.dim,
            config.max_position_embeddings,
            padding=config.pad_token_id,
            dropout=config.dropout,
            eps=EPS,
            sinusoidal=config.sinusoidal_pos_embds,
        )
        self.transformer = Encoder(
            EncoderLayer(
                LAYER,
                config.dim,
                config.heads_left(number),
                config.dim // config.n_heads,
                config.hidden_dim,
                activation(config.activation, "activation"),
                outer_dropout=config.dropout,
                attention_dropout=config.attention_dropout,
                eps=EPS,
            )
            for number in range(config.n_layers)
        )
        self.post_init()

    @property
    def encoder_layers(self) -> Encoder:
        """The layers."""
        return self.transformer


class DistilBertForMaskedLM(DistilBertWeights, MaskedLM):
    """DistilBERT that fills in tokens. Labels: `(b, n)` tokens, -100 where they do not count."""

    output_path = "vocab_projector"

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__(config)
        self.distilbert = DistilBertModel(config)
        self.activation = activation(config.activation, "activation")
        self.vocab_transform = Linear(config.dim, config.dim)
        self.vocab_layer_norm = nn.LayerNorm(config.dim, eps=EPS)
        self.vocab_projector = Linear(config.dim, config.vocab_size)
        self.post_init()

    def predict(self, states: Tensor) -> Tensor:
        """`(b, n, dim)` to `(b, n, vocab_size)`."""
        return self.vocab_projector(self.vocab_layer_norm(self.activation(self.vocab_transform(states))))


class DistilBertSummarising(DistilBertWeights, Summarising):
    """What DistilBERT's heads share that see one state of a text: the first token's, through a linear layer and a ReLU."""

    def build(self, config: DistilBertConfig, outputs: int) -> None:
        """Make the modules."""
        self.distilbert = DistilBertModel(config)
        self.pre_classifier = Linear(config.dim, config.dim)
        self.dropout = nn.Dropout(config.seq_classif_dropout)
        self.classifier = Linear(config.dim, outputs)
        self.post_init()

    def summarise(self, base: BaseModelOutput) -> Tensor:
        """The first token's state, transformed."""
        return self.pre_classifier(base.last_hidden_state[:, 0]).relu()  # type: ignore[index]


class DistilBertForSequenceClassification(DistilBertSummarising, SequenceClassifier):
    """DistilBERT that classifies texts; what labels are, `config.problem_type` or their dtype says."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__(config)
        self.build(config, config.num_labels)


class DistilBertForMultipleChoice(DistilBertSummarising, MultipleChoice):
    """DistilBERT that chooses among texts `(b, choices, n)`. Labels: `(b,)` numbers of choices."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__(config)
        self.build(config, 1)


class DistilBertForTokenClassification(DistilBertWeights, TokenClassifier):
    """DistilBERT that classifies tokens. Labels: `(b, n)` class indices, -100 where they do not count."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__(config)
        self.distilbert = DistilBertModel(config)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = Linear(config.dim, config.num_labels)
        self.post_init()


class DistilBertForQuestionAnswering(DistilBertWeights, QuestionAnswering):
    """DistilBERT that finds where in a text the answer begins and ends."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__(config)
        self.distilbert = DistilBertModel(config)
        self.dropout = nn.Dropout(config.qa_dropout)
        self.qa_outputs = spans(config.dim, config)
        self.post_init()
