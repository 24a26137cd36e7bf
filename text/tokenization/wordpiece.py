"""WordPiece: words, then the longest pieces of the vocabulary from left to right."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vertebra.text.tokenization.added_tokens import WHITESPACE
from vertebra.text.tokenization.decoding import CLEANED
from vertebra.text.tokenization.unicode_tables import PUNCTUATION, char_class

PREFIX = "##"
"""How pieces begin that stand within a word."""
LONGEST_WORD = 100
"""Characters; longer words are unknown as a whole."""

_PUNCTUATION = char_class(PUNCTUATION)
_WORD = re.compile(f"[{_PUNCTUATION}]|[^{_PUNCTUATION}{re.escape(WHITESPACE)}]+")


def words(text: str) -> Iterator[tuple[int, int]]:
    """Yield first and last (excluded) index of the words of a text; each punctuation mark is one."""
    return (found.span() for found in _WORD.finditer(text))


def pieces(word: str, vocab: Mapping[str, int], unknown: str) -> list[tuple[str, int, int]]:
    """Split a word.

    Returns:
        Tokens with their first and last (excluded) index in the word; the unknown one alone where the vocabulary lacks any.
    """
    found: list[tuple[str, int, int]] = []
    start = 0
    while start < len(word) <= LONGEST_WORD:
        prefix = PREFIX if start else ""
        end = next((end for end in range(len(word), start, -1) if prefix + word[start:end] in vocab), None)
        if end is None:
            break
        found.append((prefix + word[start:end], start, end))
        start = end
    return found if start == len(word) else [(unknown, 0, len(word))]


def joined(tokens: list[str]) -> str:
    """Join tokens to a text; punctuation stands right behind the word before it."""
    parts = []
    for at, token in enumerate(tokens):
        part = token if at == 0 else token.removeprefix(PREFIX) if token.startswith(PREFIX) else f" {token}"
        for spaced, mark in CLEANED_TOKENS.items():
            part = part.replace(spaced, mark)
        parts.append(part)
    return "".join(parts)


CLEANED_TOKENS = {**CLEANED, " do not": " don't"}
"""What stands in place of what in each token."""


def read_vocab(path: str | os.PathLike[str]) -> dict[str, int]:
    """Read a `vocab.txt`: one token a line, its number that of the line, from 0.

    Raises:
        ValueError: it is not text in UTF-8, is empty, or has a token twice.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{os.fspath(path)!r} is not a vocabulary: it is no text in UTF-8 ({error}).") from error
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    vocab: dict[str, int] = {}
    for number, token in enumerate(lines):
        if token in vocab:
            raise ValueError(
                f"{os.fspath(path)!r} has {token!r} twice, in lines {vocab[token] + 1} and {number + 1}, so its number is not "
                f"known; make one of them another token, e.g. [unused{number}], so that the lines below keep their numbers."
            )
        vocab[token] = number
    if not vocab:
        raise ValueError(f"{os.fspath(path)!r} is empty; a vocabulary has one token a line.")
    return vocab


def vocab_text(vocab: Mapping[str, int]) -> str:
    """Return the content of a `vocab.txt`.

    Raises:
        ValueError: the numbers have gaps, which lines cannot have.
    """
    tokens = sorted(vocab, key=lambda token: vocab[token])
    if [vocab[token] for token in tokens] != list(range(len(tokens))):
        raise ValueError(
            "The vocabulary's numbers have gaps, so vocab.txt cannot hold it; save with the Fast class, as tokenizer.json."
        )
    return "".join(f"{token}\n" for token in tokens)


def settings_of(pipeline: Mapping[str, Any]) -> dict[str, Any]:
    """Return the vocabulary and settings that a `tokenizer.json` describes, for the tokenizers in plain Python.

    Raises:
        ValueError: it does something else than BERT's tokenizers.
    """
    model, normalizer = pipeline.get("model") or {}, pipeline.get("normalizer") or {}
    kinds = (model.get("type", "WordPiece"), normalizer.get("type"), (pipeline.get("pre_tokenizer") or {}).get("type"))
    usual = model.get("continuing_subword_prefix", PREFIX) == PREFIX and normalizer.get("clean_text", True)
    if kinds != ("WordPiece", "BertNormalizer", "BertPreTokenizer") or not usual or "vocab" not in model:
        raise ValueError(
            f"This tokenizer.json is made of {', '.join(map(str, kinds))}, and BERT's tokenizers in plain Python do WordPiece, "
            f"BertNormalizer, BertPreTokenizer alone; load it with use_fast=True."
        )
    return {
        "vocab": model["vocab"],
        "unk_token": model.get("unk_token", "[UNK]"),
        "do_lower_case": normalizer.get("lowercase", True),
        "strip_accents": normalizer.get("strip_accents"),
        "tokenize_chinese_chars": normalizer.get("handle_chinese_chars", True),
    }
