"""Memory for results of many megabytes, in huge pages where the system has them.

malloc asks the system anew for every block above some 32 MB and gives it back when it is freed, and a fresh block costs one fault
for every 4 kB that is first written: 83 MB took 24 ms to fill on the machine of `benchmarks/`, 3 ms of it the writing. In pages
of 2 MB it takes 6 ms.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

FROM = 2**25
"""Bytes from which memory is asked for in huge pages: what malloc gives back to the system at once."""
_ADVICE = getattr(mmap, "MADV_HUGEPAGE", None)  # Linux


def empty(shape: Sequence[int], dtype: torch.dtype = torch.float32, *, beside: int = 1) -> Tensor:
    """Return a contiguous CPU tensor whose values are whatever the memory held, as `torch.empty`.

    Args:
        shape: Its shape.
        dtype: Its dtype.
        beside: How many tensors of this size are made to be kept together: it is what all of them take that counts.
    """
    found = _huge(shape, dtype, beside)
    return torch.empty(*shape, dtype=dtype) if found is None else found


def zeros(shape: Sequence[int], dtype: torch.dtype = torch.float32, *, beside: int = 1) -> Tensor:
    """Return a contiguous CPU tensor of zeros; arguments as in `empty`."""
    found = _huge(shape, dtype, beside)  # fresh memory is zero
    return torch.zeros(*shape, dtype=dtype) if found is None else found


def _huge(shape: Sequence[int], dtype: torch.dtype, beside: int) -> Tensor | None:
    """Fresh memory in huge pages; None where malloc's serves as well."""
    size = math.prod(shape) * dtype.itemsize
    if _ADVICE is None or size * beside < FROM or size * 8 < FROM:  # small ones would waste the ends of their pages
        return None
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel that was built without them: pages of the usual size
        memory.madvise(_ADVICE)
    return torch.frombuffer(memory, dtype=dtype).view(*shape)
