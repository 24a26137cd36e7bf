"""Shortening texts to a number of tokens, and the windows over what does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def kept_lengths(first: int, second: int | None, room: int, strategy: str) -> tuple[int, int | None]:
    """How many tokens of two texts are kept.

    Args:
        first: Tokens of the first text.
        second: Tokens of the second; None without one.
        room: Tokens that both may have together.
        strategy: `"longest_first"` shortens the longer one until both are equal, and then both; `"only_first"` and
            `"only_second"` shorten one of them.

    Raises:
        ValueError: the text to be shortened is too short for that.
    """
    excess = first + (second or 0) - room
    if excess <= 0:
        return first, second
    if strategy == "longest_first":
        if second is None:
            return room, None
        short_kept = min(first, second, room // 2)
        long_kept = room - short_kept
        return (short_kept, long_kept) if first <= second else (long_kept, short_kept)
    if strategy == "only_second" and second is None:
        raise ValueError("truncation='only_second' shortens the second text, and there is none; use truncation=True.")
    which, length, other = (
        ("first", first, "only_second") if strategy == "only_first" else ("second", second or 0, "only_first")
    )
    if length <= excess:
        raise ValueError(
            f"truncation={strategy!r} has to take {excess} tokens off the {which} text, which has {length}. Raise max_length, or "
            f"use truncation='longest_first'{f' or {other!r}' if second is not None else ''}."
        )
    return (first - excess, second) if strategy == "only_first" else (first, length - excess)


def windows(items: Sequence[T], length: int, stride: int, side: str) -> list[Sequence[T]]:
    """Cut a sequence into parts of at most `length` that overlap by `stride`; the first is the one that is kept.

    Args:
        items: What is cut.
        length: Items of a part; with 0 the first part is empty and the second is all.
        stride: Items that a part shares with the one before, less than `length`.
        side: Where the sequence is shortened: `"right"` keeps its beginning, `"left"` its end.

    Raises:
        ValueError: `stride` is not less than `length`.
    """
    total = len(items)
    if total <= length:
        return [items]
    if length == 0:
        return [items[:0], items]
    if stride >= length:
        raise ValueError(
            f"stride={stride} must be less than the {length} tokens that max_length leaves of the text that is shortened; lower "
            f"stride or raise max_length."
        )
    step = length - stride
    count = -(-(total - length) // step) + 1
    if side == "right":
        return [items[at * step : at * step + length] for at in range(count)]
    return [items[max(0, total - at * step - length) : total - at * step] for at in range(count)]


def check_truncation(first: int, second: int | None, room: int, strategy: str, stride: int) -> None:
    """Raise the ValueError that `kept_lengths` or `windows` would raise for texts of these lengths."""
    for length, kept in zip((first, second), kept_lengths(first, second, room, strategy), strict=True):
        windows(range(length or 0), kept or 0, stride, "right")
