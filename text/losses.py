"""What is lost by wrong tokens, wrong pairs of texts, and wrong places of answers."""

from __future__ import annotations

from torch import Tensor

from vertebra.losses import at_hand, class_loss


def token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy of the tokens that count."""
    return class_loss(logits, labels, hint="It has to be a token of the model's vocabulary.")


def pair_loss(logits: Tensor, labels: Tensor, name: str = "labels") -> Tensor:
    """Mean cross entropy of whether texts follow each other."""
    return class_loss(
        logits, labels.flatten(), name, hint="0 says that the second text follows the first, 1 that it does not."
    )


def place_loss(logits: Tensor, places: Tensor, name: str) -> Tensor:
    """Mean cross entropy of places `(b,)` or `(b, 1)` among `(b, n)` scores; those beyond the text do not count.

    Raises:
        ValueError: a place below 0 (looked at on a CPU and outside captured graphs).
    """
    places, beyond = places.flatten(), logits.shape[1]
    if at_hand(places) and (places < 0).any():
        raise ValueError(
            f"{name} holds {places.min().item()}; tokens are numbered from 0. For a text without an answer give the first token, "
            f"0, or {beyond}, which counts in no loss."
        )
    return class_loss(logits, places.clamp(max=beyond), name, ignored=beyond)
