"""The texts of a call: one or many, alone or in pairs, whole or split into words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Text = str | Sequence[str]
"""A text, or with `is_split_into_words` its words."""
Item = tuple[Text, Text | None]
"""A text and its pair."""

HOW = (
    "A text is a str; a batch is a list of them; is_split_into_words=True takes lists of words, and a second text goes to "
    "text_pair."
)


def read_texts(text: Any, text_pair: Any, is_split_into_words: bool) -> tuple[list[Item], bool]:
    """Return the texts of a call with their pairs, and whether they are a batch.

    Args:
        text: A text, or a batch; without `text_pair` an entry of it may be a pair `(text, text)`.
        text_pair: Second texts, of the same form.
        is_split_into_words: A text is a list of words.

    Raises:
        TypeError: something that should be a text is none; names its place.
        ValueError: the two batches differ in length, or a text holds half of a surrogate pair.
    """
    batched = _is_list(text) and (not is_split_into_words or (len(text) > 0 and _is_list(text[0])))
    if not batched:
        second = None if text_pair is None else _read(text_pair, "text_pair", is_split_into_words)
        return [(_read(text, "text", is_split_into_words), second)], False
    if text_pair is None:
        return [_read_entry(one, f"text[{at}]", is_split_into_words) for at, one in enumerate(text)], True
    if not _is_list(text_pair):
        raise TypeError(f"text is a batch of {len(text)}, and text_pair is {_shown(text_pair)}; it must be a list too.")
    if len(text) != len(text_pair):
        raise ValueError(f"text has {len(text)} entries and text_pair has {len(text_pair)}; each text needs its pair.")
    firsts = [_read(one, f"text[{at}]", is_split_into_words) for at, one in enumerate(text)]
    seconds = [_read(one, f"text_pair[{at}]", is_split_into_words) for at, one in enumerate(text_pair)]
    return list(zip(firsts, seconds, strict=True)), True


def _read_entry(value: Any, place: str, split: bool) -> Item:
    """An entry of a batch, which may be a pair."""
    is_pair = _is_list(value) and len(value) == 2 and (not split or all(map(_is_list, value)))
    if is_pair:
        return _read(value[0], f"{place}[0]", split), _read(value[1], f"{place}[1]", split)
    return _read(value, place, split), None


def _read(value: Any, place: str, split: bool) -> Text:
    if not split:
        return _string(value, place)
    if isinstance(value, str):
        raise TypeError(
            f"{place} is a str, and is_split_into_words=True takes a list of words: {place}.split(), or leave "
            f"is_split_into_words out."
        )
    if not _is_list(value):
        raise TypeError(f"{place} is {_shown(value)}, not a list of words. {HOW}")
    return [_string(word, f"{place}[{at}]") for at, word in enumerate(value)]


def _string(value: Any, place: str) -> str:
    if not isinstance(value, str):
        advice = " Decode it: value.decode('utf-8')." if isinstance(value, (bytes, bytearray)) else ""
        raise TypeError(f"{place} is {_shown(value)}, not a str.{advice} {HOW}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{place} holds half of a surrogate pair, {value[error.start]!r} at index {error.start}, which is no character. Read "
            f"the text with errors='replace', or value.encode('utf-16', 'surrogatepass').decode('utf-16') to join pairs."
        ) from error
    return value


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _shown(value: Any) -> str:
    text = repr(value)
    short = text if len(text) <= 60 else text[:57] + "…"
    return short if value is None else f"{short} ({type(value).__name__})"
