"""A tokenizer that does not say where its tokens come from, like those that define `_tokenize` alone."""

from collections.abc import Iterator

from vertebra import BertTokenizer
from vertebra.text.tokenization.encoding import Piece


class Placeless(BertTokenizer):
    """BERT's words, without their places."""

    def _pieces(self, text: str, at: int, split_special: bool) -> Iterator[Piece]:
        return (Piece(piece.token, piece.id) for piece in super()._pieces(text, at, split_special))
