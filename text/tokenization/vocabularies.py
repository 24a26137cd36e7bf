"""Vocabularies as dictionaries: tokens and their numbers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Vocabulary = str | os.PathLike[str] | Mapping[str, int]
"""A vocabulary, or the path of its file."""


def opened(owner: str, source: Any, read: Callable[[Any], dict[str, Any]], usage: str) -> dict[str, Any]:
    """Return the content of a vocabulary's file, or of the dictionary given in its place.

    Args:
        owner: Name of the tokenizer's class, for the error.
        source: A `Vocabulary`.
        read: Reads a file.
        usage: The names of the class's files, as its constructor takes them.

    Raises:
        OSError: there is no such file.
        ValueError: there is none.
        TypeError: it is something else.
    """
    how = f"{owner}({usage}), or {owner}.from_pretrained('folder or hub id')."
    if source is None:
        raise ValueError(f"{owner} needs a vocabulary: {how}")
    if isinstance(source, Mapping):
        return dict(source)
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"vocab_file={source!r} is neither a path nor a dictionary of tokens and their numbers: {how}")
    if Path(source).is_dir():
        raise IsADirectoryError(
            f"vocab_file={os.fspath(source)!r} is a folder: {owner}.from_pretrained({os.fspath(source)!r})."
        )
    if not Path(source).exists():
        raise FileNotFoundError(f"vocab_file={os.fspath(source)!r} does not exist: {how}")
    return read(source)


def vocabulary_of(owner: str, source: Any, read: Callable[[Any], dict[str, int]], usage: str) -> dict[str, int]:
    """Return a vocabulary; arguments and errors as in `opened` and `checked`."""
    return checked(opened(owner, source, read, usage), f"The vocabulary of {owner}")


def checked(vocab: Mapping[str, Any], what: str) -> dict[str, int]:
    """Return a vocabulary, called `what` in errors. Raises ValueError where a number is none, or two tokens have one."""
    seen: dict[int, str] = {}
    for token, number in vocab.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise ValueError(f"{what} gives {token!r} the number {number!r}; it must be a whole number from 0.")
        if number in seen:
            raise ValueError(f"{what} gives {seen[number]!r} and {token!r} the same number {number}.")
        seen[number] = token
    return dict(vocab)
