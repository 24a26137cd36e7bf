"""What importing costs over torch's own import: vertebra's classes against transformers' same ones, a fresh interpreter each time.

Both import torch first; what follows is timed. It fails where vertebra adds more than `LIMIT` seconds. `EVERY=1` adds a class that
needs its model.

Run: python benchmarks/import_cost.py (or make bench-import)
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

import torch
from pairs import Case
from report import EVERY
from run import main
from torch import Tensor

LIMIT = 0.15
ASKED = {"AutoBackbone": 6.0, "MaskFormerForInstanceSegmentation": None}
TIMED = """
import time, torch
start = time.perf_counter()
from {package} import {names}
taken = time.perf_counter() - start
print(taken, *(found.__name__ for found in ({names},)))
"""


def cases() -> Iterator[Case]:
    for names, asked in ASKED.items():
        if not (asked or EVERY):
            continue
        yield Case(
            f"from … import {names}",
            "transformers",
            partial(imported, "vertebra", names),
            partial(imported, "transformers", names),
            outputs=spelled,
            seconds=lambda printed: float(printed[0]),
            asked=asked,
            rounds=3,
            limit=LIMIT if asked else None,
        )


def imported(package: str, names: str) -> list[str]:
    """Seconds that the import took, and the names of the classes."""
    quiet = {**os.environ, "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "ignore", "-c", TIMED.format(package=package, names=names)]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=quiet).stdout.split()


def spelled(printed: list[str]) -> Iterator[Tensor]:
    """The names of the classes, as the numbers of their letters."""
    for name in printed[1:]:
        yield torch.tensor([*name.encode()])


if __name__ == "__main__":
    main(__file__)
