"""Words for errors: what was given, what exists, what was probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(value: str, options: Iterable[str]) -> str:
    """Return `" Did you mean 'x', 'y'?"` for the nearest of `options`, or an empty string when nothing is near."""
    near = get_close_matches(str(value), [str(option) for option in options], n=3, cutoff=0.6)
    return f" Did you mean {', '.join(map(repr, near))}?" if near else ""


def listing(options: Iterable[object], limit: int = 40) -> str:
    """Return `options` as one line of text, cut after `limit` entries with the count of the rest."""
    names = [str(option) for option in options]
    rest = f", … and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
