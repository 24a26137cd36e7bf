"""What Whisper's texts begin with: tokens that say language and task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from vertebra.audio.generation_config import GenerationConfig
from vertebra.audio.languages import language_code
from vertebra.errors import listing

Detect = Callable[[Sequence[int]], list[int]]


def prompt_tokens(rules: GenerationConfig, start: int, clips: int, detect: Detect) -> list[list[int]]:
    """The tokens that each text begins with: start, language, task, and that no times are wanted.

    Args:
        rules: How to write.
        start: The first token.
        clips: How many texts there are.
        detect: Tells each clip's language, one of the tokens it is given; called where nobody says it.

    Raises:
        ValueError: a language or task that the model does not know, or a prompt with gaps.
    """
    if rules.is_multilingual is False and (rules.language or rules.task):
        raise ValueError(
            f"The model knows English alone, and language={rules.language!r}, task={rules.task!r} are for models of several "
            f"languages; leave them out. (is_multilingual=True says that it is one.)"
        )
    forced = [] if rules.task or rules.language else _forced(rules.forced_decoder_ids)
    rows = []
    for language in _languages(rules, clips, detect, known=bool(forced) and forced[0] is not None):
        row = [start, *forced]
        if language is not None:
            row[1:2] = [language]
        if rules.task:
            row.append(_task(rules.task, rules.task_to_id))
        elif rules.language and rules.task_to_id and not set(rules.task_to_id.values()) & set(row):
            row.append(rules.task_to_id["transcribe"])
        if rules.no_timestamps_token_id is not None and row[-1] != rules.no_timestamps_token_id:
            row.append(rules.no_timestamps_token_id)
        rows.append([token for token in row if token is not None])
    return rows


def _languages(rules: GenerationConfig, clips: int, detect: Detect, known: bool) -> Sequence[int | None]:
    """The token of each clip's language; None where the prompt has it already, or none."""
    if rules.language is not None:
        asked = [rules.language] * clips if isinstance(rules.language, str) else list(rules.language)
        if len(asked) != clips:
            raise ValueError(
                f"language has {len(asked)} entries, and there are {clips} clips: give one for each, or a single one."
            )
        return [_language_token(language, rules.lang_to_id) for language in asked]
    if known or not rules.lang_to_id:
        return [None] * clips
    return detect(list(rules.lang_to_id.values()))


def _forced(forced: Sequence[Sequence[int | None]] | None) -> list[int | None]:
    """The tokens of `[place, token]` pairs, which begin at place 1 and have no gaps."""
    pairs = [tuple(pair) for pair in forced or ()]
    if [place for place, _ in pairs] != list(range(1, len(pairs) + 1)):
        raise ValueError(
            f"forced_decoder_ids={forced!r} must be [place, token] pairs of the places 1, 2, … without gaps."
        )
    return [token for _, token in pairs]


def _language_token(language: str, tokens: Mapping[str, int] | None) -> int:
    if not tokens:
        raise ValueError(
            f"language={language!r} needs the tokens of languages, and generation_config has no lang_to_id; take the checkpoint's "
            f"newer generation_config.json, or set it."
        )
    name = language if language in tokens else f"<|{language_code(language)}|>"
    if name not in tokens:
        raise ValueError(f"The model has no token {name!r} for language={language!r}; it has {listing(tokens, 200)}.")
    return tokens[name]


def _task(task: str, tokens: Mapping[str, int] | None) -> int:
    if task not in (tokens or {}):
        raise ValueError(
            f"task={task!r} is not known; generation_config.task_to_id has {listing(map(repr, tokens or ())) or 'no tasks'}."
        )
    return (tokens or {})[task]
