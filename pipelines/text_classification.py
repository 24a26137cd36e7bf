"""Texts to labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vertebra.errors import listing
from vertebra.pipelines.base import Piece, Row
from vertebra.pipelines.scores import check_ranking, ranked, scores_of
from vertebra.pipelines.texts import TextPipeline, as_text

PAIR = ("text", "text_pair")
HOW = "A pair of texts is {'text': …, 'text_pair': …}."


class _Unset:
    """That nobody gave a value, where None is one."""

    def __repr__(self) -> str:
        return "the best label alone"


BEST = _Unset()


class TextClassificationPipeline(TextPipeline):
    """What a text says, in labels: `{"label": str, "score": float}` of the best, or a list of these with `top_k`.

    A text that is given alone, rather than in a list, has its answer in a list, as in transformers.
    """

    task = "text-classification"

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Classify texts; see `Pipeline.__call__`. A pair of texts is `{"text": …, "text_pair": …}`."""
        found = super().__call__(inputs, **kwargs)
        return [found] if isinstance(inputs, str) and "top_k" not in kwargs else found

    def prepare(self, item: Any, **tokenizer_kwargs: Any) -> Sequence[Piece]:
        """Tokenize a text.

        Args:
            item: A text, or `{"text": …, "text_pair": …}`.
            **tokenizer_kwargs: Arguments of the tokenizer's call, such as `truncation` and `max_length`.

        Raises:
            TypeError: it is neither a text nor a pair.
        """
        if not isinstance(item, Mapping):
            return [Piece(self.encoded(as_text(item, more=HOW), **tokenizer_kwargs))]
        if "text" not in item or set(item) - set(PAIR):
            raise TypeError(f"{HOW} This one has the keys {listing(map(repr, item))}.")
        texts = [as_text(item[name], repr(name)) for name in PAIR if name in item]
        return [Piece(self.encoded(*texts, **tokenizer_kwargs))]

    def check(self, options: Mapping[str, Any]) -> None:
        """Refuse another function, and a `top_k` that is no number above 0."""
        check_ranking(options, self.model.config)

    def answer(
        self, rows: Sequence[Row], *, top_k: int | _Unset | None = BEST, function_to_apply: str | None = None
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Rank the labels.

        Args:
            rows: What the model said.
            top_k: How many labels, in a list; None for all. Without it the best alone, in no list.
            function_to_apply: `"softmax"`, `"sigmoid"` or `"none"`; None for what the model was trained with.
        """
        config = self.model.config
        scores = scores_of(rows[0].output["logits"][0], config, function_to_apply)
        return ranked(scores, config, 1)[0] if isinstance(top_k, _Unset) else ranked(scores, config, top_k)
