"""Normalized texts that know where each of their characters comes from."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from vertebra.text.tokenization.added_tokens import WHITESPACE
from vertebra.text.tokenization.unicode_tables import (
    ACCENTS,
    CAPITALS,
    CJK,
    JOINING,
    REMOVED,
    char_class,
    small_letters,
)

_REMOVED, _ACCENT, _IDEOGRAPH = (re.compile(f"[{char_class(table)}]") for table in (REMOVED, ACCENTS, CJK))
_JOINING = frozenset(re.findall(f"[{char_class(JOINING)}]", "".join(map(chr, range(0x9BE, 0x11931)))))
_SMALL = small_letters(CAPITALS)
_NOT_DECOMPOSED = "\U00011938"
"""Composed characters that the `tokenizers` library does not know as such."""


@dataclass(frozen=True)
class Aligned:
    """A text, and for each of its characters the index of the one it was made of.

    Args:
        text: The text.
        origins: As many indices, ascending.
    """

    text: str
    origins: Sequence[int]

    @classmethod
    def plain(cls, text: str, at: int = 0) -> Aligned:
        """Return a text as it is, which begins at `at`."""
        return cls(text, range(at, at + len(text)))

    def part(self, start: int, end: int) -> Aligned:
        """Return the characters from `start` to before `end`."""
        return Aligned(self.text[start:end], self.origins[start:end])

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return where the characters from `start` to before `end` come from, likewise."""
        return self.origins[start], self.origins[end - 1] + 1


class CharacterMap(dict[str, str]):
    """What BERT's normalization makes of each character; entries are computed when they are first asked for.

    Args:
        lowercase: Make letters small.
        strip_accents: Take accents off; None where letters are made small.
        split_ideographs: Put spaces around CJK ideographs.
    """

    def __init__(self, lowercase: bool, strip_accents: bool | None, split_ideographs: bool) -> None:
        super().__init__()
        self._lowercase = lowercase
        self._strip = lowercase if strip_accents is None else strip_accents
        self._split = split_ideographs

    def __missing__(self, char: str) -> str:
        self[char] = normal = self._normal(char)
        return normal

    def _normal(self, char: str) -> str:
        if _REMOVED.match(char):
            return ""
        if char in WHITESPACE:
            return " "
        text = f" {char} " if self._split and _IDEOGRAPH.match(char) else char
        if self._strip:
            parts = text if char in _NOT_DECOMPOSED else unicodedata.normalize("NFD", text)
            text = "".join(part for part in parts if not _ACCENT.match(part))
        return lower(text) if self._lowercase else text

    def apply(self, text: Aligned) -> Aligned:
        """Normalize a text."""
        normal = [self[char] for char in text.text]
        origins = [at for at, chars in zip(text.origins, normal, strict=True) for _ in chars]
        return Aligned("".join(normal), origins)


def lower(char: str) -> str:
    """Make a letter small, whatever stands beside it (a sigma at a word's end stays σ)."""
    return "".join(_SMALL.get(one) or one.lower() for one in char)


def lowered(text: Aligned) -> Aligned:
    """Make the letters of a text small."""
    small = [lower(char) for char in text.text]
    return Aligned("".join(small), [at for at, chars in zip(text.origins, small, strict=True) for _ in chars])


def composed(text: Aligned) -> Aligned:
    """Compose letters and accents (NFC). A composed character comes from the first one it is made of."""
    if unicodedata.is_normalized("NFC", text.text):
        return text
    bounds = [at for at, char in enumerate(text.text) if at == 0 or not _joins(char)]
    chars: list[str] = []
    origins: list[int] = []
    for start, end in zip(bounds, [*bounds[1:], len(text.text)], strict=True):
        part = text.text[start:end]
        new = unicodedata.normalize("NFC", part)
        old = [
            at
            for at, char in zip(text.origins[start:end], part, strict=True)
            for _ in unicodedata.normalize("NFD", char)
        ]
        chars.append(new)
        origins += [old[0], *old[len(old) - len(new) + 1 :]] if new else []
    return Aligned("".join(chars), origins)


def _joins(char: str) -> bool:
    """Whether a character may become one with those before it."""
    return unicodedata.combining(char) != 0 or char in _JOINING
