"""Checks that configurations of speech models share; they need no torch."""

from __future__ import annotations

from vertebra.config import PreTrainedConfig


def check_shares(config: PreTrainedConfig, parts: str, whole: str, what: str = "attention heads") -> None:
    """Check that channels can be shared equally.

    Args:
        config: The configuration.
        parts: Key of how many share them.
        whole: Key of how many there are.
        what: Who shares them.

    Raises:
        ValueError: they cannot be.
    """
    count, channels = getattr(config, parts), getattr(config, whole)
    if count < 1 or channels % count:
        raise ValueError(
            f"{parts}={count} {what} cannot share {whole}={channels} channels equally; choose a divisor of {channels}."
        )


def check_lengths(config: PreTrainedConfig, what: str, *keys: str) -> None:
    """Check that lists say something of the same number of things.

    Args:
        config: The configuration.
        what: What each entry is of.
        *keys: Keys of the lists.

    Raises:
        ValueError: their lengths differ.
    """
    lengths = {key: len(getattr(config, key)) for key in keys}
    if len(set(lengths.values())) > 1:
        described = ", ".join(f"{key} {length}" for key, length in lengths.items())
        raise ValueError(f"Each {what} has an entry in {', '.join(keys[:-1])} and {keys[-1]}; got {described}.")
