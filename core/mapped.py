"""A safetensors file mapped into memory: tensors are parts of it, nothing is copied, and what is written to one stays in memory.

The mapping is private: pages are read when they are first used, and a page that is written to becomes the process's own. It is of
the file that stood there when it was opened, and outlives a rename over it and its removal, which is how vertebra saves. A file
that is shortened in place takes the pages with it, as it does from every program that has it mapped.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vertebra.headers import DamagedFile, damaged, read_header

ATTEMPTS = 10
"""How often a file may be replaced in the moment between reading its header and mapping it."""
DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "F8_E5M2": torch.float8_e5m2, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz, "F8_E4M3FNUZ": torch.float8_e4m3fnuz, "I16": torch.int16, "U16": torch.uint16,
    "F16": torch.float16, "BF16": torch.bfloat16, "I32": torch.int32, "U32": torch.uint32, "F32": torch.float32,
    "I64": torch.int64, "U64": torch.uint64, "F64": torch.float64, "C64": torch.complex64,
} if sys.byteorder == "little" else {}  # fmt: skip
"""Numbers that stand in files as they do in this machine's memory, by safetensors' name of their dtype."""


class MappedFile:
    """The tensors of a safetensors file by name.

    Args:
        path: The file.

    Raises:
        OSError: it is no whole safetensors file, or cannot be mapped.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        for _ in range(ATTEMPTS):
            self._state = _state(path)
            self.facts = read_header(path)
            try:
                self._bytes = torch.UntypedStorage.from_file(str(path), False, self._state[0])
            except RuntimeError as error:
                if _state(path) == self._state:
                    raise OSError(f"{str(path)!r} cannot be mapped into memory: {error}") from error
            if _state(path) == self._state:  # so the header is that of the file that is mapped
                return
        raise DamagedFile(
            f"{str(path)!r} was replaced {ATTEMPTS} times while it was opened; load it when it is complete."
        )

    def tensor(self, name: str) -> Tensor:
        """The tensor called `name`, with a storage of its own, so that saving or sending one takes no other along."""
        fact = self.facts[name]
        if fact.dtype not in DTYPES:
            return self._by_library(name)
        storage = self._bytes[fact.start : fact.start + fact.size_bytes]
        empty: Any = torch.empty(0, dtype=DTYPES[fact.dtype], device="cpu")
        tensor: Tensor = empty.set_(storage, 0, fact.shape)
        return tensor

    def check(self) -> None:
        """Look whether the file is as it was; another file in its place does no harm.

        Raises:
            OSError: it was written to or shortened in place.
        """
        size, _, *file = self._state
        try:
            now = _state(self.path)
        except FileNotFoundError:
            return
        if now != self._state and [*now[2:]] == file:
            raise damaged(repr(str(self.path)), f"it had {size:,} bytes and was written to while it was loaded", b"")

    def _by_library(self, name: str) -> Tensor:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, framework="pt") as file:
                tensor: Tensor = file.get_tensor(name)
                return tensor
        except SafetensorError as error:
            raise damaged(repr(str(self.path)), error, b"") from error


def _state(path: Path) -> tuple[int, ...]:
    """Size, time of the last change, and number of a file."""
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns, facts.st_dev, facts.st_ino
