"""The encoder and the decoder of Whisper."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from vertebra.audio.attention import Seen
from vertebra.audio.checks import check_floats, check_tokens
from vertebra.audio.layerdrop import run_layer, run_layers
from vertebra.audio.outputs import DecoderOutput
from vertebra.audio.whisper_layers import DecoderLayer, EncoderLayer, SpectrogramStem, Waves
from vertebra.losses import check_range
from vertebra.outputs import BaseModelOutput


class Encoder(SpectrogramStem):
    """Spectrograms to states.

    Args:
        layers: The layers.
        bands: Bands of the spectrogram.
        width: Channels.
        positions: Steps of the states; the spectrogram has twice as many.
        dropout: Of the states that the first layer gets.
        layerdrop: Probability with which a layer is left out while training, for the batch.
    """

    def __init__(
        self, layers: Iterable[EncoderLayer], bands: int, width: int, positions: int, dropout: float, layerdrop: float
    ) -> None:
        super().__init__(bands, width)
        self.bands, self.positions, self.layerdrop = bands, positions, layerdrop
        self.embed_positions = Waves(positions, width)
        self.layers = nn.ModuleList(layers)
        self.layer_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, input_features: Tensor, output_hidden_states: bool = False, output_attentions: bool = False
    ) -> BaseModelOutput:
        """Encode.

        Args:
            input_features: `(b, bands, 2 * positions)` float.
            output_hidden_states: Also return all states, from the first layer's input on.
            output_attentions: Also return the attention weights.

        Raises:
            TypeError: the spectrograms are no tensor of floats.
            ValueError: their shape does not fit.
        """
        self.check(input_features)
        x = self.dropout(self.convolve(input_features) + self.embed_positions.weight)
        layerdrop = self.layerdrop if self.training else 0.0
        x, states, shares = run_layers(self.layers, x, layerdrop, output_hidden_states, output_attentions)
        x = self.layer_norm(x)
        return BaseModelOutput(
            last_hidden_state=x, hidden_states=(*states[:-1], x) if states else None, attentions=shares
        )

    def check(self, features: Any) -> None:
        """Check spectrograms; errors as `forward`."""
        check_floats("input_features", features, self.conv1.weight.dtype, "WhisperFeatureExtractor")
        steps = 2 * self.positions
        if features.ndim != 3 or features.shape[1] != self.bands:
            raise ValueError(
                f"input_features of shape {tuple(features.shape)} must have the shape (clips, {self.bands}, {steps}); a feature "
                f"extractor with feature_size={self.bands} gives that."
            )
        if features.shape[2] < steps:
            raise ValueError(
                f"input_features has {features.shape[2]} steps, and the model takes {steps}; pad clips to the full length: "
                f"padding='max_length', which is the extractor's default."
            )
        if features.shape[2] > steps:
            raise ValueError(
                f"input_features has {features.shape[2]} steps, and the model takes {steps} (30 s for the usual extractor). Cut "
                f"audio into pieces of that length and transcribe each, as examples/transcribe.py does."
            )


class Decoder(nn.Module):
    """Tokens so far, and the encoder's states, to states of the tokens.

    Args:
        layers: The layers.
        words: How many tokens there are.
        width: Channels.
        positions: The most tokens a text may have.
        padding: The token whose embedding is not trained, or None.
        dropout: Of embeddings.
        layerdrop: Probability with which a layer is left out while training, for the batch.
    """

    def __init__(
        self,
        layers: Iterable[DecoderLayer],
        words: int,
        width: int,
        positions: int,
        padding: int | None,
        dropout: float,
        layerdrop: float,
    ) -> None:
        super().__init__()
        self.layerdrop = layerdrop
        self.embed_tokens = nn.Embedding(words, width, padding_idx=padding)
        self.embed_positions = nn.Embedding(positions, width)
        self.layers = nn.ModuleList(layers)
        self.layer_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        input_ids: Tensor | None,
        memory: Tensor | None,
        attention_mask: Tensor | None = None,
        past_key_values: tuple[Seen, ...] | None = None,
        inputs_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
        use_cache: bool = True,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> DecoderOutput:
        """Decode.

        Args:
            input_ids: `(b, n)` tokens; with `past_key_values` the new ones alone.
            memory: `(b, steps, width)`, the encoder's states.
            attention_mask: `(b, n so far)`, 1 for tokens and 0 for padding.
            past_key_values: What the layers kept of the tokens before.
            inputs_embeds: `(b, n, width)` vectors in place of `input_ids`.
            position_ids: `(b, n)` places; counted on from those before when None.
            use_cache: Return what the layers keep.
            output_hidden_states: Also return all states, from the embeddings on.
            output_attentions: Also return the attention weights.

        Raises:
            TypeError: tokens that are no tensor.
            ValueError: tokens or states that do not fit, or too many tokens.
        """
        before = past_key_values[0].length if past_key_values else 0
        x = self.embed(input_ids, inputs_embeds)
        count = x.shape[1]
        self._check_memory(x, memory)
        self._check_count(before + count, count, attention_mask)
        places = torch.arange(before, before + count, device=x.device) if position_ids is None else position_ids
        x = self.dropout(x + self.embed_positions(places))
        mask = causal_mask(count, before, x.device, attention_mask)
        layerdrop = self.layerdrop if self.training else 0.0
        states, shares, kept = [x] if output_hidden_states else [], [], []
        for layer, past in zip(self.layers, past_key_values or [None] * len(self.layers), strict=True):
            x, weights, seen = run_layer(layer, x, layerdrop, memory, mask, past, output_attentions)
            states += [x] if output_hidden_states else []
            shares.append(weights)
            kept.append(seen)
        x = self.layer_norm(x)
        own, other = zip(*shares, strict=True) if output_attentions and shares else (None, None)
        return DecoderOutput(
            last_hidden_state=x,
            past_key_values=tuple(kept) if use_cache else None,
            hidden_states=(*states[:-1], x) if output_hidden_states else None,
            attentions=own,
            cross_attentions=other if other and other[0] is not None else None,
        )

    def embed(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """The embeddings of tokens, or what is given in place of them."""
        if (input_ids is None) == (inputs_embeds is None):
            given = "neither" if input_ids is None else "both"
            raise ValueError(
                f"Give either decoder_input_ids or decoder_inputs_embeds, got {given}. A text begins with the token "
                f"config.decoder_start_token_id; labels=… makes them, and generate() writes them."
            )
        if input_ids is None:
            return inputs_embeds  # type: ignore[return-value]
        check_tokens("decoder_input_ids", input_ids)
        words = self.embed_tokens.num_embeddings
        check_range(input_ids, words, "decoder_input_ids", f"The model knows {words} tokens.")
        return self.embed_tokens(input_ids)

    def _check_memory(self, x: Tensor, memory: Tensor | None) -> None:
        rows, width = x.shape[0], self.embed_tokens.embedding_dim
        if memory is not None and (memory.ndim != 3 or memory.shape[0] != rows or memory.shape[2] != width):
            raise ValueError(
                f"The encoder's states have the shape {tuple(memory.shape)}, and {rows} texts need ({rows}, steps, {width}): give "
                f"one text for each clip."
            )

    def _check_count(self, total: int, new: int, attention_mask: Tensor | None) -> None:
        most = self.embed_positions.num_embeddings
        if total > most:
            raise ValueError(
                f"The text has {total} tokens, and the model takes {most} at most (max_target_positions); shorten it."
            )
        if attention_mask is not None and attention_mask.shape[-1] != total:
            raise ValueError(
                f"decoder_attention_mask of shape {tuple(attention_mask.shape)} must tell of all {total} tokens, the {total - new} "
                f"before these included."
            )


def causal_mask(new: int, before: int, device: torch.device, attention_mask: Tensor | None = None) -> Tensor | None:
    """Bool `(…, new, before + new)`, True where a token is not after another and not padding; None where all are True."""
    if new == 1 and attention_mask is None:
        return None
    places = torch.arange(before + new, device=device)
    mask = places <= places[before:, None]
    return mask if attention_mask is None else mask & attention_mask.bool()[:, None, None]
