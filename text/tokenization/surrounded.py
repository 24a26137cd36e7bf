"""Fast tokenizers whose rows begin with one special token and end with another, whichever these are."""

from __future__ import annotations

import json
from abc import abstractmethod
from typing import Any, ClassVar

from vertebra.text.tokenization.fast import PreTrainedTokenizerFast


class SurroundedTokenizerFast(PreTrainedTokenizerFast):
    """Base of fast tokenizers that keep the library's rows in step with the special tokens."""

    around: ClassVar[tuple[str, str]]
    """Names of the special tokens that begin and end a row."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._special_changed()

    @abstractmethod
    def _row_of(self, first: tuple[str, int], last: tuple[str, int]) -> Any:
        """The library's post-processor that puts these tokens, with their numbers, around texts."""

    def _special_changed(self) -> None:
        names = [getattr(self, name) for name in self.around]
        processor = self._tokenizer.post_processor
        if None in names or (processor is not None and stands_around(processor) in (None, tuple(names))):
            return
        first, last = ((name, int(self.convert_tokens_to_ids(name))) for name in names)
        self._tokenizer.post_processor = self._row_of(first, last)


def stands_around(processor: Any) -> tuple[str, str] | None:
    """The tokens that a post-processor puts around a text; None where it does something else."""
    state = json.loads(processor.__getstate__())
    if "cls" in state and "sep" in state:
        return state["cls"][0], state["sep"][0]
    tokens = [entry.get("SpecialToken", {}).get("id") for entry in state.get("single", ())]
    return (tokens[0], tokens[2]) if len(tokens) == 3 and tokens[1] is None and tokens[0] and tokens[2] else None
