"""Tokens that are matched as they stand, before a text is split: what they are, and finding them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(init=False, repr=True)
class AddedToken:
    """A token beside the vocabulary, or one of it that is never split.

    Args:
        content: Its text.
        single_word: Match it only where no letter, digit or underscore stands next to it.
        lstrip: Take the whitespace before it as well.
        rstrip: Take the whitespace after it as well.
        normalized: Match it in the normalized text (lower case, …) instead of the text as given; when None, unless it
            is special.
        special: Left out by `skip_special_tokens`.
    """

    content: str
    single_word: bool
    lstrip: bool
    rstrip: bool
    normalized: bool
    special: bool

    def __init__(
        self,
        content: str,
        single_word: bool = False,
        lstrip: bool = False,
        rstrip: bool = False,
        normalized: bool | None = None,
        special: bool = False,
    ) -> None:
        self.content = content
        self.single_word = single_word
        self.lstrip = lstrip
        self.rstrip = rstrip
        self.normalized = not special if normalized is None else normalized
        self.special = special

    def __str__(self) -> str:
        return self.content

    def __hash__(self) -> int:
        return hash(self.content)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, as files hold them."""
        return asdict(self)


FIELDS = tuple(field.name for field in fields(AddedToken))


def read_token(value: Any, *, special: bool, name: str) -> AddedToken:
    """Make an `AddedToken` of a string, of its dictionary, or of the class of that name of `tokenizers`.

    Args:
        value: The token.
        special: What a token is that does not say it.
        name: Whose value it is, for the error.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(value, AddedToken):
        return value
    if isinstance(value, str):
        return AddedToken(value, special=special)
    if isinstance(value, Mapping) and isinstance(value.get("content"), str):
        return AddedToken(**{"special": special, **{key: value[key] for key in FIELDS if key in value}})
    if all(hasattr(value, key) for key in FIELDS):
        return AddedToken(**{key: getattr(value, key) for key in FIELDS})
    raise TypeError(f"{name}={value!r} is no token: it is a string or an AddedToken.")


class TokenFinder:
    """Finds tokens in a text: the first of them from the left, and the longest where several begin.

    Args:
        tokens: Text to look for, and the token it stands for.
    """

    def __init__(self, tokens: Mapping[str, AddedToken]) -> None:
        self._tokens = {text: token for text, token in tokens.items() if text}
        longest_first = sorted(self._tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def split(self, text: str) -> Iterator[tuple[int, int, AddedToken | None]]:
        """Yield `(start, end, token)` of all parts of a text, in order; the token is None for what lies between."""
        done = 0
        for found in self._pattern.finditer(text) if self._pattern else ():
            token = self._tokens[found.group()]
            start, end = found.span()
            if start < done or (token.single_word and _touches_word(text, start, end)):
                continue
            while token.lstrip and start > done and text[start - 1] in WHITESPACE:
                start -= 1
            while token.rstrip and end < len(text) and text[end] in WHITESPACE:
                end += 1
            if done < start:
                yield done, start, None
            yield start, end, token
            done = end
        if done < len(text):
            yield done, len(text), None


WHITESPACE = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
"""Unicode's White_Space. Python's `str.isspace` takes U+001C to U+001F as well."""


def _touches_word(text: str, start: int, end: int) -> bool:
    return any(re.match(r"\w", text[at]) for at in (start - 1, end) if 0 <= at < len(text))
