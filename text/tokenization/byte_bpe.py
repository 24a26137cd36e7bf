"""Byte-level BPE: words as bytes, and the bytes joined in the order that the merges say."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

from vertebra.hub import read_json
from vertebra.text.tokenization.added_tokens import WHITESPACE
from vertebra.text.tokenization.unicode_tables import LETTERS, NUMBERS, char_class
from vertebra.text.tokenization.vocabularies import checked

VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
"""Bytes that stand for themselves in a vocabulary; the others are the characters from U+0100 on, in their order."""
CHARACTERS = {byte: chr(byte) for byte in VISIBLE} | {
    byte: chr(0x100 + number) for number, byte in enumerate(sorted({*range(256)} - {*VISIBLE}))
}
BYTES = {char: byte for byte, char in CHARACTERS.items()}

GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?[a-zA-Z]+| ?[0-9]+| ?[^\sa-zA-Z0-9]+|\s+(?!\S)|\s+"
"""GPT-2's words, in the shape of a text: letters, digits and what is neither, with the space before them."""
CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[a-zA-Z]+|[0-9]|[^\sa-zA-Z0-9]+"
"""CLIP's words, likewise: without spaces, and each digit by itself."""


class _Shapes(dict[str, str]):
    """Each character as an ASCII one of its kind, which no pattern has as a letter of its own; ASCII itself stays."""

    KINDS = {"\t": WHITESPACE, "b": char_class(LETTERS), "0": char_class(NUMBERS)}

    def __missing__(self, char: str) -> str:
        kinds = (shape for shape, inside in self.KINDS.items() if re.match(f"[{inside}]", char))
        self[char] = shape = char if char.isascii() else next(kinds, "!")
        return shape


_SHAPES = _Shapes()


def split_words(text: str, pattern: str) -> Iterator[tuple[int, int]]:
    """Yield first and last (excluded) index of the words of a text, of which `pattern` knows the shape alone."""
    shape = "".join(_SHAPES[char] for char in text)
    return (found.span() for found in re.finditer(pattern, shape, re.ASCII))


class Merges:
    """The merges of a BPE, applied to words.

    Args:
        merges: Pairs of tokens, those to be joined first in front.
        suffix: What the last character of a word carries, e.g. `</w>`.
    """

    def __init__(self, merges: Sequence[tuple[str, str]], suffix: str = "") -> None:
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._suffix = suffix
        self._known: dict[str, list[str]] = {}

    def __call__(self, word: str) -> list[str]:
        """Return the tokens of a word that is written in `CHARACTERS`."""
        if len(word) > CACHED_LENGTH:
            return self._join(word)
        if word not in self._known:
            if len(self._known) >= CACHED_WORDS:
                self._known.clear()
            self._known[word] = self._join(word)
        return self._known[word]

    def _join(self, word: str) -> list[str]:
        tokens = [*word[:-1], word[-1] + self._suffix]
        before, behind = [*range(-1, len(tokens) - 1)], [*range(1, len(tokens)), -1]
        waiting: list[tuple[int, int, str]] = []

        def consider(at: int) -> None:
            if at >= 0 and behind[at] >= 0:
                pair = tokens[at], tokens[behind[at]]
                if pair in self._ranks:
                    heappush(waiting, (self._ranks[pair], at, pair[0] + pair[1]))

        for at in range(len(tokens)):
            consider(at)
        while waiting:
            _, at, joined = heappop(waiting)
            other = behind[at]
            if not tokens[at] or other < 0 or tokens[at] + tokens[other] != joined:
                continue  # one of both was joined otherwise meanwhile
            tokens[at], tokens[other] = joined, ""
            behind[at] = behind[other]
            if behind[at] >= 0:
                before[behind[at]] = at
            consider(before[at])
            consider(at)
        return [token for token in tokens if token]


CACHED_WORDS, CACHED_LENGTH = 10_000, 100


def to_text(tokens: Sequence[str], errors: str = "replace") -> str:
    """Join tokens to the text of their bytes; what is no byte of a vocabulary (an added token) stands as it is.

    Args:
        tokens: The tokens.
        errors: What becomes of bytes that are no text, as in `bytes.decode`.
    """
    parts = [
        bytes(BYTES[char] for char in token) if all(char in BYTES for char in token) else token.encode()
        for token in tokens
    ]
    return b"".join(parts).decode("utf-8", errors)


def read_vocab(path: str | os.PathLike[str]) -> dict[str, int]:
    """Read a `vocab.json`: an object of tokens and their numbers.

    Raises:
        ValueError: it is something else, or two tokens have one number.
    """
    return checked(read_json(path), repr(os.fspath(path)))


def read_merges(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """Read a `merges.txt`: two tokens a line, those to be joined first in front; a first line `#version: …` is none.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is no pair.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"merges_file={os.fspath(path)!r} does not exist; it stands beside the vocab.json of a checkpoint."
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{os.fspath(path)!r} holds no merges: it is no text in UTF-8 ({error}).") from error
    merges: list[tuple[str, str]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or (number == 1 and line.startswith("#version")):
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not all(pair):
            raise ValueError(
                f"{os.fspath(path)!r}, line {number}: {line!r} is not two tokens with a space between them."
            )
        merges.append((pair[0], pair[1]))
    return merges


def files_of(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return the content of `vocab.json` and `merges.txt`."""
    ordered = dict(sorted(vocab.items(), key=lambda item: item[1]))
    lines = "".join(f"{first} {second}\n" for first, second in merges)
    return {
        "vocab.json": json.dumps(ordered, indent=2, ensure_ascii=False) + "\n",
        "merges.txt": f"#version: 0.2\n{lines}",
    }


def model_of(pipeline: Mapping[str, Any], suffix: str) -> dict[str, Any]:
    """Return vocabulary and merges of a `tokenizer.json`, for the tokenizers in plain Python.

    Args:
        pipeline: Its content.
        suffix: What the last character of a word must carry there.

    Raises:
        ValueError: it is no BPE of this kind.
    """
    model = pipeline.get("model") or {}
    kind, end = model.get("type", "BPE"), model.get("end_of_word_suffix") or ""
    plain = not any(
        model.get(name) for name in ("dropout", "byte_fallback", "continuing_subword_prefix", "ignore_merges")
    )
    if kind != "BPE" or end != suffix or not plain or "merges" not in model:
        raise ValueError(
            f"This tokenizer.json is a {kind} with the word end {end!r}, and this tokenizer in plain Python does byte-level BPE "
            f"with {suffix!r}; load it with use_fast=True."
        )
    merges = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]
    return {"vocab": model["vocab"], "merges": merges}
