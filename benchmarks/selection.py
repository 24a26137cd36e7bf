"""An early selection, stage 1 alone, against the same selection of transformers, which keeps and runs all stages.

Run: python benchmarks/selection.py
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from networks import beside_transformers, maps, operations
from pairs import Case
from run import main

NETWORKS = {"Swin-T": "Swin", "ResNet-50": "ResNet"}
BATCH, SIZE = 8, 224
ASKED = 2.75


def cases() -> Iterator[Case]:
    pixels = torch.randn(BATCH, 3, SIZE, SIZE)
    for label, name in NETWORKS.items():
        ours, theirs = beside_transformers(name, [1])
        held = f"ours holds {ours.num_parameters() / 1e6:.1f} M parameters, transformers' {theirs.num_parameters() / 1e6:.1f} M"
        yield Case(
            f"{label}, stage 1, {BATCH} of {SIZE}x{SIZE}",
            "transformers",
            maps(ours, pixels),
            maps(theirs, pixels),
            asked=ASKED,
            operations=operations(ours, pixels),
            remark=held,
        )


if __name__ == "__main__":
    main(__file__)
