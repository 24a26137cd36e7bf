"""`generation_config.json`: what a model writes first, never, and last."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from numbers import Integral
from pathlib import Path
from types import NoneType
from typing import Any

from vertebra.config import PreTrainedConfig
from vertebra.errors import did_you_mean, listing
from vertebra.files import write_text
from vertebra.hub import CheckpointFiles, HubOptions, read_json

GENERATION_FILE = "generation_config.json"
GREEDY: dict[str, tuple[Any, ...]] = {
    name: (None, *same)
    for same, names in (
        (
            (0,),
            "min_length min_new_tokens no_repeat_ngram_size encoder_no_repeat_ngram_size penalty_alpha diversity_penalty",
        ),
        (
            (1,),
            "num_beams num_beam_groups num_return_sequences repetition_penalty encoder_repetition_penalty guidance_scale",
        ),
        ((0, 1), "temperature"),
        ((False,), "do_sample return_timestamps return_token_timestamps return_segments return_dict_in_generate"),
        ((False,), "condition_on_prev_tokens"),
        ((True,), "use_cache"),
        (
            (),
            "prompt_ids bad_words_ids force_words_ids constraints sequence_bias stop_strings max_time watermarking_config",
        ),
        ((), "forced_bos_token_id forced_eos_token_id exponential_decay_length_penalty dola_layers"),
        ((), "compression_ratio_threshold logprob_threshold no_speech_threshold"),
    )
    for name in names.split()
}
"""Settings of other ways to write, and the values at which they mean this one."""


@dataclass
class GenerationConfig:
    """How a model writes.

    Args:
        max_length: The most tokens to write; `max_new_tokens` wins.
        max_new_tokens: The most tokens to write; one that the model has no room for is refused.
        decoder_start_token_id: The first token of the prompt.
        bos_token_id: Kept.
        eos_token_id: The token, or tokens, that end a text.
        pad_token_id: What ended texts are filled up with.
        suppress_tokens: Tokens that are never written.
        begin_suppress_tokens: Tokens that are not written first.
        forced_decoder_ids: `[place, token]` of the prompt after its first token; None as a token leaves the language open.
        no_timestamps_token_id: The token that ends a prompt for text without times.
        is_multilingual: Whether the model knows several languages.
        lang_to_id: Token of a language (`<|en|>`) to its number.
        task_to_id: Task (`"transcribe"`, `"translate"`) to the number of its token.
        language: Language of the speech, by code, English name or token; a list has one for each clip.
        task: `"transcribe"`, or `"translate"` into English.
        other: What else the file says. Settings of other ways to write are kept, and refused when writing.
    """

    max_length: int | None = None
    max_new_tokens: int | None = None
    decoder_start_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | Sequence[int] | None = None
    pad_token_id: int | None = None
    suppress_tokens: Sequence[int] | None = None
    begin_suppress_tokens: Sequence[int] | None = None
    forced_decoder_ids: Sequence[Sequence[int | None]] | None = None
    no_timestamps_token_id: int | None = None
    is_multilingual: bool | None = None
    lang_to_id: Mapping[str, int] | None = None
    task_to_id: Mapping[str, int] | None = None
    language: str | Sequence[str] | None = None
    task: str | None = None
    other: dict[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        other = self.__dict__.get("other", {})
        if name in other:
            return other[name]
        raise AttributeError(f"GenerationConfig has no {name!r}.{did_you_mean(name, [*_names(), *other])}")

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str] | CheckpointFiles, **settings: Any) -> GenerationConfig:
        """Load `generation_config.json` of a folder or hub id.

        Args:
            source: The folder or hub id.
            **settings: Hub options (`revision`, `token`, …), and keys to override.

        Raises:
            OSError: there is no such checkpoint, or it has no such file.
            TypeError: an override that is no key.
        """
        files = CheckpointFiles.open(source, HubOptions.pop(settings))
        return cls.from_dict(read_json(files.require(GENERATION_FILE))).updated(settings)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> GenerationConfig:
        """Read the content of a file; keys that are not known here are kept."""
        known = _names()
        other = {name: value for name, value in content.items() if name not in known}
        return cls(**{name: value for name, value in content.items() if name in known}, other=other)

    @classmethod
    def of_model(cls, config: PreTrainedConfig) -> GenerationConfig:
        """What the configuration of a model says of how it writes, for checkpoints without such a file."""
        return cls(**{name: value for name in _names() if (value := getattr(config, name, None)) is not None})

    @classmethod
    def find(cls, files: CheckpointFiles, config: PreTrainedConfig) -> GenerationConfig:
        """What a checkpoint says: in its own file, and of what that leaves open in the model's configuration."""
        path = files.find(GENERATION_FILE)
        if path is None:
            return cls.of_model(config)
        found, usual = cls.from_dict(read_json(path)), cls.of_model(config)
        for name in ("decoder_start_token_id", "eos_token_id", "pad_token_id", "forced_decoder_ids"):
            if getattr(found, name) is None:
                setattr(found, name, getattr(usual, name))
        return found

    def updated(self, settings: Mapping[str, Any]) -> GenerationConfig:
        """A copy with other settings.

        Raises:
            TypeError: a setting that nobody takes; names the nearest.
        """
        known = _names()
        for name in settings:
            if name not in known and name not in GREEDY:
                near = did_you_mean(name, [*known, *GREEDY, "input_features", "encoder_outputs"])
                raise TypeError(f"generate() has no argument {name!r}.{near} It takes {listing(known)}.")
        return GenerationConfig.from_dict({**{name: getattr(self, name) for name in known}, **self.other, **settings})

    def check(self) -> None:
        """Check that this is the way to write that is here, the likeliest token each time.

        Raises:
            ValueError: a setting of another way, or a number of tokens that is none.
        """
        for name, value in self.other.items():
            if name in GREEDY and not (isinstance(value, (int, float, NoneType)) and value in GREEDY[name]):
                raise ValueError(
                    f"{name}={value!r} is not here: generate() writes the likeliest token each time, without times. Leave it out, "
                    f"or pass {name}={GREEDY[name][-1]!r} where generation_config.json says it."
                )
        for name in ("max_length", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, Integral) or value < 0):
                raise ValueError(f"{name}={value!r} must be a whole number, from 0, or None.")

    def to_dict(self) -> dict[str, Any]:
        """Return what a file holds: everything that is said."""
        content = asdict(self)
        return {**content.pop("other"), **{name: value for name, value in content.items() if value is not None}}

    def to_json_string(self) -> str:
        """Return `to_dict` as JSON text with sorted keys."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Write `generation_config.json` into a folder, which is made if need be."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / GENERATION_FILE, self.to_json_string())


def _names() -> list[str]:
    return [part.name for part in fields(GenerationConfig) if part.name != "other"]
