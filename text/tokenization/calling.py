"""The call of a tokenizer: from texts to a batch."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from vertebra.text.tokenization.batch_encoding import BatchEncoding
from vertebra.text.tokenization.inputs import Item, read_texts
from vertebra.text.tokenization.special_tokens import SpecialTokens
from vertebra.text.tokenization.strategies import Plan, read_plan
from vertebra.text.tokenization.tensors import read_tensor_type

logger = logging.getLogger("vertebra")


class Calling(SpecialTokens):
    """The part of a tokenizer that turns texts into batches; how a text becomes tokens is `_encode_items`."""

    model_input_names: Sequence[str]
    model_max_length: int
    pad_token_type_id: int
    split_special_tokens: bool

    def __call__(
        self,
        text: Any = None,
        text_pair: Any = None,
        text_target: Any = None,
        text_pair_target: Any = None,
        add_special_tokens: bool = True,
        padding: Any = False,
        truncation: Any = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: Any = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        split_special_tokens: bool | None = None,
    ) -> BatchEncoding:
        """Tokenize a text or a batch of texts.

        Args:
            text: A str, or a list of them; with `is_split_into_words` a list of words, or a list of these. Without
                `text_pair` an entry of a batch may be a pair `(text, text)`.
            text_pair: The second text of each row, of the same form. An empty one is one, too.
            text_target: Texts whose ids become `labels`; without `text` they are what is returned.
            text_pair_target: Second texts of these.
            add_special_tokens: Whether rows get their `[CLS]`, `[SEP]` and the like.
            padding: True or `"longest"` pads to the longest row; `"max_length"` to `max_length`, or else to the model's
                `model_max_length`.
            truncation: True or `"longest_first"` takes tokens off the longer of both texts, `"only_first"` and
                `"only_second"` off one of them, until the row has `max_length` tokens, or else `model_max_length`;
                without either nothing is taken off. None is False, but True with a `max_length` and no padding.
            max_length: Tokens of a row at most, special ones included.
            stride: Tokens that a row of overflowing tokens shares with the one before.
            is_split_into_words: A text is a list of words; offsets then count within each word.
            pad_to_multiple_of: Pad to a multiple of this.
            padding_side: `"right"` or `"left"` instead of the tokenizer's own.
            return_tensors: `"pt"`, `"np"`, or None for lists. Tensors always have a batch axis.
            return_token_type_ids: Whether there are segment numbers; None where the model takes them.
            return_attention_mask: The same for the mask that is 0 for padding.
            return_overflowing_tokens: What truncation takes off becomes rows of its own, and
                `overflow_to_sample_mapping` says which text a row is of.
            return_special_tokens_mask: Whether there is a mask that is 1 for special tokens and padding.
            return_offsets_mapping: Whether there are the characters `(first, behind the last)` of each token.
            return_length: Whether there is the number of tokens of each row.
            verbose: Tell once that a row is longer than the model takes.
            split_special_tokens: Split special tokens in a text like any other text; None is the tokenizer's own setting.

        Raises:
            TypeError: something that should be a text is none; says which.
            ValueError: an argument's value is not allowed, `max_length` is less than the special tokens, texts and pairs
                are not as many, or rows of different lengths shall become a tensor.
        """
        if text is None and text_target is None:
            raise TypeError("text is None; give a str, or a list of them for a batch.")
        special = self.split_special_tokens if split_special_tokens is None else split_special_tokens
        plan = read_plan(self, padding, truncation, max_length, stride, pad_to_multiple_of, padding_side)
        entries = {
            "token_type_ids": self._takes("token_type_ids", return_token_type_ids),
            "attention_mask": self._takes("attention_mask", return_attention_mask),
            "special_tokens_mask": return_special_tokens_mask,
            "offset_mapping": return_offsets_mapping,
            "length": return_length,
        }
        wanted = ["input_ids", *(name for name, is_wanted in entries.items() if is_wanted)]

        def batch_of(first: Any, second: Any) -> BatchEncoding:
            items, batched = read_texts(first, second, is_split_into_words)
            if plan.truncation:
                self._check_room(items, plan, add_special_tokens)
            rows = self._encode_items(items, plan, add_special_tokens, is_split_into_words, special)
            return self._join(
                rows, plan, wanted, return_overflowing_tokens, read_tensor_type(return_tensors), batched, verbose
            )

        if text is None:
            return batch_of(text_target, text_pair_target)
        batch = batch_of(text, text_pair)
        if text_target is not None:
            batch["labels"] = batch_of(text_target, text_pair_target)["input_ids"]
        return batch

    def encode(self, text: Any, text_pair: Any = None, **options: Any) -> Any:
        """Return the `input_ids` of a text alone; the options are those of the call."""
        return self(text, text_pair, **options)["input_ids"]

    def encode_plus(self, text: Any, text_pair: Any = None, **options: Any) -> BatchEncoding:
        """Tokenize one text; the same as the call."""
        return self(text, text_pair, **options)

    def batch_encode_plus(self, batch_text_or_text_pairs: Any, **options: Any) -> BatchEncoding:
        """Tokenize a batch of texts, or of pairs `(text, text)`; the same as the call."""
        return self(batch_text_or_text_pairs, **options)

    def tokenize(self, text: Any, pair: Any = None, add_special_tokens: bool = False, **options: Any) -> list[str]:
        """Return the tokens of a text, and of its pair, as text."""
        return self(text, pair, add_special_tokens=add_special_tokens, verbose=False, **options).tokens()

    @abstractmethod
    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return how many special tokens a row has; with `pair`, one of two texts."""

    @abstractmethod
    def _encode_items(
        self, items: Sequence[Item], plan: Plan, add_special: bool, is_split: bool, split_special: bool
    ) -> list[Any]:
        """Tokenize and shorten texts. The encodings are not padded, and hold what did not fit in `overflowing`."""

    def _takes(self, name: str, chosen: bool | None) -> bool:
        return name in self.model_input_names if chosen is None else chosen

    def _check_room(self, items: Sequence[Item], plan: Plan, add_special: bool) -> None:
        length = plan.max_length or 0
        for pair in {second is not None for _, second in items} if add_special else ():
            number = self.num_special_tokens_to_add(pair)
            if length < number:
                raise ValueError(
                    f"max_length={length} has no room for the {number} special tokens of a {'pair' if pair else 'text'}; give at "
                    f"least {number + 1}, or add_special_tokens=False."
                )
        room = length - self.num_special_tokens_to_add()
        if plan.stride and plan.stride >= room:
            raise ValueError(
                f"stride={plan.stride} must be less than the {max(0, room)} tokens that max_length={length} leaves beside "
                f"the special ones."
            )

    def _join(
        self,
        encodings: Sequence[Any],
        plan: Plan,
        wanted: Sequence[str],
        overflow: bool,
        tensor_type: str | None,
        batched: bool,
        verbose: bool,
    ) -> BatchEncoding:
        """Pad encodings and make them a batch."""
        rows = list(encodings)
        if overflow:
            rows = [row for first in encodings for row in (first, *first.overflowing)]
        self._tell_length(rows, plan, verbose)
        if plan.padding is not None and rows:
            length = plan.padded_length(max(map(len, rows)))
            filler = {"pad_id": self.pad_token_id, "pad_type_id": self.pad_token_type_id, "pad_token": self.pad_token}
            for row in rows:
                row.pad(length, direction=plan.padding_side, **filler)
        data: dict[str, Any] = {name: [READ[name](row) for row in rows] for name in wanted}
        if overflow:
            counts = [1 + len(first.overflowing) for first in encodings]
            data["overflow_to_sample_mapping"] = [at for at, count in enumerate(counts) for _ in range(count)]
        if not batched and not overflow and tensor_type is None:
            data = {name: rows[0] if isinstance(rows[0], list) else rows for name, rows in data.items()}
        return BatchEncoding(data, rows, tensor_type=tensor_type)

    def _tell_length(self, rows: Sequence[Any], plan: Plan, verbose: bool) -> None:
        longest = max(map(len, rows), default=0)
        if verbose and plan.max_length is None and longest > self.model_max_length and not self._told_length:
            self._told_length = True
            logger.warning(
                "A row has %d tokens, and this tokenizer's model takes %d (model_max_length). Pass truncation=True to shorten it.",
                longest,
                self.model_max_length,
            )

    _told_length = False


def _offsets(row: Any) -> list[tuple[int, int]]:
    if row.offsets is None:
        raise ValueError(
            "return_offsets_mapping=True needs a tokenizer that knows where its tokens come from. This one defines _tokenize, "
            "which does not say it."
        )
    return list(row.offsets)


READ: dict[str, Callable[[Any], Any]] = {
    "input_ids": lambda row: row.ids,
    "token_type_ids": lambda row: row.type_ids,
    "attention_mask": lambda row: row.attention_mask,
    "special_tokens_mask": lambda row: row.special_tokens_mask,
    "offset_mapping": _offsets,
    "length": len,
}
"""How an entry of a batch is read from an encoding."""
