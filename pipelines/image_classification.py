"""Images to labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vertebra.pipelines.base import Piece, Row
from vertebra.pipelines.images import ImagePipeline
from vertebra.pipelines.scores import check_ranking, ranked, scores_of


class ImageClassificationPipeline(ImagePipeline):
    """What is in an image: `[{"label": str, "score": float}, …]`, the best label first."""

    task = "image-classification"

    def prepare(self, item: Any, *, allow_urls: bool = False, timeout: float | None = None) -> Sequence[Piece]:
        """Prepare an image.

        Args:
            item: A path, a PIL image, an array or tensor, the bytes of a file, or an address.
            allow_urls: Whether addresses are fetched.
            timeout: Seconds to wait for an address.
        """
        return [Piece(self.pixels(self.opened(item, allow_urls, timeout)))]

    def check(self, options: Mapping[str, Any]) -> None:
        """Refuse another function, and a `top_k` that is no number above 0."""
        check_ranking(options, self.model.config)

    def answer(
        self, rows: Sequence[Row], *, top_k: int | None = 5, function_to_apply: str | None = None
    ) -> list[dict[str, Any]]:
        """Rank the labels.

        Args:
            rows: What the model said.
            top_k: How many labels; None for all.
            function_to_apply: `"softmax"`, `"sigmoid"` or `"none"`; None for what the model was trained with.
        """
        config = self.model.config
        return ranked(scores_of(rows[0].output["logits"][0], config, function_to_apply), config, top_k)
