"""Texts with masked tokens to what may stand there."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from vertebra.pipelines.base import Piece, Row
from vertebra.pipelines.texts import TextPipeline, as_text

logger = logging.getLogger("vertebra")
USUAL = 5
"""Tokens for a mask, unless told."""


class FillMaskPipeline(TextPipeline):
    """What may stand at a masked token: `[{"score": float, "token": int, "token_str": str, "sequence": str}, …]`, the best first.

    For a text with several masks a list of such lists, one for each mask on its own. A list of one text has the answer of the text,
    as in transformers.
    """

    task = "fill-mask"
    _targets: Mapping[Sequence[str], Sequence[int]] = {}
    """The targets that were looked up last, so that a vocabulary is read once a call rather than once a text."""

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Fill masks; see `Pipeline.__call__`."""
        found = super().__call__(inputs, **kwargs)
        return found[0] if isinstance(inputs, list) and len(inputs) == 1 else found

    def prepare(self, item: Any, *, tokenizer_kwargs: Mapping[str, Any] | None = None) -> Sequence[Piece]:
        """Tokenize a text.

        Args:
            item: A text with the tokenizer's mask token, `[MASK]` for BERT.
            tokenizer_kwargs: Arguments of the tokenizer's call, such as `truncation`.

        Raises:
            ValueError: the text has no mask, or the tokenizer none to look for.
        """
        if self.tokenizer.mask_token_id is None:
            raise ValueError(f"{type(self.tokenizer).__name__} has no mask token; set tokenizer.mask_token.")
        inputs = self.encoded(as_text(item), **(tokenizer_kwargs or {}))
        if not (inputs["input_ids"] == self.tokenizer.mask_token_id).any():
            raise ValueError(
                f"the text has no {self.tokenizer.mask_token}, the token that is to be filled in: {item!r}."
            )
        return [Piece(inputs, context=inputs["input_ids"])]

    def check(self, options: Mapping[str, Any]) -> None:
        """Refuse a `top_k` that is no number above 0, and targets of which none has a token."""
        top_k = options.get("top_k")
        if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
            raise ValueError(f"top_k={top_k!r} must be 1 or more, or None for {USUAL}.")
        if options.get("targets") is not None:
            self._tokens(options["targets"])

    def answer(
        self, rows: Sequence[Row], *, top_k: int | None = USUAL, targets: str | Sequence[str] | None = None
    ) -> list[dict[str, Any]] | list[list[dict[str, Any]]]:
        """Rank the tokens.

        Args:
            rows: What the model said.
            top_k: How many tokens; None for 5.
            targets: Only these words are considered. One that is not in the vocabulary is represented by its first token.
        """
        (row,) = rows
        tokens: Tensor = row.context
        places = (tokens == self.tokenizer.mask_token_id).nonzero().flatten().tolist()
        scores = row.output["logits"][0, places].float().softmax(-1).cpu()
        wanted = range(scores.shape[1]) if targets is None else self._tokens(targets)
        best = (scores if targets is None else scores[:, wanted]).topk(
            min(USUAL if top_k is None else top_k, len(wanted))
        )
        found = []
        for place, values, numbers in zip(places, best.values.tolist(), best.indices.tolist(), strict=True):
            pairs = [(score, wanted[number]) for score, number in zip(values, numbers, strict=True)]
            found.append([self._filled(tokens, place, score, token, len(places) == 1) for score, token in pairs])
        return found[0] if len(found) == 1 else found

    def _filled(self, tokens: Tensor, place: int, score: float, token: int, is_only: bool) -> dict[str, Any]:
        filled = tokens.clone()
        filled[place] = token
        if self.tokenizer.pad_token_id is not None:
            filled = filled[filled != self.tokenizer.pad_token_id]
        # the other masks of a text are special tokens as well, and stay
        sequence = self.tokenizer.decode(filled.tolist(), skip_special_tokens=is_only)
        return {"score": score, "token": token, "token_str": self.tokenizer.decode([token]), "sequence": sequence}

    def _tokens(self, targets: str | Sequence[str]) -> Sequence[int]:
        """The numbers of words, each once; what is not one token is its first."""
        words = (targets,) if isinstance(targets, str) else tuple(targets)
        if words not in self._targets:
            self._targets = {words: self._looked_up(words)}
        return self._targets[words]

    def _looked_up(self, words: Sequence[str]) -> Sequence[int]:
        vocabulary = self.tokenizer.get_vocab()
        numbers = []
        for word in words:
            if (number := vocabulary.get(word)) is None:
                ids = self.tokenizer(word, add_special_tokens=False)["input_ids"]
                if not ids:
                    logger.warning("fill-mask: the target %r has no token and is left out.", word)
                    continue
                number = ids[0]
                stands = self.tokenizer.convert_ids_to_tokens(number)
                logger.warning("fill-mask: the target %r is no token of its own; %r stands for it.", word, stands)
            numbers.append(number)
        if not numbers:
            raise ValueError(f"targets={list(words)!r} has no word with a token; give at least one.")
        return list(dict.fromkeys(numbers))
