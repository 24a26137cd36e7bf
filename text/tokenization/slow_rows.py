"""Rows of the tokenizers in plain Python: where special tokens stand, as data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vertebra.text.tokenization.decoding import Decoding
from vertebra.text.tokenization.encoding import Encoding, Piece
from vertebra.text.tokenization.rows import Place, Rows


class SlowRows(Rows, Decoding):
    """The part of a tokenizer in plain Python that makes rows of pieces."""

    single: Sequence[str | int] = (0,)
    """A row of one text: names of special tokens, and 0 where the text stands. Tokens that there are none of are left out."""
    pair: Sequence[str | int] = (0, 1)
    """A row of two texts, 0 and 1."""
    pair_types: Sequence[int] = (0, 1)
    """Segment number of each entry of `pair`."""

    def _layout(self, first: list[int], second: list[int] | None) -> Iterator[tuple[int, int]]:
        entries = [(entry, 0) for entry in self.single]
        if second is not None:
            entries = list(zip(self.pair, self.pair_types, strict=True))
        for entry, number in entries:
            if isinstance(entry, str):
                index = getattr(self, f"{entry}_id")
                yield from [] if index is None else [(index, number)]
            else:
                yield from ((index, number) for index in (first, second or [])[entry])

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return how many special tokens a row has; with `pair`, one of two texts."""
        return len(self.build_inputs_with_special_tokens([], [] if pair else None))

    def _row(self, texts: Sequence[Sequence[Piece]], add_special: bool) -> Encoding:
        """Make a row of the pieces of one text or two."""
        pieces = [[_PlacedPiece(piece, number) for piece in text] for number, text in enumerate(texts)]
        ids: list[int] = [index for text in pieces for index in text]
        numbers = [0] if len(texts) == 1 else [self.pair_types[self.pair.index(number)] for number in (0, 1)]
        types = [number for number, text in zip(numbers, pieces, strict=True) for _ in text]
        if add_special:
            first: list[int] = [*pieces[0]]
            second: list[int] | None = [*pieces[1]] if len(pieces) == 2 else None
            ids = self.build_inputs_with_special_tokens(first, second)
            types = self.create_token_type_ids_from_sequences(first, second)
        row = [self._entry(index) for index in ids]
        found = [piece for piece, number in row if number is not None]
        has_places = all(piece.start is not None for piece in found)
        has_words = all(piece.word is not None for piece in found)
        return Encoding(
            ids=[piece.id for piece, _ in row],
            type_ids=list(types),
            tokens=[piece.token for piece, _ in row],
            offsets=[(piece.start or 0, piece.end or 0) for piece, _ in row] if has_places else None,
            word_ids=[piece.word for piece, _ in row] if has_words else None,
            sequence_ids=[number for _, number in row],
            special_tokens_mask=[int(number is None) for _, number in row],
            attention_mask=[1] * len(row),
        )

    def _entry(self, index: int) -> tuple[Piece, int | None]:
        """The piece at a place of a row, and the number of its text; None for special tokens."""
        if isinstance(index, _PlacedPiece):
            return index.piece, index.number
        return Piece(str(self.convert_ids_to_tokens(index)), index, 0, 0), None


class _PlacedPiece(Place):
    """The id of a piece, which keeps the piece and the number of its text on its way through a subclass's methods."""

    piece: Piece
    number: int

    def __new__(cls, piece: Piece, number: int) -> _PlacedPiece:
        self = super().__new__(cls, piece.id)
        self.piece, self.number = piece, number
        return self


def combined(parts: Sequence[Sequence[Sequence[Piece]]]) -> list[list[Sequence[Piece]]]:
    """The rows of all windows: what is kept first, then each further window of the first text with all of the second."""
    if len(parts) == 1:
        return [[part] for part in parts[0]]
    firsts, seconds = parts
    kept = [[firsts[0], second] for second in seconds]
    further = [[first, second] for first in firsts[1:] for second in seconds]
    return [kept[0], *further, *kept[1:]]
