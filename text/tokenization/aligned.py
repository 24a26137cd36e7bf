"""Tokenizers in plain Python that know where each token comes from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence

from vertebra.text.tokenization.added_tokens import AddedToken, TokenFinder
from vertebra.text.tokenization.encoding import Piece
from vertebra.text.tokenization.normalize import Aligned
from vertebra.text.tokenization.slow import PreTrainedTokenizer


class AlignedTokenizer(PreTrainedTokenizer):
    """Base of the tokenizers that normalize a text, split it into words, and those into tokens."""

    def _normalize(self, text: Aligned) -> Aligned:
        """Bring a text into the form that the vocabulary is of."""
        return text

    @abstractmethod
    def _words(self, text: Aligned) -> Iterator[Aligned]:
        """Split a normalized text."""

    @abstractmethod
    def _subwords(self, word: Aligned) -> Sequence[tuple[str, int, int]]:
        """Split a word into tokens, with their first and last (excluded) index in the text that was given."""

    def _tokenize(self, text: str) -> list[str]:
        return [piece.token for piece in self._pieces(text, 0, False)]

    def _pieces(self, text: str, at: int, split_special: bool) -> Iterator[Piece]:
        normal = self._normalize(Aligned.plain(text, at))
        number = 0
        for start, end, token in self._token_finders(split_special)[1].split(normal.text):
            if token is not None:
                yield Piece(token.content, self._known_id(token.content), *normal.span(start, end), number)
                number += 1
                continue
            for word in self._words(normal.part(start, end)):
                for subword, first, last in self._subwords(word):
                    yield Piece(subword, self._known_id(subword), first, last, number)
                number += 1

    def _make_finders(self, tokens: Sequence[AddedToken]) -> tuple[TokenFinder, TokenFinder]:
        as_given = {token.content: token for token in tokens if not token.normalized}
        normal = {self._normalize(Aligned.plain(token.content)).text: token for token in tokens if token.normalized}
        return TokenFinder(as_given), TokenFinder(normal)
