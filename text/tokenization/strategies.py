"""What a call asks for: how rows are padded and shortened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from operator import index
from typing import Any

from vertebra.errors import did_you_mean

PADDING: Mapping[Any, str | None] = {
    True: "longest",
    False: None,
    "longest": "longest",
    "max_length": "max_length",
    "do_not_pad": None,
}
TRUNCATION: Mapping[Any, str | None] = {
    True: "longest_first",
    False: None,
    None: None,
    "longest_first": "longest_first",
    "only_first": "only_first",
    "only_second": "only_second",
    "do_not_truncate": None,
}
SIDES = ("right", "left")
NO_LIMIT = int(1e30)
"""`model_max_length` where a tokenizer has none; files hold the number."""
UNLIMITED = 10**20
"""A `model_max_length` beyond this means that there is none."""


@dataclass(frozen=True)
class Plan:
    """How the rows of one call are made.

    Args:
        padding: `"longest"`, `"max_length"` or None.
        truncation: `"longest_first"`, `"only_first"`, `"only_second"` or None.
        max_length: Tokens of a row, special ones included; None where it does not matter.
        stride: Tokens that a row of overflowing ones shares with the one before.
        multiple: Rows are padded to a multiple of this.
        padding_side: `"right"` or `"left"`.
        truncation_side: Which side is shortened.
    """

    padding: str | None
    truncation: str | None
    max_length: int | None
    stride: int
    multiple: int | None
    padding_side: str
    truncation_side: str

    def padded_length(self, longest: int) -> int:
        """Length that rows are padded to when the longest one has `longest` tokens. Longer ones stay as they are."""
        length = (self.max_length or 0) if self.padding == "max_length" else longest
        return length if not self.multiple else -(-length // self.multiple) * self.multiple


def read_plan(
    tokenizer: Any,
    padding: Any = False,
    truncation: Any = None,
    max_length: int | None = None,
    stride: int = 0,
    pad_to_multiple_of: int | None = None,
    padding_side: str | None = None,
) -> Plan:
    """Check the arguments of a call, which are described at `TokenizerBase.__call__`.

    Raises:
        ValueError: a value that is not allowed, padding without a padding token or without a length, or a length that is no
            multiple of `pad_to_multiple_of`.
    """
    how = _choice("padding", padding, PADDING)
    cut = _choice("truncation", truncation, TRUNCATION)
    length = _number("max_length", max_length)
    multiple = _number("pad_to_multiple_of", pad_to_multiple_of, least=1)
    if length is not None and padding is False and truncation is None:
        cut = "longest_first"
    limit = tokenizer.model_max_length
    if length is None and (how == "max_length" or cut is not None) and limit <= UNLIMITED:
        length = limit
    if length is None and how == "max_length":
        raise ValueError(
            "padding='max_length' needs a length, and this tokenizer has no model_max_length: pass max_length=512, or padding=True "
            "for the longest row."
        )
    if how is not None and tokenizer.pad_token is None:
        raise ValueError(
            f"padding={padding!r} needs a padding token, and this tokenizer has none. Choose one it has "
            f"(tokenizer.pad_token = tokenizer.eos_token), or add one: tokenizer.add_special_tokens({{'pad_token': '[PAD]'}}), and "
            f"model.resize_token_embeddings(len(tokenizer))."
        )
    cut = cut if length is not None else None  # nothing limits the length
    if cut and how and multiple and length and length % multiple:
        raise ValueError(
            f"max_length={length} is not a multiple of pad_to_multiple_of={multiple}, so rows cannot be both; max_length="
            f"{length // multiple * multiple} is one."
        )
    side = tokenizer.padding_side if padding_side is None else padding_side
    return Plan(
        how,
        cut,
        length,
        _number("stride", stride) or 0,
        multiple,
        check_side("padding_side", side),
        tokenizer.truncation_side,
    )


def check_side(name: str, side: Any) -> str:
    """Return `side` where it is `"right"` or `"left"`. Raises ValueError."""
    if side not in SIDES:
        raise ValueError(f"{name}={side!r} must be 'right' or 'left'.")
    return str(side)


def check_limit(name: str, value: Any) -> int:
    """Return a `model_max_length` as a number, `NO_LIMIT` for None. Raises ValueError for what is no number of at least 1."""
    if value is None:
        return NO_LIMIT
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 1:
        raise ValueError(f"{name}={value!r} must be a number of at least 1, or None where there is no limit.")
    return NO_LIMIT if value == inf else int(value)


def _choice(name: str, value: Any, allowed: Mapping[Any, str | None]) -> str | None:
    value = getattr(value, "value", value)
    if not isinstance(value, (str, bool, type(None))) or value not in allowed:
        shown = ", ".join(map(repr, allowed))
        raise ValueError(f"{name}={value!r} must be one of {shown}.{did_you_mean(str(value), map(str, allowed))}")
    return allowed[value]


def _number(name: str, value: Any, least: int = 0) -> int | None:
    if value is None:
        return None
    try:
        number = None if isinstance(value, bool) else index(value)
    except TypeError:
        number = None
    if number is None or number < least:
        raise ValueError(f"{name}={value!r} must be a whole number of at least {least}.")
    return number
