"""What goes wrong with one item of many."""

from __future__ import annotations

from typing import Any

LONGEST = 60


class PipelineItemError(ValueError):
    """An item that cannot be used. `index` counts items from 0; `__cause__` is the error itself."""

    def __init__(self, index: int, message: str) -> None:
        super().__init__(message)
        self.index = index

    def __reduce__(self) -> Any:
        return type(self), (self.index, str(self))


def shown(item: Any) -> str:
    """An item in an error: texts and numbers as they are, if short, and the type of everything else."""
    text = repr(item) if isinstance(item, (str, bytes, int, float, type(None))) else f"a {type(item).__name__}"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
