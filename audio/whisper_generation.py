"""Whisper with the layer that scores tokens, and how it writes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vertebra.audio.attention import Seen
from vertebra.audio.checks import check_tokens
from vertebra.audio.generation_config import GENERATION_FILE, GenerationConfig
from vertebra.audio.greedy import room_for, write
from vertebra.audio.outputs import Seq2SeqLMOutput, as_encoded
from vertebra.audio.whisper import WhisperModel, WhisperPreTrainedModel
from vertebra.audio.whisper_config import WhisperConfig
from vertebra.audio.whisper_prompt import prompt_tokens
from vertebra.hub import CheckpointFiles, HubOptions
from vertebra.linear import Linear
from vertebra.losses import IGNORED, at_hand, class_loss


class WhisperForConditionalGeneration(WhisperPreTrainedModel):
    """Writes down speech: `generate` gives the tokens of the text.

    Labels: `(b, n)` tokens of the texts, without the start token, padded with -100.

    Args:
        config: The model's configuration.
    """

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__(config)
        self.model = WhisperModel(config)
        self.proj_out = Linear(config.d_model, config.vocab_size, bias=False)
        self.generation_config = GenerationConfig.of_model(config)
        self.post_init()

    @property
    def tied_weights(self) -> Mapping[str, str]:
        """The scores of tokens are computed with their embeddings, unless the configuration says otherwise."""
        return {"proj_out.weight": "model.decoder.embed_tokens.weight"} if self.config.tie_word_embeddings else {}

    def get_output_embeddings(self) -> nn.Linear:
        """Return the linear layer that scores tokens."""
        return self.proj_out

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
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Score the token after each; arguments and errors as `WhisperModel`, and `labels`.

        Returns:
            `Seq2SeqLMOutput`.
        """
        _, _, as_dict = self.asked_for(output_hidden_states, output_attentions, return_dict)
        if labels is not None:
            check_tokens("labels", labels, padding=IGNORED)
        if labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self.shifted(labels)
        base = self.model(
            input_features,
            attention_mask,
            decoder_input_ids,
            decoder_attention_mask,
            encoder_outputs,
            past_key_values,
            decoder_inputs_embeds,
            decoder_position_ids,
            use_cache,
            output_attentions,
            output_hidden_states,
            return_dict=True,
        )
        logits, loss = self.proj_out(base.last_hidden_state), None
        if labels is not None:
            loss = class_loss(logits, labels, hint=f"The model knows {logits.shape[-1]} tokens.")
        rest = {name: value for name, value in base.items() if name != "last_hidden_state"}
        output = Seq2SeqLMOutput(loss=loss, logits=logits, **rest)
        return output if as_dict else output.to_tuple()

    def shifted(self, labels: Tensor) -> Tensor:
        """What the decoder gets to write `labels`: the start token, then all but the last; padding as `pad_token_id`."""
        start = labels.new_full((len(labels), 1), self.config.decoder_start_token_id)
        tokens = torch.cat([start, labels[:, :-1]], dim=1)
        if self.config.pad_token_id is None:
            raise ValueError(f"labels are padded with {IGNORED}, and config.pad_token_id, the token for it, is None.")
        return tokens.masked_fill(tokens == IGNORED, self.config.pad_token_id)

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str] | CheckpointFiles, *args: Any, **kwargs: Any) -> Any:
        """Load a checkpoint with its `generation_config.json`; arguments and errors as `PreTrainedModel.from_pretrained`."""
        files = CheckpointFiles.open(source, HubOptions.pop(kwargs))
        loaded = super().from_pretrained(files, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.generation_config = GenerationConfig.find(files, model.config)
        return loaded

    def further_files(self) -> Mapping[str, str]:
        """`generation_config.json`, which is saved beside the configuration."""
        return {**super().further_files(), GENERATION_FILE: self.generation_config.to_json_string()}

    @torch.no_grad()
    def generate(
        self,
        input_features: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *,
        attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        **settings: Any,
    ) -> Tensor:
        """Write down speech: the likeliest token each time, until a text ends or there is no more room.

        Args:
            input_features: `(b, num_mel_bins, steps)` float, as `WhisperFeatureExtractor` makes them: 30 s each.
            generation_config: How to write, instead of the model's own.
            attention_mask: Taken and not looked at: the model hears padding as silence.
            encoder_outputs: What the encoder gave before (or a tuple that begins with its states), instead of
                `input_features`.
            **settings: Any key of `GenerationConfig`, for this call: `language="de"`, `task="translate"`, `max_new_tokens=50`.

        Returns:
            `(b, most)` int64: the tokens of the texts without prompt and end, filled up with `pad_token_id`.

        Raises:
            TypeError: no spectrograms, or an argument that nobody takes.
            ValueError: an argument that does not fit, says which and what to do; or a way to write that is not here.
        """
        rules = self._rules(generation_config).updated(settings)
        rules.check()
        memory = self._heard(input_features, encoder_outputs)
        start = self._start(rules)
        prompt = torch.tensor(
            prompt_tokens(rules, start, len(memory), lambda tokens: self._likeliest(memory, start, tokens).tolist()),
            device=memory.device,
        )
        return write(
            lambda tokens, past: self._next(tokens, past, memory),
            prompt,
            room_for(prompt.shape[1], self.config.max_target_positions, rules),
            rules,
        )

    @torch.no_grad()
    def detect_language(
        self,
        input_features: Tensor | None = None,
        encoder_outputs: Any = None,
        generation_config: GenerationConfig | None = None,
    ) -> Tensor:
        """Tell the likeliest language of each clip, among those that `generation_config.lang_to_id` has.

        Args:
            input_features: As `generate` takes them.
            encoder_outputs: As `generate` takes them.
            generation_config: What has the languages' tokens, instead of the model's own.

        Returns:
            `(b,)` int64, the tokens of the languages.

        Raises:
            TypeError: no spectrograms.
            ValueError: the model knows no tokens of languages, or spectrograms of another shape.
        """
        rules = self._rules(generation_config)
        if not rules.lang_to_id:
            raise ValueError(
                "generation_config has no lang_to_id, the tokens of languages to choose from: the model knows one language, or "
                "its generation_config.json is an early one."
            )
        return self._likeliest(
            self._heard(input_features, encoder_outputs), self._start(rules), list(rules.lang_to_id.values())
        )

    def _rules(self, given: Any) -> GenerationConfig:
        if given is not None and not isinstance(given, GenerationConfig):
            found = f"{type(given).__module__}.{type(given).__name__}".removeprefix("builtins.")
            made = "generation_config" if isinstance(given, Mapping) else "generation_config.to_dict()"
            raise TypeError(
                f"generation_config is a {found}; it must be a vertebra.GenerationConfig: GenerationConfig.from_dict({made})."
            )
        return given or self.generation_config

    def _start(self, rules: GenerationConfig) -> int:
        start = rules.decoder_start_token_id
        return self.config.decoder_start_token_id if start is None else start

    def _heard(self, features: Tensor | None, given: Any) -> Tensor:
        if given is None and features is None:
            raise TypeError("generate() needs input_features, as WhisperFeatureExtractor makes them.")
        encoded = self.model.encoder(features) if given is None else as_encoded(given)
        states: Any = encoded.last_hidden_state
        if at_hand(states) and (bad := (~states.isfinite()).any(-1).any(-1).nonzero().flatten().tolist()):
            raise ValueError(
                f"The encoder's states of clip {bad[0]} hold NaN or infinity, so no token is likelier than another; look for them "
                f"in input_features and in the model's weights."
            )
        return states

    def _next(self, tokens: Tensor, past: Any, memory: Tensor) -> tuple[Tensor, Any]:
        """Scores `(b, vocab_size)` of the token after the last, and what the decoder keeps."""
        output = self.model.decoder(tokens, memory, past_key_values=past)
        return self.proj_out(output.last_hidden_state[:, -1]).float(), output.past_key_values

    def _likeliest(self, memory: Tensor, start: int, tokens: Sequence[int]) -> Tensor:
        """The one of `tokens` that is likeliest to follow the start token, `(b,)`."""
        scores, _ = self._next(torch.full((len(memory), 1), start, device=memory.device), None, memory)
        choices = torch.tensor(list(tokens), device=memory.device)
        return choices[scores[:, choices].argmax(-1)]
