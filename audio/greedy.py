"""Writing the likeliest token each time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from vertebra.audio.generation_config import GenerationConfig

Step = Callable[[Tensor, Any], tuple[Tensor, Any]]


def room_for(prompt: int, most: int, rules: GenerationConfig) -> int:
    """How many tokens may be written after a prompt of so many.

    Args:
        prompt: Tokens of the prompt.
        most: Tokens that the model takes.
        rules: How to write.

    Raises:
        ValueError: more are asked for than the model takes.
    """
    left = most - prompt
    if rules.max_new_tokens is None:
        return left if rules.max_length is None else min(rules.max_length, left)
    if rules.max_new_tokens > left:
        raise ValueError(
            f"max_new_tokens={rules.max_new_tokens}, but the model takes {most} tokens (max_target_positions), {prompt} of them "
            f"the prompt; {left} is the most."
        )
    return rules.max_new_tokens


def write(step: Step, prompt: Tensor, room: int, rules: GenerationConfig) -> Tensor:
    """Write texts until all have ended or there is no more room.

    Args:
        step: Takes new tokens `(b, n)` and what it kept of those before (None at first); gives scores `(b, words)` of the next
            token, and what to keep.
        prompt: `(b, n)` tokens that the texts begin with.
        room: Tokens to write at most.
        rules: Which tokens are never written, which not at first, and which end a text.

    Returns:
        `(b, at most room)`: the texts without prompt and end, filled up with `pad_token_id`.
    """
    ends = as_list(rules.eos_token_id)
    padding = rules.pad_token_id if rules.pad_token_id is not None else (ends or [0])[0]
    never, not_first = as_list(rules.suppress_tokens), as_list(rules.begin_suppress_tokens)
    ended = torch.zeros(len(prompt), dtype=torch.bool, device=prompt.device)
    written: list[Tensor] = []
    tokens, kept = prompt, None
    for place in range(room):
        scores, kept = step(tokens, kept)
        out = [token for token in (*never, *(() if place else not_first)) if 0 <= token < scores.shape[-1]]
        scores[:, out] = -torch.inf
        best = scores.argmax(-1)
        ended = ended | torch.isin(best, torch.tensor(ends, dtype=best.dtype, device=best.device))
        if bool(ended.all()):
            break
        written.append(best.masked_fill(ended, padding))
        tokens = written[-1][:, None]
    return torch.stack(written, 1) if written else prompt.new_zeros(len(prompt), 0)


def as_list(tokens: int | Sequence[int] | None) -> list[int]:
    """Tokens as a list, from one, several or none."""
    return [] if tokens is None else [tokens] if isinstance(tokens, int) else list(tokens)
