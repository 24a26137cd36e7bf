"""The configuration of Whisper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Any, ClassVar

from vertebra.audio.config_checks import check_shares
from vertebra.config import PreTrainedConfig


class WhisperConfig(PreTrainedConfig):
    """Configuration of Whisper; the defaults are `whisper-tiny`, with the special tokens of the English models.

    Args:
        vocab_size: How many tokens there are.
        num_mel_bins: Bands of the spectrogram.
        encoder_layers: Layers of the encoder.
        encoder_attention_heads: Attention heads in each.
        decoder_layers: Layers of the decoder.
        decoder_attention_heads: Attention heads in each.
        decoder_ffn_dim: Channels inside the decoder's perceptrons.
        encoder_ffn_dim: Channels inside the encoder's perceptrons.
        encoder_layerdrop: Probability with which a layer of the encoder is left out while training, for the batch.
        decoder_layerdrop: The same of the decoder.
        decoder_start_token_id: The token that texts begin with.
        use_cache: Whether forwards return what the decoder keeps of the tokens so far.
        is_encoder_decoder: Kept.
        activation_function: Name of the perceptrons' activation.
        d_model: Channels of every state.
        dropout: Of embeddings and of each residual branch.
        attention_dropout: Of attention weights.
        activation_dropout: Inside the perceptrons.
        init_std: Standard deviation of initial weights.
        scale_embedding: Kept; no Whisper model scales its embeddings.
        max_source_positions: Steps of the encoder's states; the spectrogram has twice as many.
        max_target_positions: The most tokens a text may have.
        pad_token_id: The token that fills up texts.
        bos_token_id: Kept.
        eos_token_id: The token, or tokens, that end a text.
        suppress_tokens: Tokens that are never written, where `generation_config.json` does not say.
        begin_suppress_tokens: Tokens that are not written first, where `generation_config.json` does not say.
        use_weighted_layer_sum: Whether a classifier sees a weighted sum of all states instead of the last.
        classifier_proj_size: Channels before a classifier.
        apply_spec_augment: Whether spectrograms are masked while training (Park et al. 2019).
        mask_time_prob: Share of steps to mask.
        mask_time_length: Steps of each masked span.
        mask_time_min_masks: Spans at least.
        mask_feature_prob: Share of bands to mask.
        mask_feature_length: Bands of each masked span.
        mask_feature_min_masks: Spans at least.
        median_filter_width: Kept.
        tie_word_embeddings: Whether scores of tokens are computed with their embeddings.
    """

    model_type = "whisper"
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "d_model",
        "num_attention_heads": "encoder_attention_heads",
        "num_key_value_heads": "encoder_attention_heads",
        "num_hidden_layers": "encoder_layers",
    }

    vocab_size: int = 51865
    num_mel_bins: int = 80
    encoder_layers: int = 4
    encoder_attention_heads: int = 6
    decoder_layers: int = 4
    decoder_attention_heads: int = 6
    decoder_ffn_dim: int = 1536
    encoder_ffn_dim: int = 1536
    encoder_layerdrop: float = 0.0
    decoder_layerdrop: float = 0.0
    decoder_start_token_id: int = 50257
    use_cache: bool = True
    is_encoder_decoder: bool = True
    activation_function: str = "gelu"
    d_model: int = 384
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    init_std: float = 0.02
    scale_embedding: bool = False
    max_source_positions: int = 1500
    max_target_positions: int = 448
    pad_token_id: int | None = 50256
    bos_token_id: int | None = 50256
    eos_token_id: int | Sequence[int] | None = 50256
    suppress_tokens: Sequence[int] | None = None
    begin_suppress_tokens: Sequence[int] | None = field(default_factory=lambda: [220, 50256])
    use_weighted_layer_sum: bool = False
    classifier_proj_size: int = 256
    apply_spec_augment: bool = False
    mask_time_prob: float = 0.05
    mask_time_length: int = 10
    mask_time_min_masks: int = 2
    mask_feature_prob: float = 0.0
    mask_feature_length: int = 10
    mask_feature_min_masks: int = 0
    median_filter_width: int = 7
    tie_word_embeddings: bool = True

    @classmethod
    def _merge(cls, content: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
        # files of transformers 4 hold num_hidden_layers beside encoder_layers; an override of the latter is meant
        repeated = {alias for alias, key in cls.attribute_map.items() if key in content}
        return {**{name: value for name, value in content.items() if name not in repeated}, **overrides}

    def check(self) -> None:
        """Check that a model can be built.

        Raises:
            ValueError: says which key is wrong and what is allowed.
        """
        for key in ("encoder_attention_heads", "decoder_attention_heads"):
            check_shares(self, key, "d_model")
        if self.d_model % 2 or self.d_model < 4:
            raise ValueError(f"d_model={self.d_model} must be even and at least 4: half are sines, half cosines.")
        for key in ("decoder_start_token_id", "pad_token_id"):
            token = getattr(self, key)
            if token is not None and not 0 <= token < self.vocab_size:
                raise ValueError(
                    f"{key}={token} is no token: vocab_size={self.vocab_size} has 0 to {self.vocab_size - 1}."
                )
