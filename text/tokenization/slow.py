"""The base of tokenizers in plain Python."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from vertebra.text.tokenization.added_tokens import AddedToken, TokenFinder
from vertebra.text.tokenization.base import TokenizerBase
from vertebra.text.tokenization.encoding import Encoding, Piece
from vertebra.text.tokenization.inputs import Item, Text
from vertebra.text.tokenization.slow_rows import SlowRows, combined
from vertebra.text.tokenization.strategies import Plan
from vertebra.text.tokenization.truncation import kept_lengths, windows


class PreTrainedTokenizer(SlowRows, TokenizerBase):
    """Base of tokenizers in plain Python.

    A subclass sets up its vocabulary, then calls `super().__init__` with the special tokens and all settings that are to be
    saved. It defines `vocab_size`, `get_vocab`, `_tokenize`, `_convert_token_to_id`, `_convert_id_to_token` and
    `save_vocabulary`, names its files in `vocab_files_names`, and says in `single` and `pair` how special tokens stand around
    texts, or overrides `build_inputs_with_special_tokens` and `create_token_type_ids_from_sequences`. Where tokens come from in
    the text is known when it overrides `_pieces` instead of `_tokenize`.
    """

    is_fast: ClassVar[bool] = False

    def __init__(self, **settings: Any) -> None:
        self._forget_added()
        super().__init__(**settings)

    # what a subclass defines

    @abstractmethod
    def _tokenize(self, text: str) -> list[str]:
        """Split a text in which no added token is into tokens."""

    @abstractmethod
    def _convert_token_to_id(self, token: str) -> int | None:
        """The number of a token of the vocabulary; that of the unknown token for others."""

    @abstractmethod
    def _convert_id_to_token(self, index: int) -> str | None:
        """The token of a number of the vocabulary."""

    def prepare_for_tokenization(
        self, text: str, is_split_into_words: bool = False, **options: Any
    ) -> tuple[str, dict[str, Any]]:
        """Change a text before anything is looked for in it; offsets then count in what this returns."""
        return text, options

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join tokens to a text, with spaces between them unless a subclass does it otherwise."""
        return " ".join(tokens)

    def save_vocabulary(
        self, save_directory: str | os.PathLike[str], filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write the vocabulary's own files into an existing folder, and return their paths. A subclass without any has none."""
        return ()

    # added tokens

    def _forget_added(self) -> None:
        """Start without any added token."""
        self._added_tokens: dict[str, AddedToken] = {}
        self._added_ids: dict[str, int] = {}
        self._added_by_id: dict[int, str] = {}
        self._finders: tuple[TokenFinder, TokenFinder] | None = None

    def _added(self) -> dict[str, AddedToken]:
        return self._added_tokens

    def _add(self, tokens: Sequence[AddedToken], numbers: Mapping[str, int] | None = None) -> None:
        vocab = self.get_vocab()
        for token in tokens:
            text = token.content
            if not text:
                continue
            index = vocab.get(text)
            if index is None:
                index = (numbers or {}).get(text, self._next_id())
                self._check_free(text, index)
                self._added_ids[text] = index
                self._added_by_id[index] = text
            elif numbers is not None and numbers.get(text, index) != index:
                raise ValueError(
                    f"The token {text!r} has number {numbers[text]} in added_tokens_decoder or added_tokens.json, and {index} in "
                    f"the vocabulary; one of the files is of another tokenizer."
                )
            self._added_tokens[text] = token
        self._finders = None

    def _next_id(self) -> int:
        return max(self.vocab_size, max(self._added_ids.values(), default=-1) + 1)

    def _check_free(self, text: str, index: int) -> None:
        holder = self._added_by_id.get(index)
        if holder is None and index < self.vocab_size:
            holder = next((token for token, number in self.get_vocab().items() if number == index), None)
        if holder is not None:
            raise ValueError(
                f"The added token {text!r} shall have number {index}, which is {holder!r}; the files are of two tokenizers."
            )

    def _convert(self, token: str) -> int | None:
        return self._added_ids[token] if token in self._added_ids else self._convert_token_to_id(token)

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """Return the number of a token, or the list of them; the unknown token's for those that the vocabulary lacks."""
        if tokens is None or isinstance(tokens, str):
            return None if tokens is None else self._convert(tokens)
        return [self._convert(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Return the token of a number, or the list of them; None for a number that the vocabulary does not have."""
        skipped = {text for text, token in self._added_tokens.items() if token.special} if skip_special_tokens else ()

        def token_of(index: int) -> str | None:
            return self._added_by_id[index] if index in self._added_by_id else self._convert_id_to_token(index)

        if not hasattr(ids, "__iter__"):
            return token_of(int(ids))
        return [token for token in map(token_of, map(int, ids)) if token not in skipped]

    # from text to rows

    def _encode_items(
        self, items: Sequence[Item], plan: Plan, add_special: bool, is_split: bool, split_special: bool
    ) -> list[Encoding]:
        return [self._encode_item(first, second, plan, add_special, split_special) for first, second in items]

    def _encode_item(
        self, first: Text, second: Text | None, plan: Plan, add_special: bool, split_special: bool
    ) -> Encoding:
        texts = [self._all_pieces(text, split_special) for text in (first, second) if text is not None]
        parts = [[text] for text in texts]
        if plan.truncation is not None and plan.max_length is not None:
            special = self.num_special_tokens_to_add(len(texts) == 2) if add_special else 0
            lengths = [*map(len, texts), None][:2]
            kept = kept_lengths(lengths[0] or 0, lengths[1], plan.max_length - special, plan.truncation)
            parts = [
                [list(part) for part in windows(text, length or 0, plan.stride, plan.truncation_side)]
                for text, length in zip(texts, kept, strict=False)
            ]
        rows = [self._row(combination, add_special) for combination in combined(parts)]
        rows[0].overflowing = rows[1:]
        return rows[0]

    def _all_pieces(self, text: Text, split_special: bool) -> list[Piece]:
        if isinstance(text, str):
            return list(self._found_pieces(text, split_special, False))
        return [
            piece._replace(word=number)
            for number, word in enumerate(text)
            for piece in self._found_pieces(word, split_special, True)
        ]

    def _found_pieces(self, text: str, split_special: bool, is_word: bool) -> Iterator[Piece]:
        """The pieces of a text; added tokens stand as they are."""
        text, _ = self.prepare_for_tokenization(text, is_split_into_words=is_word)
        number = 0
        for start, end, token in self._token_finders(split_special)[0].split(text):
            if token is not None:
                yield Piece(token.content, self._known_id(token.content), start, end, number)
                number += 1
                continue
            piece = None
            for piece in self._pieces(text[start:end], start, split_special):
                yield piece if piece.word is None else piece._replace(word=number + piece.word)
            number += 0 if piece is None or piece.word is None else piece.word + 1

    def _pieces(self, text: str, at: int, split_special: bool) -> Iterator[Piece]:
        """The pieces of a part of a text, in which no added token is but normalized ones; it begins at `at`."""
        for token in self._tokenize(text):
            yield Piece(token, self._known_id(token))

    def _known_id(self, token: str) -> int:
        index = self._convert(token)
        if index is None:
            raise ValueError(
                f"{type(self).__name__} has no number for {token!r}, and no unk_token to put in its place; give one it has: "
                f"unk_token='[UNK]'."
            )
        return index

    def _token_finders(self, split_special: bool) -> tuple[TokenFinder, TokenFinder]:
        """What finds added tokens in a text as given, and in normalized text."""
        if split_special:
            return self._make_finders([token for token in self._added_tokens.values() if not token.special])
        if self._finders is None:
            self._finders = self._make_finders(list(self._added_tokens.values()))
        return self._finders

    def _make_finders(self, tokens: Sequence[AddedToken]) -> tuple[TokenFinder, TokenFinder]:
        return TokenFinder({token.content: token for token in tokens}), TokenFinder({})
