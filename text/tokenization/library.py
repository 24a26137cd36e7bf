"""The `tokenizers` library: imported when it is needed, and its files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def read_pipeline(path: Any) -> Tokenizer:
    """Read a `tokenizer.json`.

    Raises:
        ImportError: the `tokenizers` library is not installed.
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or of a version of the library that this one does not know.
    """
    tokenizers = import_tokenizers()
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"tokenizer_file={os.fspath(path)!r} does not exist; it is the tokenizer.json of a checkpoint."
        )
    try:
        return tokenizers.Tokenizer.from_file(os.fspath(path))
    except Exception as error:  # the library raises nothing more special
        raise ValueError(
            f"{os.fspath(path)!r} is not a tokenizer.json that tokenizers {tokenizers.__version__} reads: {error}. Fetch the file "
            f"again; without it, the tokenizer is built from the vocabulary's own files where they are there."
        ) from error


def import_tokenizers() -> Any:
    """Return the `tokenizers` library. Raises ImportError that says how to do without."""
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError(
            "Fast tokenizers need the package 'tokenizers': pip install 'vertebra[text]'. The ones in plain Python give the same: "
            "AutoTokenizer.from_pretrained(…, use_fast=False)."
        ) from error
    return tokenizers
