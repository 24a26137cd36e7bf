"""Texts to features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vertebra.pipelines.base import Piece, Row
from vertebra.pipelines.texts import TextPipeline, as_text


class FeatureExtractionPipeline(TextPipeline):
    """The last state of every token of a text: nested lists `[1][n][c]`, or a tensor `(1, n, c)` with `return_tensors=True`.

    A text's padding in a batch is left out, which transformers' has in it.
    """

    task = "feature-extraction"

    def prepare(
        self, item: Any, *, truncation: bool | str | None = None, tokenize_kwargs: Mapping[str, Any] | None = None
    ) -> Sequence[Piece]:
        """Tokenize a text.

        Args:
            item: A text.
            truncation: Whether texts are cut to what the model takes.
            tokenize_kwargs: Further arguments of the tokenizer's call.

        Raises:
            ValueError: `truncation` is given twice, or the text has no token.
            TypeError: it is no text.
        """
        settings = dict(tokenize_kwargs or {})
        if truncation is not None:
            if "truncation" in settings:
                raise ValueError("truncation is given twice, by itself and in tokenize_kwargs; give it once.")
            settings["truncation"] = truncation
        inputs = self.encoded(item if settings.get("is_split_into_words") else as_text(item), **settings)
        return [Piece(inputs, context=len(inputs["input_ids"]))]

    def answer(self, rows: Sequence[Row], *, return_tensors: bool = False) -> Any:
        """Give the features.

        Args:
            rows: What the model said.
            return_tensors: True for a tensor.
        """
        (row,) = rows
        states = row.output[0][:, : row.context]
        return states.clone() if return_tensors else states.tolist()
