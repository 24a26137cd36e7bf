"""One tokenized text as a row: ids, and where each of them comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class Piece(NamedTuple):
    """A token of a text, before special tokens are added.

    Args:
        token: Its text, as the vocabulary has it.
        id: Its number.
        start: Index of its first character in the text; None where the tokenizer cannot say.
        end: Index behind its last character.
        word: Number of the word it belongs to.
    """

    token: str
    id: int
    start: int | None = None
    end: int | None = None
    word: int | None = None


@dataclass
class Encoding:
    """A row of a batch. The names are those of `tokenizers.Encoding`, which the fast tokenizers use in its place.

    Args:
        ids: Numbers of the tokens.
        type_ids: Numbers of the segments, 0 or 1.
        tokens: The tokens as text.
        offsets: First character and the one behind the last, for each token; `(0, 0)` for special tokens and padding,
            None for the whole where the tokenizer cannot say.
        word_ids: Numbers of the words, None for special tokens and padding; None for the whole as above.
        sequence_ids: 0 for the first text, 1 for the second, None for special tokens and padding.
        special_tokens_mask: 1 for special tokens and padding.
        attention_mask: 0 for padding.
        overflowing: Rows of what did not fit into this one.
    """

    ids: list[int]
    type_ids: list[int]
    tokens: list[str]
    offsets: list[tuple[int, int]] | None
    word_ids: list[int | None] | None
    sequence_ids: list[int | None]
    special_tokens_mask: list[int]
    attention_mask: list[int]
    overflowing: list[Encoding] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_sequences(self) -> int:
        """How many texts the row is made of."""
        return max((number for number in self.sequence_ids if number is not None), default=0) + 1

    def pad(self, length: int, *, direction: str, pad_id: int, pad_type_id: int, pad_token: str) -> None:
        """Lengthen the row to `length` tokens, at its end (`direction="right"`) or its beginning (`"left"`)."""
        missing = max(0, length - len(self))
        at = len(self) if direction == "right" else 0
        padding: dict[str, object] = {
            "ids": pad_id,
            "type_ids": pad_type_id,
            "tokens": pad_token,
            "offsets": (0, 0),
            "word_ids": None,
            "sequence_ids": None,
            "special_tokens_mask": 1,
            "attention_mask": 0,
        }
        for name, value in padding.items():
            if getattr(self, name) is not None:
                getattr(self, name)[at:at] = [value] * missing
