"""Classes of tokens to entities: tokens that are one word, and words that name one thing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vertebra.pipelines.scores import Scores

Join = Callable[[list[str]], str]
"""Makes a text of tokens."""


@dataclass(frozen=True)
class Token:
    """A token, or a word made of several.

    Args:
        word: As text.
        scores: Of all classes.
        start: Its first character in the text; None where that is not known.
        end: The one behind its last.
        index: Its number in the row of tokens.
        continues: Whether it goes on with the word of the token before.
    """

    word: str
    scores: Scores
    start: int | None
    end: int | None
    index: int
    continues: bool = False


WORD_SCORES: Mapping[str, Callable[[Sequence[Scores]], Scores]] = {
    "first": lambda scores: scores[0],
    "average": lambda scores: np.mean(scores, axis=0),  # type: ignore[no-any-return]
    "max": lambda scores: max(scores, key=np.max),
}
"""What the scores of a word are, from those of its tokens."""
STRATEGIES = ("none", "simple", *WORD_SCORES)


def words_of(tokens: Iterable[Token], strategy: str, join: Join) -> list[Token]:
    """Join the tokens of each word, which so gets one class."""
    words: list[list[Token]] = []
    for token in tokens:
        if words and token.continues:
            words[-1].append(token)
        else:
            words.append([token])
    return [
        Token(
            word=join([token.word for token in word]),
            scores=WORD_SCORES[strategy]([token.scores for token in word]),
            start=word[0].start,
            end=word[-1].end,
            index=word[0].index,
        )
        for word in words
    ]


def entities_of(tokens: Sequence[Token], strategy: str, labels: Mapping[int, str], join: Join) -> list[dict[str, Any]]:
    """Turn the tokens of a text into what is said of them: one entry for each token, or one for each entity.

    An entity is a run of one class, where `B-` before its name begins a new one.

    Args:
        tokens: Of one text, without special ones.
        strategy: One of `STRATEGIES`.
        labels: Names of the classes, by their numbers.
        join: Makes a text of tokens.
    """
    if strategy in WORD_SCORES:
        tokens = words_of(tokens, strategy, join)
    named = [(labels[int(token.scores.argmax())], token) for token in tokens]
    if strategy == "none":
        return [
            {
                "entity": label,
                "score": token.scores.max().item(),
                "index": token.index,
                "word": token.word,
                "start": token.start,
                "end": token.end,
            }
            for label, token in named
        ]
    runs: list[list[tuple[str, Token]]] = []
    for label, token in named:
        goes_on = runs and not label.startswith("B-") and _kind(label) == _kind(runs[-1][-1][0])
        if goes_on:
            runs[-1].append((label, token))
        else:
            runs.append([(label, token)])
    return [_entity(run[0][0], [token for _, token in run], join) for run in runs]


def _entity(label: str, tokens: Sequence[Token], join: Join) -> dict[str, Any]:
    return {
        "entity_group": label.split("-", 1)[-1],
        "score": np.mean([token.scores.max() for token in tokens]).item(),
        "word": join([token.word for token in tokens]),
        "start": tokens[0].start,
        "end": tokens[-1].end,
    }


def _kind(label: str) -> str:
    """What a class means, wherever in an entity it stands."""
    return label[2:] if label.startswith(("B-", "I-")) else label


def without_overlaps(entities: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of entities that windows of one text share, keep the longest; of equally long ones the surest."""
    kept: list[dict[str, Any]] = []
    for entity in sorted(entities, key=lambda entity: entity["start"]):
        if not kept or entity["start"] >= kept[-1]["end"]:
            kept.append(entity)
        elif _weight(entity) > _weight(kept[-1]):
            kept[-1] = entity
    return kept


def _weight(entity: Mapping[str, Any]) -> tuple[int, float]:
    return entity["end"] - entity["start"], entity["score"]
