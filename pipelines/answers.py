"""Scores of first and last tokens to the answers of a question."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from vertebra.pipelines.scores import Scores, softmax

Span = tuple[int, int]


class Window(NamedTuple):
    """What is known of a row of tokens that holds a question and a part of a context.

    Args:
        context: All of the context.
        inside: Which tokens are of the context.
        nothing: The token that stands for no answer; None where there is none.
        tokens: First character in the context of each token, and the one behind its last.
        words: The same of the word that the token is a part of.
    """

    context: str
    inside: Sequence[bool]
    nothing: int | None
    tokens: Sequence[Span]
    words: Sequence[Span]


class Spans(NamedTuple):
    """Runs of tokens, the likeliest first.

    Args:
        found: First token, last token and probability of each.
        nothing: The probability that there is no answer.
    """

    found: list[tuple[int, int, float]]
    nothing: float


def likeliest_spans(start: Scores, end: Scores, window: Window, count: int, longest: int) -> Spans:
    """Find the likeliest answers of one window.

    Args:
        start: `(n,)` logits of being the first token.
        end: `(n,)` logits of being the last.
        window: Which tokens may be in an answer.
        count: How many are wanted.
        longest: Tokens of an answer at most.
    """
    inside = np.array(window.inside)
    counted = inside.copy()
    if window.nothing is not None:
        counted[window.nothing] = True
    if not counted.any():
        return Spans([], 0.0)
    first, last = (softmax(np.where(counted, logits, np.float32(-np.inf))) for logits in (start, end))
    places = np.arange(len(inside))
    beyond = places - places[:, None]
    allowed = inside[:, None] & inside & (beyond >= 0) & (beyond < longest)
    firsts, lasts = allowed.nonzero()
    scores = first[firsts] * last[lasts]
    best = np.argsort(-scores, kind="stable")[:count]
    nothing = 0.0 if window.nothing is None else (first[window.nothing] * last[window.nothing]).item()
    found = [(int(firsts[at]), int(lasts[at]), scores[at].item()) for at in best]
    return Spans(found, nothing)


def answers_of(
    windows: Iterable[tuple[Window, Spans]], top_k: int, align_to_words: bool, may_be_none: bool
) -> list[dict[str, Any]]:
    """Join the answers of all windows of a context; the scores of equal ones, whatever their case, add up.

    Args:
        windows: Each with its spans.
        top_k: How many are wanted.
        align_to_words: Whether answers are whole words.
        may_be_none: Whether no answer is one, as probable as in the window where it is least so.
    """
    answers: dict[str, dict[str, Any]] = {}
    nothing = []
    for window, spans in windows:
        nothing.append(spans.nothing)
        places = window.words if align_to_words else window.tokens
        for first, last, score in spans.found:
            start, end = places[first][0], places[last][1]
            text = window.context[start:end]
            answer = answers.setdefault(text.lower(), {"score": 0.0, "start": start, "end": end, "answer": text})
            answer["score"] += score
    found = [*answers.values()]
    if may_be_none:
        found.append({"score": min(nothing), "start": 0, "end": 0, "answer": ""})
    return sorted(found, key=lambda answer: answer["score"], reverse=True)[:top_k]
