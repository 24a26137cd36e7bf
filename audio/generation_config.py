"""`generation_config.json`: what a model writes first, never, and last."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from vertebra.config import PreTrainedConfig
from vertebra.errors import did_you_mean, listing
from vertebra.hub import CheckpointFiles, HubOptions, read_json

GENERATION_FILE = "generation_config.json"
GREEDY: dict[str, tuple[Any, ...]] = {
    "num_beams": (None, 1),
    "num_return_sequences": (None, 1),
    "do_sample": (None, False),
    "temperature": (None, 0, 0.0, 1, 1.0),
    "return_timestamps": (None, False),
    "return_token_timestamps": (None, False),
    "return_segments": (None, False),
    "return_dict_in_generate": (None, False),
    "use_cache": (None, True),
    "prompt_ids": (None,),
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
        other: What else the file says.
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
    def from_pretrained(cls, source: str | os.PathLike[str] | CheckpointFiles, **hub: Any) -> GenerationConfig:
        """Load `generation_config.json` of a folder or hub id; `hub` holds `revision`, `token` and the like.

        Raises:
            OSError: there is no such checkpoint, or it has no such file.
        """
        files = CheckpointFiles.open(source, HubOptions.pop(hub))
        return cls.from_dict(read_json(files.require(GENERATION_FILE)))

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
        """A copy with other settings; all are checked.

        Raises:
            TypeError: a setting that nobody takes; names the nearest.
            ValueError: a setting of another way to write than the likeliest token each time.
        """
        known = _names()
        for name, value in {**self.other, **settings}.items():
            if name in GREEDY and value not in GREEDY[name]:
                raise ValueError(
                    f"{name}={value!r} is not here: generate() writes the likeliest token each time, without times. Leave it out, "
                    f"or pass {name}={GREEDY[name][-1]!r} where generation_config.json says it."
                )
            if name in settings and name not in known and name not in GREEDY:
                raise TypeError(
                    f"generate() has no argument {name!r}.{did_you_mean(name, [*known, *GREEDY])} It takes {listing(known)}."
                )
        changed = {name: value for name, value in settings.items() if name in known}
        return GenerationConfig(**{**{name: getattr(self, name) for name in known}, **changed}, other=self.other)

    def to_dict(self) -> dict[str, Any]:
        """Return what a file holds: everything that is said."""
        content = asdict(self)
        return {**content.pop("other"), **{name: value for name, value in content.items() if value is not None}}

    def to_json_string(self) -> str:
        """Return `to_dict` as JSON text with sorted keys."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"


def _names() -> list[str]:
    return [part.name for part in fields(GenerationConfig) if part.name != "other"]
