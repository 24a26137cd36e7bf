"""Texts to the classes of their tokens, and to entities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vertebra.errors import listing
from vertebra.pipelines.base import Piece, Row
from vertebra.pipelines.entities import STRATEGIES, WORD_SCORES, Token, entities_of, without_overlaps
from vertebra.pipelines.places import Placed, Span, checked_places, in_text, placed
from vertebra.pipelines.scores import softmax
from vertebra.pipelines.texts import TextPipeline, as_text

WORDPIECE = "##"


class Window(NamedTuple):
    """What the answer needs to know of a row of tokens.

    Args:
        text: The whole text.
        tokens: The tokens as text.
        special: Which of them are special.
        unknown: Which of them stand for something that is not in the vocabulary.
        spans: First character of each, and the one behind its last; None where that is not known.
    """

    text: str
    tokens: Sequence[str]
    special: Sequence[bool]
    unknown: Sequence[bool]
    spans: Sequence[Span] | None


class TokenClassificationPipeline(TextPipeline):
    """What the tokens of a text are, or the things that it names.

    Without `aggregation_strategy` there is one entry for each token, `{"entity": str, "score": float, "index": int, "word": str,
    "start": int, "end": int}`; with one, an entry for each entity, `{"entity_group": str, "score": float, "word": str,
    "start": int, "end": int}`. `start` and `end` count characters of the text, and are None where the tokenizer does not know them.
    """

    task = "token-classification"

    def __call__(self, inputs: Any, *, offset_mapping: Any = None, **kwargs: Any) -> Any:
        """Classify the tokens of texts; see `Pipeline.__call__`.

        Args:
            inputs: A text, several, or with `is_split_into_words` lists of words.
            offset_mapping: `[(start, end), …]` of all tokens of the text, special ones included, instead of the tokenizer's; of
                several texts a list of these.
            **kwargs: Options.
        """
        is_split = kwargs.get("is_split_into_words", self._options.get("is_split_into_words", False))
        if is_split and isinstance(inputs, (list, tuple)) and not all(isinstance(one, (list, tuple)) for one in inputs):
            inputs = [inputs]
        if offset_mapping is not None:
            inputs = placed(inputs, offset_mapping)
        return super().__call__(inputs, **kwargs)

    def is_item(self, inputs: Any) -> bool:
        """One text, placed or not."""
        return isinstance(inputs, Placed) or super().is_item(inputs)

    def check(self, options: Mapping[str, Any]) -> None:
        """Refuse an unknown strategy, and a stride with nothing that could join the windows."""
        strategy = _strategy(options.get("aggregation_strategy"))
        if options.get("stride") is not None and strategy == "none":
            raise ValueError(
                f"stride={options['stride']!r} reads a long text in windows, whose entities are joined: pass "
                f"aggregation_strategy='simple', or another but 'none'."
            )
        if options.get("delimiter") is not None and not options.get("is_split_into_words"):
            raise ValueError("delimiter is what stands between words: pass is_split_into_words=True with it.")

    def prepare(
        self,
        item: Any,
        *,
        is_split_into_words: bool = False,
        delimiter: str | None = None,
        stride: int | None = None,
        aggregation_strategy: str | None = "none",
    ) -> Sequence[Piece]:
        """Tokenize a text, cut to what the tokenizer says that the model takes.

        Args:
            item: A text, or a list of words.
            is_split_into_words: Whether it is words.
            delimiter: What stands between words in the text that `start` and `end` refer to; None for a space.
            stride: Read all of a long text, in windows that share this many tokens; needs an `aggregation_strategy`.
            aggregation_strategy: As in `answer`.

        Raises:
            TypeError: it is no text, or no list of words.
            ValueError: the tokenizer does not know where tokens stand and `stride`, words or the strategy need it; `stride` is not
                less than a window; or the places given are not as many as the tokens.
        """
        given, places = item if isinstance(item, Placed) else (item, None)
        words = _words(given) if is_split_into_words else None
        between = " " if delimiter is None else delimiter
        text = as_text(given) if words is None else between.join(words)
        found = self.windows(
            text if words is None else words,
            truncation=True,
            stride=stride or 0,
            is_split_into_words=words is not None,
        )
        pieces = []
        for inputs, row in found if stride is not None else found[:1]:
            spans = row.offsets
            if spans is None:
                self._do_without_places(stride, words, _strategy(aggregation_strategy))
            elif words is not None:
                spans = in_text(row, words, len(between))
            if places is not None:
                spans = checked_places(places, len(row), len(found) if stride is not None else 1)
            pieces.append(
                Piece(
                    inputs,
                    Window(
                        text=text,
                        tokens=list(row.tokens),
                        special=[bool(mark) for mark in row.special_tokens_mask],
                        unknown=[index == self.tokenizer.unk_token_id for index in row.ids],
                        spans=spans,
                    ),
                )
            )
        return pieces

    def answer(
        self,
        rows: Sequence[Row],
        *,
        aggregation_strategy: str | None = "none",
        ignore_labels: Sequence[str] | None = ("O",),
        stride: int | None = None,
    ) -> list[dict[str, Any]]:
        """Find the entities.

        Args:
            rows: What the model said.
            aggregation_strategy: `"none"` gives every token; `"simple"` joins neighbours of one class; `"first"`, `"average"` and
                `"max"` give a word one class before, that of its first token, of the mean of scores, or of its surest token. A word
                goes on with tokens that WordPiece marks so; with other tokenizers up to the next space.
            ignore_labels: Classes that are left out; None for `"O"` alone.
            stride: As in `prepare`.
        """
        strategy = _strategy(aggregation_strategy)
        ignored = ("O",) if ignore_labels is None else ignore_labels
        ignored = (ignored,) if isinstance(ignored, str) else ignored
        found = [
            entity
            for row in rows
            for entity in entities_of(
                self._tokens(row), strategy, self.model.config.labels, self.tokenizer.convert_tokens_to_string
            )
            if entity.get("entity_group", entity.get("entity")) not in ignored
        ]
        return without_overlaps(found) if len(rows) > 1 else found

    def _tokens(self, row: Row) -> list[Token]:
        window: Window = row.context
        logits = row.output["logits"][0, : len(window.tokens)]
        scores = softmax(logits.float().cpu().numpy())
        mark = _mark(self.tokenizer)
        tokens = []
        for index, word in enumerate(window.tokens):
            if window.special[index]:
                continue
            start, end = (None, None) if window.spans is None else map(int, window.spans[index])
            continues = False
            if start is not None and window.unknown[index]:
                word = window.text[start:end]
            elif mark is not None:
                continues = word.startswith(mark)
            elif start is not None:
                continues = start > 0 and " " not in window.text[start - 1 : start + 1]
            tokens.append(Token(word, scores[index], start, end, index, continues))
        return tokens

    def _do_without_places(self, stride: int | None, words: Sequence[str] | None, strategy: str) -> None:
        needs = {
            "stride": stride is not None,
            "is_split_into_words=True": words is not None,
            f"aggregation_strategy={strategy!r}": strategy in WORD_SCORES,
        }
        for what in (what for what, is_asked in needs.items() if is_asked):
            raise self.placeless(what)


def _strategy(value: Any) -> str:
    name = "none" if value is None else str(getattr(value, "value", value)).lower()
    if name not in STRATEGIES:
        raise ValueError(f"aggregation_strategy={value!r} must be one of {listing(map(repr, STRATEGIES))}.")
    return name


def _words(item: Any) -> list[str]:
    if not isinstance(item, (list, tuple)):
        raise TypeError(f"is_split_into_words=True takes lists of words, not a {type(item).__name__}: text.split().")
    return [as_text(word, f"word {at}") for at, word in enumerate(item)]


def _mark(tokenizer: Any) -> str | None:
    """What stands before tokens that go on with a word; None where tokens are not marked so."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return getattr(backend.model, "continuing_subword_prefix", None) or None
    return WORDPIECE if tokenizer.convert_tokens_to_string(["a", f"{WORDPIECE}b"]) == "ab" else None
