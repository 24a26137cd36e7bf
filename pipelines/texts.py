"""What the pipelines of texts share: how a text becomes rows of a batch."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from vertebra.errors import listing
from vertebra.pipelines.base import Pipeline

OVERFLOW = "overflow_to_sample_mapping"


def as_text(item: Any, name: str = "a text", more: str = "") -> str:
    """Return a text as it is.

    Args:
        item: The text.
        name: What it is, for the error.
        more: A further sentence of it.

    Raises:
        TypeError: it is none; says what it is.
    """
    if isinstance(item, str):
        return item
    advice = "."
    if isinstance(item, Mapping):
        advice = f" with the keys {listing(map(repr, item))}; give what is under one of them."
    elif isinstance(item, (bytes, bytearray)):
        advice = "; decode it: value.decode('utf-8')."
    elif isinstance(item, (list, tuple)):
        advice = "; give several texts as one flat list."
    raise TypeError(f"{name} is a str, not a {type(item).__name__}{advice}{more and ' '}{more}")


class TextPipeline(Pipeline):
    """Base of pipelines whose items are texts. Those of a batch are padded to the longest, which changes no result."""

    needs: ClassVar[tuple[str, ...]] = ("tokenizer",)
    an_item = "a text"

    def encoded(self, *texts: Any, **settings: Any) -> dict[str, Tensor]:
        """Tokenize a text or a pair of texts: the tensors of the tokenizer, without the axis of the batch.

        Raises:
            ValueError: there is no token in it.
        """
        found = self.tokenizer(*texts, return_tensors="pt", **settings)
        return {name: self._filled_in(value[0], texts) for name, value in found.items()}

    def windows(self, *texts: Any, **settings: Any) -> list[tuple[dict[str, Tensor], Any]]:
        """Tokenize a text of any length, or a pair of them.

        Args:
            *texts: The texts.
            **settings: Arguments of the tokenizer's call: `truncation` and `max_length` say how long a window is, `stride` how many
                tokens it shares with the one before.

        Returns:
            For each window the tensors of the tokenizer, without the axis of the batch, and its encoding, which says where tokens
            come from.

        Raises:
            ValueError: there is no token in it.
        """
        found = self.tokenizer(*texts, return_overflowing_tokens=True, **settings)
        names = [name for name in found if name != OVERFLOW]
        return [
            ({name: self._filled_in(torch.tensor(found[name][at]), texts) for name in names}, encoding)
            for at, encoding in enumerate(found.encodings)
        ]

    def _filled_in(self, row: Tensor, texts: Sequence[Any]) -> Tensor:
        if row.numel() == 0:
            raise ValueError(f"{' and '.join(map(repr, texts))} has no token for {type(self.model).__name__} to read.")
        return row

    def placeless(self, what: str) -> ValueError:
        """The error of a tokenizer that does not know where in a text its tokens stand."""
        return ValueError(
            f"{what} needs to know where in a text tokens stand, which {type(self.tokenizer).__name__} does not say; use a fast "
            f"tokenizer, or let yours define _pieces instead of _tokenize."
        )

    def alike(self, inputs: Mapping[str, Any]) -> Hashable:
        """Texts of any length share a batch, where the tokenizer has a token to fill them up with."""
        return None if self.tokenizer.pad_token is not None else super().alike(inputs)

    def gather(self, inputs: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Pad texts to the longest of them, behind their ends: places counted from the first token stay what they are alone."""
        if len(inputs) == 1:
            return super().gather(inputs)
        rows = [dict(one) for one in inputs]
        padded: Mapping[str, Any] = self.tokenizer.pad(rows, padding_side="right", return_tensors="pt")
        return padded
