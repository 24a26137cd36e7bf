"""What a tokenizer returns: a dict of rows that also says where each token comes from."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from vertebra.errors import did_you_mean, listing

if TYPE_CHECKING:
    import torch
    from typing_extensions import Self


class CharSpan(NamedTuple):
    """Characters of a text, from `start` to before `end`."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Tokens of a row, from `start` to before `end`."""

    start: int
    end: int


class BatchEncoding(dict[str, Any]):
    """A dict whose entries are also attributes: `batch["input_ids"]` is `batch.input_ids`.

    An int gives the encoding of that row, a slice the entries cut along the batch. The methods take the row first, which may be
    left out for the first one: `batch.char_to_token(7)` is `batch.char_to_token(0, 7)`.

    Args:
        data: The entries: `input_ids`, `attention_mask`, ….
        encoding: The row's encoding, or those of all rows; None where it is not known what the tokens come from.
        tensor_type: `"pt"` makes a `torch.Tensor` of each entry, `"np"` a `numpy.ndarray`, None keeps lists.
        prepend_batch_axis: The entries are of a single row; tensors get a batch axis of length 1.
        n_sequences: Texts a row is made of, 1 or 2; None takes it from the encoding.

    Raises:
        ValueError: rows of different lengths cannot become one tensor, or `tensor_type` is something else.
    """

    def __init__(
        self,
        data: Mapping[str, Any] | None = None,
        encoding: Any = None,
        tensor_type: Any = None,
        prepend_batch_axis: bool = False,
        n_sequences: int | None = None,
    ) -> None:
        super().__init__(data or {})
        rows = encoding if encoding is None or isinstance(encoding, Sequence) else [encoding]
        self._encodings: Sequence[Any] | None = rows
        self._n_sequences = rows[0].n_sequences if n_sequences is None and rows else n_sequences
        self.convert_to_tensors(tensor_type, prepend_batch_axis)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            if key not in self:
                raise KeyError(f"{key!r} is not in this batch, which has {self._names()}.{did_you_mean(key, self)}")
            return super().__getitem__(key)
        if isinstance(key, slice):
            return {name: value[key] for name, value in self.items()}
        return self._row(key)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and name in self:
            return super().__getitem__(name)
        raise AttributeError(f"This batch has no {name!r}; it has {self._names()}.{did_you_mean(name, self)}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), dict(self), self._encodings, self._n_sequences)

    def copy(self) -> Self:
        """Return a batch with the same entries."""
        return copy.copy(self)

    @property
    def data(self) -> dict[str, Any]:
        """The entries as a plain dict."""
        return dict(self)

    @property
    def encodings(self) -> Sequence[Any] | None:
        """The encodings of the rows (`tokenizers.Encoding`, or the slow tokenizers' `Encoding` with the same names)."""
        return self._encodings

    @property
    def is_fast(self) -> bool:
        """Whether a fast tokenizer made it."""
        return bool(self._encodings) and type(self._row(0)).__module__.partition(".")[0] == "tokenizers"

    @property
    def n_sequences(self) -> int | None:
        """Texts a row is made of: 1, 2 for pairs, None where it is not known."""
        return self._n_sequences

    def tokens(self, batch_index: int = 0) -> list[str]:
        """Return the tokens of a row as text."""
        return list(self._row(batch_index).tokens)

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """Return for each token 0 or 1, the text it comes from; None for special tokens and padding."""
        return list(self._row(batch_index).sequence_ids)

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """Return for each token the number of the word it comes from; None for special tokens and padding."""
        return self._known(batch_index, "word_ids")

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """Return 0 or 1, the text that a token comes from; None for special tokens."""
        row, token = _row_and_place(batch_or_token_index, token_index)
        found: int | None = self._at(self.sequence_ids(row), token, "token")
        return found

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """Return the number of the word that a token comes from; None for special tokens."""
        row, token = _row_and_place(batch_or_token_index, token_index)
        found: int | None = self._at(self.word_ids(row), token, "token")
        return found

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan | None:
        """Return the characters of its text that a token comes from; None for special tokens."""
        row, token = _row_and_place(batch_or_token_index, token_index)
        if self._at(self.sequence_ids(row), token, "token") is None:
            return None
        return CharSpan(*self._known(row, "offsets")[token])

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """Return the token that holds a character of the text `sequence_index`; None where none does (whitespace)."""
        row, char = _row_and_place(batch_or_char_index, char_index)
        spans = zip(self._known(row, "offsets"), self.sequence_ids(row), strict=True)
        held = (at for at, ((a, b), number) in enumerate(spans) if number == sequence_index and a <= char < b)
        return next(held, None)

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """Return the number of the word that holds a character; None where none does."""
        row, char = _row_and_place(batch_or_char_index, char_index)
        token = self.char_to_token(row, char, sequence_index)
        return None if token is None else self.token_to_word(row, token)

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        """Return the tokens of a word of the text `sequence_index`; None where it has none."""
        row, word = _row_and_place(batch_or_word_index, word_index)
        numbers = zip(self.word_ids(row), self.sequence_ids(row), strict=True)
        held = [at for at, pair in enumerate(numbers) if pair == (word, sequence_index)]
        return TokenSpan(held[0], held[-1] + 1) if held else None

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> CharSpan | None:
        """Return the characters of a word of the text `sequence_index`; None where it has no tokens."""
        row, word = _row_and_place(batch_or_word_index, word_index)
        span = self.word_to_tokens(row, word, sequence_index)
        if span is None:
            return None
        offsets = self._known(row, "offsets")
        return CharSpan(offsets[span.start][0], offsets[span.end - 1][1])

    def convert_to_tensors(self, tensor_type: Any = None, prepend_batch_axis: bool = False) -> Self:
        """Convert the entries in place as the constructor does, and return the batch."""
        from vertebra.text.tokenization.tensors import to_tensor

        for name in self if tensor_type is not None else ():
            value = super().__getitem__(name)
            self[name] = to_tensor([value] if prepend_batch_axis else value, tensor_type, name)
        return self

    def to(self, device: str | int | torch.device, *, non_blocking: bool = False) -> Self:
        """Move all tensors to a device, in place, and return the batch."""
        for name, value in self.items():
            if hasattr(value, "to") and hasattr(value, "device"):
                self[name] = value.to(device=device, non_blocking=non_blocking)
        return self

    def _row(self, index: int) -> Any:
        if self._encodings is None:
            raise ValueError(
                f"This batch has no encodings: it is not of a tokenizer's call, but of pad() or of a dict. It has {self._names()}."
            )
        if not -len(self._encodings) <= index < len(self._encodings):
            raise IndexError(f"Row {index} does not exist; this batch has {len(self._encodings)}.")
        return self._encodings[index]

    def _known(self, row: int, what: str) -> list[Any]:
        values = getattr(self._row(row), what)
        if values is None:
            raise ValueError(
                f"This batch has no {what}: its tokenizer defines _tokenize, which says nothing of places in the text."
            )
        return list(values)

    def _at(self, values: list[Any], index: int, what: str) -> Any:
        if not -len(values) <= index < len(values):
            raise IndexError(f"{what} {index} does not exist; the row has {len(values)}.")
        return values[index]

    def _names(self) -> str:
        return listing(map(repr, self)) or "nothing"


def _row_and_place(first: int, second: int | None) -> tuple[int, int]:
    return (0, first) if second is None else (first, second)


def _rebuild(kind: type[BatchEncoding], data: dict[str, Any], encodings: Any, n_sequences: int | None) -> BatchEncoding:
    return kind(data, encodings, n_sequences=n_sequences)
