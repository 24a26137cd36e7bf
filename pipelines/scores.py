"""Logits as scores of labels, the way every classifier's answer is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vertebra.errors import listing

FUNCTIONS = ("softmax", "sigmoid", "none")
Scores = np.ndarray[Any, np.dtype[np.float32]]


def softmax(logits: Scores) -> Scores:
    """Scores that add up to 1 along the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def usual_function(config: Any) -> str:
    """What a model's logits mean: `"none"` for regression, `"sigmoid"` for one label or several at once, else `"softmax"`."""
    if config.problem_type == "regression":
        return "none"
    several = config.problem_type == "multi_label_classification" or config.num_labels == 1
    return "sigmoid" if several else "softmax"


def scores_of(logits: Tensor, config: Any, function_to_apply: str | None = None) -> Scores:
    """Turn logits into scores.

    Args:
        logits: `(labels,)`.
        config: The model's configuration, which says what logits mean.
        function_to_apply: `"softmax"`, `"sigmoid"`, `"none"`, or None for what the configuration says.

    Raises:
        ValueError: the function is another.
    """
    name = usual_function(config) if function_to_apply is None else str(function_to_apply).lower()
    logits = logits.float().cpu()
    if name == "softmax":
        return softmax(logits.numpy())
    if name in ("sigmoid", "none"):
        return (logits.sigmoid() if name == "sigmoid" else logits).numpy()
    raise ValueError(
        f"function_to_apply={function_to_apply!r} must be one of {listing(map(repr, FUNCTIONS))}, or None."
    )


def ranked(scores: Scores, config: Any, top_k: int | None = None) -> list[dict[str, Any]]:
    """Return `{"label": …, "score": …}` of the `top_k` best labels (of all for None), the best first.

    Raises:
        ValueError: `top_k` is not a positive number.
    """
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
        raise ValueError(f"top_k={top_k!r} must be 1 or more, or None for all {len(scores)} labels.")
    found = [{"label": config.labels[index], "score": score.item()} for index, score in enumerate(scores)]
    return sorted(found, key=lambda entry: entry["score"], reverse=True)[:top_k]


def check_ranking(options: Mapping[str, Any], config: Any) -> None:
    """Refuse values of `top_k` and `function_to_apply` that no answer could be given with.

    Raises:
        ValueError: says what is allowed.
    """
    scores = scores_of(torch.zeros(config.num_labels), config, options.get("function_to_apply"))
    ranked(scores, config, options.get("top_k"))
