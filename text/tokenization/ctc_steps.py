"""The steps of a CTC model: runs of one token, the words that they make, and what decoding returns."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any, NamedTuple

from vertebra.errors import listing


class Wav2Vec2CTCTokenizerOutput(dict[str, Any]):
    """A text with the steps of its letters and words; entries are attributes too.

    `text` is the text, `char_offsets` a list of `{"char", "start_offset", "end_offset"}`, `word_offsets` one of `{"word",
    "start_offset", "end_offset"}`, each None where it was not asked for. Offsets count the model's steps, of
    `model.config.inputs_to_logits_ratio / sampling_rate` seconds. Of a batch, each entry is a list.
    """

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(f"This text has no {name!r}; it has {listing(map(repr, self))}.")


class Run(NamedTuple):
    """A token that several steps in a row have, from step `start` to before `end`."""

    token: str
    start: int
    end: int


def runs(tokens: Iterable[str]) -> list[Run]:
    """Tokens of steps, each once where several steps in a row have it."""
    found: list[Run] = []
    for token, steps in groupby(tokens):
        start = found[-1].end if found else 0
        found.append(Run(token, start, start + sum(1 for _ in steps)))
    return found


def words(letters: Iterable[Run], delimiter: str) -> list[Run]:
    """The words that letters make."""
    found = []
    for between, group in groupby(letters, key=lambda run: run.token == delimiter):
        if not between:
            word = list(group)
            found.append(Run("".join(run.token for run in word), word[0].start, word[-1].end))
    return found


def offset(name: str, run: Run) -> dict[str, Any]:
    """A run as an entry of `Wav2Vec2CTCTokenizerOutput`."""
    return {name: run.token, "start_offset": run.start, "end_offset": run.end}
