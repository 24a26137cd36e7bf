"""Recordings to labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vertebra.pipelines.audios import AudioPipeline
from vertebra.pipelines.base import Piece, Row
from vertebra.pipelines.scores import check_ranking, ranked, scores_of

FUNCTIONS = {"regression": "none", "multi_label_classification": "sigmoid"}
"""What turns logits into scores, by `config.problem_type`; softmax for all else, also for a single label, as in transformers."""


class AudioClassificationPipeline(AudioPipeline):
    """What is heard in a recording: `[{"score": float, "label": str}, …]`, the best label first."""

    task = "audio-classification"

    def prepare(self, item: Any, *, allow_urls: bool = False, timeout: float | None = None) -> Sequence[Piece]:
        """Prepare a recording.

        Args:
            item: As in `AudioPipeline`, or an address.
            allow_urls: Whether addresses are fetched.
            timeout: Seconds to wait for an address.
        """
        clip = self.recorded(item, allow_urls, timeout)
        return [Piece(self.features(clip, **({"return_attention_mask": True} if self.masks else {})))]

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
        function = (
            FUNCTIONS.get(str(config.problem_type), "softmax") if function_to_apply is None else function_to_apply
        )
        found = ranked(scores_of(rows[0].output["logits"][0], config, function), config, top_k)
        return [{"score": entry["score"], "label": entry["label"]} for entry in found]
