"""Ids back to text."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from vertebra.text.tokenization.special_tokens import SpecialTokens
from vertebra.text.tokenization.tensors import to_lists

CLEANED = {
    " .": ".", " ?": "?", " !": "!", " ,": ",", " ' ": "'", " n't": "n't", " 'm": "'m", " 's": "'s", " 've": "'ve", " 're": "'re",
}  # fmt: skip
"""What `clean_up_tokenization` puts in place of what, in this order."""


class Decoding(SpecialTokens):
    """The part of a tokenizer that turns ids into text."""

    clean_up_tokenization_spaces: bool

    @abstractmethod
    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Return the token of a number, or the list of them; None for a number that the vocabulary does not have."""

    @abstractmethod
    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join tokens to a text."""

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **options: Any,
    ) -> Any:
        """Return the text of ids.

        Args:
            token_ids: A number, a list, an array or a tensor; a batch of them gives a list of texts.
            skip_special_tokens: Leave special tokens out.
            clean_up_tokenization_spaces: Take out the spaces before punctuation; None is the tokenizer's own setting.
            **options: Further arguments that a subclass's decoding takes.

        Raises:
            ValueError: a number below 0, such as the -100 of labels. Numbers beyond the vocabulary have no text, and give none.
            TypeError: something that is no number.
        """
        ids = to_lists(token_ids["input_ids"] if isinstance(token_ids, Mapping) else token_ids)
        ids = ids if isinstance(ids, list) else [ids]
        if ids and isinstance(ids[0], list):
            return self.batch_decode(ids, skip_special_tokens, clean_up_tokenization_spaces, **options)
        for at, index in enumerate(ids):
            if isinstance(index, bool) or not isinstance(index, int):
                advice = " Scores become ids by logits.argmax(-1)." if isinstance(index, float) else ""
                raise TypeError(f"token_ids[{at}] is {index!r}, not a whole number.{advice}")
            if index < 0:
                raise ValueError(
                    f"token_ids[{at}] is {index}, which no token has. Where it marks what is no label, leave it out: "
                    f"[i for i in ids if i >= 0]."
                )
        return self._decode(ids, skip_special_tokens, clean_up_tokenization_spaces, **options)

    def batch_decode(
        self,
        sequences: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **options: Any,
    ) -> list[Any]:
        """Return the texts of a batch of ids; the arguments are those of `decode`."""
        rows = sequences["input_ids"] if isinstance(sequences, Mapping) else sequences
        return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces, **options) for row in rows]

    def _decode(
        self, token_ids: list[int], skip_special_tokens: bool, clean_up_tokenization_spaces: bool | None
    ) -> str:
        tokens = self.convert_ids_to_tokens(token_ids, skip_special_tokens)
        text = self.convert_tokens_to_string([token for token in tokens if token is not None])
        return self._cleaned(text, clean_up_tokenization_spaces)

    def _cleaned(self, text: str, chosen: bool | None) -> str:
        clean = self.clean_up_tokenization_spaces if chosen is None else chosen
        return self.clean_up_tokenization(text) if clean else text

    @staticmethod
    def clean_up_tokenization(out_string: str) -> str:
        """Take out the spaces before punctuation and English contractions."""
        for spaced, joined in CLEANED.items():
            out_string = out_string.replace(spaced, joined)
        return out_string
