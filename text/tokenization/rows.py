"""Rows of ids: special tokens around them, and padding of what was tokenized before."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

from vertebra.text.tokenization.batch_encoding import BatchEncoding
from vertebra.text.tokenization.padding import pad_rows
from vertebra.text.tokenization.special_tokens import SpecialTokens
from vertebra.text.tokenization.strategies import read_plan
from vertebra.text.tokenization.tensors import to_lists


class Place(int):
    """An id that is told apart from a special token of the same number."""


class Rows(SpecialTokens):
    """The part of a tokenizer that works on ids."""

    model_input_names: Sequence[str]
    model_max_length: int
    pad_token_type_id: int

    @abstractmethod
    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return how many special tokens a row has; with `pair`, one of two texts."""

    @abstractmethod
    def _layout(self, first: list[int], second: list[int] | None) -> Iterable[tuple[int, int]]:
        """Ids of a row with their segments."""

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Put the special tokens around the ids of a text, or of two."""
        return [index for index, _ in self._layout(token_ids_0, token_ids_1)]

    def create_token_type_ids_from_sequences(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Return the segment numbers of the row that `build_inputs_with_special_tokens` makes."""
        return [number for _, number in self._layout(token_ids_0, token_ids_1)]

    def get_special_tokens_mask(
        self,
        token_ids_0: list[int],
        token_ids_1: list[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """Return 1 for the special tokens of the row that `build_inputs_with_special_tokens` makes, 0 for the others.

        With `already_has_special_tokens` the ids are such a row already.
        """
        if already_has_special_tokens:
            special = set(self.all_special_ids)
            return [int(index in special) for index in to_lists(token_ids_0)]
        first: list[int] = [Place(index) for index in token_ids_0]
        second: list[int] | None = None if token_ids_1 is None else [Place(index) for index in token_ids_1]
        row = self.build_inputs_with_special_tokens(first, second)
        return [int(not isinstance(index, Place)) for index in row]

    @property
    def max_len_single_sentence(self) -> int:
        """Tokens of a text that fit beside the special ones into `model_max_length`."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=False)

    @property
    def max_len_sentences_pair(self) -> int:
        """Tokens of two texts that fit beside the special ones into `model_max_length`."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=True)

    def pad(
        self,
        encoded_inputs: Any,
        padding: Any = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: Any = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Pad rows that were tokenized before, as data loaders do.

        Args:
            encoded_inputs: A row, a dict of rows, or a list of rows (what the call returns); lists, arrays or tensors.
            padding: As in the call, True here unless told otherwise.
            max_length: As in the call.
            pad_to_multiple_of: As in the call.
            padding_side: As in the call.
            return_attention_mask: Whether there is a mask; None where the model takes one.
            return_tensors: `"pt"` or `"np"`; None gives back what the rows were in.
            verbose: Changes nothing; transformers has it.

        Raises:
            ValueError: as in the call, or rows that do not fit each other.
            TypeError: something that is no row.
        """
        plan = read_plan(self, padding, False, max_length, 0, pad_to_multiple_of, padding_side)
        return pad_rows(self, encoded_inputs, plan, return_attention_mask, return_tensors, self._fillers())

    def _fillers(self) -> dict[str, Any]:
        """What padding is in each entry of a batch."""
        return {
            self.model_input_names[0]: self.pad_token_id,
            "attention_mask": 0,
            "token_type_ids": self.pad_token_type_id,
            "special_tokens_mask": 1,
        }
