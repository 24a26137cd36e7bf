"""Wav2Vec2 with heads: text by CTC, classes of recordings and of their steps, vectors of speakers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vertebra.audio.config_checks import check_lengths
from vertebra.audio.losses import ctc_loss
from vertebra.audio.outputs import CTCOutput, XVectorOutput
from vertebra.audio.speakers import MarginLoss, TimeDelay, check_steps, means, statistics
from vertebra.audio.wav2vec2 import Wav2Vec2Model, Wav2Vec2PreTrainedModel
from vertebra.audio.wav2vec2_config import Wav2Vec2Config
from vertebra.checks import check_tensors
from vertebra.linear import Linear
from vertebra.losses import class_loss, classification_loss
from vertebra.outputs import ModelOutput, SequenceClassifierOutput, TokenClassifierOutput

NEW = "trained on the new task"


class Wav2Vec2Head(Wav2Vec2PreTrainedModel):
    """A model with a head, whose modules the constructor of a subclass makes.

    Args:
        config: The model's configuration.
    """

    weighs_states: ClassVar[bool] = True
    """Whether `use_weighted_layer_sum` goes for the head."""
    takes_adapter: ClassVar[bool] = False
    """Whether the head works on sequences that an adapter has shortened."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__(config)
        if config.add_adapter and not self.takes_adapter:
            raise ValueError(
                f"{type(self).__name__} works on the encoder's own steps, and add_adapter=True shortens them; set it to False."
            )
        self.wav2vec2 = Wav2Vec2Model(config)
        weighs = self.weighs_states and config.use_weighted_layer_sum
        self.layer_weights = nn.Parameter(torch.empty(config.num_hidden_layers + 1)) if weighs else None

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self and self.layer_weights is not None:
            nn.init.constant_(self.layer_weights, 1 / len(self.layer_weights))

    @abstractmethod
    def answer(self, states: Tensor, samples: Tensor, labels: Tensor | None) -> ModelOutput:
        """Score states `(b, steps, width)` of clips of so many `samples` `(b,)`."""

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Encode recordings and answer.

        Args:
            input_values: `(b, n)` float, as `Wav2Vec2FeatureExtractor` makes them.
            attention_mask: As the base model takes it.
            labels: What is right, as the class says; with them the output holds the loss.
            output_attentions: Also return the attention weights.
            output_hidden_states: Also return all states.
            return_dict: False returns a plain tuple of what is not None.

        Raises:
            TypeError: the recordings are no tensor of floats, or labels no tensor.
            ValueError: an argument that does not fit; says which and what to do.
        """
        if labels is not None:
            check_tensors({"labels": labels})
        hidden, attentions, as_dict = self.asked_for(output_hidden_states, output_attentions, return_dict)
        base = self.wav2vec2(
            input_values,
            attention_mask,
            output_attentions=attentions,
            output_hidden_states=hidden or self.layer_weights is not None,
            return_dict=True,
        )
        states = base.last_hidden_state
        if self.layer_weights is not None:
            states = (torch.stack(base.hidden_states) * self.layer_weights.softmax(-1).view(-1, 1, 1, 1)).sum(0)
        samples = (torch.ones_like(input_values) if attention_mask is None else attention_mask).sum(-1).long()
        output = self.answer(states, samples, labels)
        output.hidden_states, output.attentions = base.hidden_states if hidden else None, base.attentions
        return output if as_dict else output.to_tuple()


class Wav2Vec2ForCTC(Wav2Vec2Head):
    """Scores the tokens of every step; `Wav2Vec2CTCTokenizer.decode` reads the best ones as text.

    Labels: `(b, most)` tokens of the texts, padded with -100 or the blank (`pad_token_id`). A text that needs more steps than
    its recording has gives an infinite loss, or 0 with `ctc_zero_infinity`.

    Args:
        config: The model's configuration.
    """

    pipeline_tag = "automatic-speech-recognition"
    gives = "scores of tokens for every step"
    weighs_states = False
    takes_adapter = True
    explained_missing: ClassVar[Mapping[str, str]] = {**Wav2Vec2Head.explained_missing, r"^lm_head\.": NEW}

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__(config)
        if config.vocab_size is None:
            raise ValueError("Wav2Vec2ForCTC needs to know how many tokens there are: vocab_size=len(tokenizer).")
        self.dropout = nn.Dropout(config.final_dropout)
        width = config.output_hidden_size if config.add_adapter else None
        self.lm_head = Linear(width or config.hidden_size, config.vocab_size)
        self.post_init()

    def answer(self, states: Tensor, samples: Tensor, labels: Tensor | None) -> ModelOutput:
        """Compute `(b, steps, vocab_size)` scores."""
        logits, loss = self.lm_head(self.dropout(states)), None
        if labels is not None:
            rules = (self.config.pad_token_id or 0, self.config.ctc_loss_reduction, self.config.ctc_zero_infinity)
            loss = ctc_loss(logits, labels, self.state_lengths(samples), *rules)
        return CTCOutput(loss=loss, logits=logits)


class Wav2Vec2ForSequenceClassification(Wav2Vec2Head):
    """Gives every recording a class.

    Labels: `(b,)` class indices; what else `config.problem_type` and the labels' dtype allow is as in
    `vertebra.losses.classification_loss`.

    Args:
        config: The model's configuration.
    """

    pipeline_tag = "audio-classification"
    gives = "scores of classes"
    explained_missing: ClassVar[Mapping[str, str]] = {
        **Wav2Vec2Head.explained_missing,
        r"^(projector\.|classifier\.|layer_weights$)": NEW,
    }

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__(config)
        self.projector = Linear(config.hidden_size, config.classifier_proj_size)
        self.classifier = Linear(config.classifier_proj_size, config.num_labels)
        self.post_init()

    def answer(self, states: Tensor, samples: Tensor, labels: Tensor | None) -> ModelOutput:
        """Compute `(b, num_labels)` scores from the mean of the steps that are not padding."""
        mean = means(self.projector(states), self.state_lengths(samples))
        logits = self.classifier(mean)
        loss = None if labels is None else classification_loss(logits, labels, self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class Wav2Vec2ForAudioFrameClassification(Wav2Vec2Head):
    """Gives every step a class, e.g. the speaker who talks.

    Labels: `(b, steps)` class indices, -100 for steps that count in no loss; or `(b, steps, num_labels)`, of which the highest
    counts.

    Args:
        config: The model's configuration.
    """

    pipeline_tag = "audio-classification"
    gives = "scores of classes for every step"
    explained_missing: ClassVar[Mapping[str, str]] = {
        **Wav2Vec2Head.explained_missing,
        r"^(classifier\.|layer_weights$)": NEW,
    }

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__(config)
        self.classifier = Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def answer(self, states: Tensor, samples: Tensor, labels: Tensor | None) -> ModelOutput:
        """Compute `(b, steps, num_labels)` scores."""
        logits, loss = self.classifier(states), None
        if labels is not None:
            loss = class_loss(logits, labels.argmax(-1) if labels.shape == logits.shape else labels)
        return TokenClassifierOutput(loss=loss, logits=logits)


class Wav2Vec2ForXVector(Wav2Vec2Head):
    """Gives the speaker of a recording a vector, to be compared with others by its cosine (Snyder et al. 2018).

    Labels: `(b,)` numbers of speakers, of which there are `num_labels`.

    Args:
        config: The model's configuration.
    """

    pipeline_tag = "audio-classification"
    gives = "vectors of speakers"
    takes_adapter = True
    explained_missing: ClassVar[Mapping[str, str]] = {
        **Wav2Vec2Head.explained_missing,
        r"^(projector|tdnn|feature_extractor|classifier|objective)\.(?!conv_layers)": NEW,
        r"^layer_weights$": NEW,
    }

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__(config)
        check_lengths(config, "layer of the speaker model", "tdnn_dim", "tdnn_kernel", "tdnn_dilation")
        widths = config.tdnn_dim
        self.projector = Linear(config.hidden_size, widths[0])
        shapes = zip([widths[0], *widths], widths, config.tdnn_kernel, config.tdnn_dilation, strict=False)
        self.tdnn = nn.ModuleList(TimeDelay(*shape) for shape in shapes)
        self.feature_extractor = Linear(2 * widths[-1], config.xvector_output_dim)
        self.classifier = Linear(config.xvector_output_dim, config.xvector_output_dim)
        self.objective = MarginLoss(config.xvector_output_dim, config.num_labels)
        self.post_init()

    def answer(self, states: Tensor, samples: Tensor, labels: Tensor | None) -> ModelOutput:
        """Compute vectors from the mean and the deviation of the steps that are not padding."""
        x, lengths = self.projector(states), self.state_lengths(samples)
        check_steps(x.shape[1], lengths, self.config.tdnn_kernel, self.config.tdnn_dilation)
        for layer in self.tdnn:
            x = layer(x)
        for kernel in self.config.tdnn_kernel:
            lengths = lengths - kernel + 1  # dilation aside, as the checkpoints' statistics were taken
        vectors = self.feature_extractor(statistics(x, lengths.clamp(max=x.shape[1])))
        logits = self.classifier(vectors)
        loss = None if labels is None else self.objective(logits, labels)
        return XVectorOutput(loss=loss, logits=logits, embeddings=vectors)
