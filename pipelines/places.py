"""Where in a text its tokens stand, when it was joined from words or when somebody says so."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

Span = tuple[int, int]
"""The first character, and the one behind the last."""


class Placed(NamedTuple):
    """A text with the characters that its tokens come from, which somebody gave."""

    text: Any
    spans: Sequence[Span]


def in_text(row: Any, words: Sequence[str], gap: int) -> list[Span]:
    """Places in the text that words are joined to, from places in words; `gap` characters stand between two of them."""
    starts = list(accumulate((len(word) + gap for word in words), initial=0))
    shifts = [0 if number is None else starts[number] for number in row.word_ids]
    return [(start + shift, end + shift) for (start, end), shift in zip(row.offsets, shifts, strict=True)]


def placed(inputs: Any, mapping: Sequence[Any]) -> Any:
    """Put texts and the places of their tokens together.

    Args:
        inputs: A text, or a list of them.
        mapping: `[(start, end), …]` of one text, or a list of these.

    Raises:
        TypeError: texts come as a stream.
        ValueError: there are not as many texts as lists of places.
    """
    if isinstance(inputs, str):
        one = mapping[0] if len(mapping) == 1 and not _is_span(mapping[0]) else mapping
        return Placed(inputs, one)
    if not isinstance(inputs, (list, tuple)):
        raise TypeError(
            "offset_mapping goes with a text or a list of texts, not with a stream; give each text on its own."
        )
    each = [mapping] if len(inputs) == 1 and mapping and _is_span(mapping[0]) else mapping
    if len(each) != len(inputs):
        raise ValueError(f"offset_mapping is of {len(each)} texts, and there are {len(inputs)}; each needs its own.")
    return [Placed(text, spans) for text, spans in zip(inputs, each, strict=True)]


def _is_span(value: Any) -> bool:
    return len(value) == 2 and all(hasattr(end, "__index__") for end in value)


def checked_places(places: Sequence[Span], tokens: int, windows: int) -> Sequence[Span]:
    """Return the places given for a row of tokens. Raises ValueError where they are not as many, or there are several rows."""
    if windows > 1:
        raise ValueError("offset_mapping is of one row of tokens, and stride makes several; leave one of both out.")
    if len(places) != tokens:
        raise ValueError(
            f"offset_mapping has {len(places)} places, and the text {tokens} tokens with the special ones; they must be as many."
        )
    return places
