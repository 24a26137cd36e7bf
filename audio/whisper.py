"""Whisper (Radford et al. 2022): an encoder of spectrograms, and a decoder of the text so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor, nn

from vertebra.audio.attention import Seen
from vertebra.audio.masking import drawn_spans
from vertebra.audio.outputs import Seq2SeqModelOutput, as_encoded
from vertebra.audio.whisper_config import WhisperConfig
from vertebra.audio.whisper_layers import DecoderLayer, EncoderLayer, Waves
from vertebra.audio.whisper_parts import Decoder, Encoder
from vertebra.card import CardFacts
from vertebra.model import PreTrainedModel
from vertebra.outputs import BaseModelOutput

PREPARATION = (
    "Real recordings go through the feature extractor, "
    '`AutoFeatureExtractor.from_pretrained("{repo_id}")(samples, sampling_rate=16000, return_tensors="pt")`, and '
    "`model.generate(…)` writes the text's tokens, which the tokenizer reads."
)


class WhisperPreTrainedModel(PreTrainedModel):
    """Base of Whisper with and without a head: how weights start, and what both know of themselves."""

    config_class = WhisperConfig
    base_model_prefix = "model"
    main_input_name = "input_features"
    pipeline_tag = "automatic-speech-recognition"
    explained_unexpected: ClassVar[Mapping[str, str]] = {
        r"^(proj_out|projector|classifier)\.|^layer_weights$": "another head"
    }
    config: WhisperConfig

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__(config)
        config.check()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Embedding)) and not isinstance(module, Waves):
            nn.init.normal_(module.weight, std=self.config.init_std)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                nn.init.zeros_(module.weight[module.padding_idx])

    def get_encoder(self) -> Encoder:
        """Return the encoder."""
        return self.base_model.encoder

    def get_decoder(self) -> Decoder:
        """Return the decoder."""
        return self.base_model.decoder

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the embedding of tokens."""
        return self.base_model.decoder.embed_tokens

    def freeze_encoder(self) -> None:
        """Keep the encoder as it is while training."""
        self.base_model.encoder.requires_grad_(False)

    def card_facts(self) -> CardFacts:
        """What a model card says about a model that writes down speech."""
        facts, config = super().card_facts(), self.config
        steps, start = 2 * config.max_source_positions, config.decoder_start_token_id
        return replace(
            facts,
            summary="spectrograms of 30 s of speech in, text out, token by token.",
            facts={
                **facts.facts,
                "layers": f"{config.encoder_layers} + {config.decoder_layers}",
                "width": str(config.d_model),
            },
            example=f"torch.randn(1, {config.num_mel_bins}, {steps}), decoder_input_ids=torch.tensor([[{start}]])",
            show="first = next(iter(output))\nprint(first, tuple(output[first].shape))",
            preparation=PREPARATION,
        )


class WhisperModel(WhisperPreTrainedModel):
    """Whisper without the layer that scores tokens.

    Args:
        config: The model's configuration.
    """

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__(config)
        width, act = config.d_model, config.activation_function
        dropouts = (config.dropout, config.attention_dropout, config.activation_dropout)
        self.encoder = Encoder(
            (
                EncoderLayer(width, config.encoder_attention_heads, config.encoder_ffn_dim, act, *dropouts)
                for _ in range(config.encoder_layers)
            ),
            config.num_mel_bins,
            width,
            config.max_source_positions,
            config.dropout,
            config.encoder_layerdrop,
        )
        self.decoder = Decoder(
            (
                DecoderLayer(width, config.decoder_attention_heads, config.decoder_ffn_dim, act, *dropouts)
                for _ in range(config.decoder_layers)
            ),
            config.vocab_size,
            width,
            config.max_target_positions,
            config.pad_token_id,
            config.dropout,
            config.decoder_layerdrop,
        )
        self.post_init()

    def forward(
        self,
        input_features: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: tuple[Seen, ...] | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        decoder_position_ids: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Encode spectrograms and decode the tokens so far.

        Args:
            input_features: `(b, num_mel_bins, 2 * max_source_positions)` float, as `WhisperFeatureExtractor` makes them.
            attention_mask: `(b, steps)` of the spectrograms; tells SpecAugment where clips end. Attention sees all of them.
            decoder_input_ids: `(b, n)` tokens; with `past_key_values` the new ones alone.
            decoder_attention_mask: `(b, n so far)`, 1 for tokens and 0 for padding.
            encoder_outputs: What the encoder gave before (or a tuple that begins with its states), instead of
                `input_features`.
            past_key_values: What an earlier output held under this name.
            decoder_inputs_embeds: `(b, n, d_model)` vectors in place of `decoder_input_ids`.
            decoder_position_ids: `(b, n)` places of the tokens.
            use_cache: Return `past_key_values`.
            output_attentions: Also return the attention weights.
            output_hidden_states: Also return all states.
            return_dict: False returns a plain tuple of what is not None.

        Returns:
            `Seq2SeqModelOutput`.

        Raises:
            TypeError: the spectrograms are no tensor of floats.
            ValueError: an argument that does not fit; says which and what to do.
        """
        hidden, attentions, as_dict = self.asked_for(output_hidden_states, output_attentions, return_dict)
        encoded = self._encoded(input_features, attention_mask, encoder_outputs, hidden, attentions)
        decoded = self.decoder(
            decoder_input_ids,
            encoded.last_hidden_state,
            decoder_attention_mask,
            past_key_values,
            decoder_inputs_embeds,
            decoder_position_ids,
            self.config.use_cache if use_cache is None else use_cache,
            hidden,
            attentions,
        )
        output = Seq2SeqModelOutput(
            last_hidden_state=decoded.last_hidden_state,
            past_key_values=decoded.past_key_values,
            decoder_hidden_states=decoded.hidden_states,
            decoder_attentions=decoded.attentions,
            cross_attentions=decoded.cross_attentions,
            encoder_last_hidden_state=encoded.last_hidden_state,
            encoder_hidden_states=encoded.hidden_states,
            encoder_attentions=encoded.attentions,
        )
        return output if as_dict else output.to_tuple()

    def _encoded(
        self, features: Tensor | None, mask: Tensor | None, given: Any, hidden: bool, attentions: bool
    ) -> BaseModelOutput:
        if given is not None:
            return as_encoded(given)
        if features is None:
            raise ValueError("Give input_features, or encoder_outputs of an earlier call in place of them.")
        self.encoder.check(features)
        return self.encoder(self._masked(features, mask), hidden, attentions)

    def _masked(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """Spectrograms with steps and bands masked, as the configuration says."""
        config = self.config
        if not (config.apply_spec_augment and self.training):
            return features
        rows, bands, steps = features.shape
        if (masked := drawn_spans(config, "time", rows, steps, features.device, mask)) is not None:
            features = features.masked_fill(masked[:, None], 0.0)
        if (masked := drawn_spans(config, "feature", rows, bands, features.device)) is not None:
            features = features.masked_fill(masked[:, :, None], 0.0)
        return features
