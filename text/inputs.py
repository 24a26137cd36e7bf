"""What models of text are given: checked, with errors that say what to do, and brought into one form."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vertebra.checks import WRAPPING, check_tensors
from vertebra.losses import at_hand, check_range

TOKENIZING = "tokenizer(texts, padding=True, return_tensors='pt')"


class TextInputs(NamedTuple):
    """The arguments of a forward that describe texts.

    Args:
        input_ids: `(b, n)` tokens.
        attention_mask: `(b, n)`, 1 for tokens and 0 for padding; or `(b, n, n)`, 1 where the first token may attend to the second.
        token_type_ids: `(b, n)` kinds of token.
        position_ids: `(b, n)`, `(1, n)` or `(n)` places.
        inputs_embeds: `(b, n, width)` vectors in place of `input_ids`.
    """

    input_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    token_type_ids: Tensor | None = None
    position_ids: Tensor | None = None
    inputs_embeds: Tensor | None = None

    @property
    def content(self) -> Tensor:
        """`input_ids`, or `inputs_embeds` in place of them.

        Raises:
            TypeError: an argument is no tensor.
            ValueError: both are given, or neither.
        """
        check_tensors(self._asdict(), f"give the tokenizer return_tensors='pt', or {WRAPPING}")
        if self.input_ids is not None and self.inputs_embeds is None:
            return self.input_ids
        if self.inputs_embeds is not None and self.input_ids is None:
            return self.inputs_embeds
        given = "neither" if self.input_ids is None else "both"
        raise ValueError(
            f"Give either input_ids, as {TOKENIZING} makes them, or inputs_embeds in place of them; got {given}."
        )


def check_texts(inputs: TextInputs, words: int, width: int, longest: int, kinds: int) -> tuple[Tensor, Tensor]:
    """Check the texts, and count their places where nobody says.

    Args:
        inputs: The arguments.
        words: How many tokens the model knows.
        width: Its channels.
        longest: The most tokens a text may have.
        kinds: How many kinds of token it knows; 0 for none.

    Returns:
        `(b, n)` tokens or `(b, n, width)` vectors, and `(1, n)` or `(b, n)` places.

    Raises:
        TypeError: an argument is no tensor.
        ValueError: a shape, a dtype or a value that does not fit; names the argument and what is allowed. Values are looked at on a
            CPU and outside captured graphs.
    """
    content = inputs.content
    if inputs.inputs_embeds is None:
        _check_numbers(content, "input_ids", content.shape[:2] if content.ndim >= 2 else None)
        check_range(
            content,
            words,
            "input_ids",
            "Either the tokenizer is another model's, or it has new tokens: model.resize_token_embeddings(len(tokenizer)).",
        )
    elif content.ndim != 3 or content.shape[2] != width or not content.is_floating_point():
        raise ValueError(
            f"inputs_embeds of shape {tuple(content.shape)} and dtype {content.dtype} must be floating-point vectors (batch, "
            f"tokens, {width})."
        )
    batch, length = content.shape[:2]
    if length < 1:
        raise ValueError("The texts have no tokens; even an empty one has the tokenizer's special tokens.")
    if length > longest:
        raise ValueError(
            f"The texts have {length} tokens, and the model knows {longest} places (max_position_embeddings): cut them with "
            f"tokenizer(…, truncation=True, max_length={longest}), or split them."
        )
    if inputs.token_type_ids is not None:
        if not kinds:
            raise ValueError(
                "This model has no token types: leave token_type_ids out, e.g. with tokenizer(…, return_token_type_ids=False)."
            )
        _check_numbers(inputs.token_type_ids, "token_type_ids", (batch, length))
        check_range(inputs.token_type_ids, kinds, "token_type_ids", f"The model has type_vocab_size={kinds} kinds.")
    if inputs.position_ids is None:
        return content, torch.arange(length, device=content.device)[None]
    positions = inputs.position_ids[None] if inputs.position_ids.ndim == 1 else inputs.position_ids
    rows = 1 if positions.ndim and positions.shape[0] == 1 else batch
    _check_numbers(positions, "position_ids", (rows, length))
    check_range(positions, longest, "position_ids", f"The model has max_position_embeddings={longest} places.")
    return content, positions


def _check_numbers(values: Tensor, name: str, shape: tuple[int, ...] | None) -> None:
    whole = values.dtype in (torch.int64, torch.int32)
    if not whole or values.ndim != 2 or tuple(values.shape) != shape:
        expected = "(batch, tokens)" if name == "input_ids" else str(shape)
        raise ValueError(
            f"{name} of shape {tuple(values.shape)} and dtype {values.dtype} must be whole numbers (torch.int64) of shape "
            f"{expected}; {TOKENIZING} makes it."
        )


def attention_mask(mask: Tensor | None, content: Tensor) -> Tensor | None:
    """Bring a mask into the form attention takes: bool, `(b, 1, 1, n)` or `(b, 1, n, n)`, True where it may be attended to.

    Raises:
        ValueError: another shape, or (looked at on a CPU and outside captured graphs) other values than 0 and 1.
    """
    if mask is None:
        return None
    batch, length = content.shape[:2]
    if tuple(mask.shape) not in ((batch, length), (batch, length, length)):
        raise ValueError(
            f"attention_mask of shape {tuple(mask.shape)} must be {(batch, length)}, 1 for tokens and 0 for padding, or "
            f"{(batch, length, length)}, 1 where the first token may attend to the second."
        )
    if mask.dtype != torch.bool:
        if at_hand(mask) and not ((mask == 0) | (mask == 1)).all():
            raise ValueError(
                "attention_mask must be 1 where a token may be attended to and 0 where not; a mask that is added to scores (0 "
                "and a large negative number) becomes that with mask == 0."
            )
        mask = mask != 0
    return mask[:, None, None] if mask.ndim == 2 else mask[:, None]
