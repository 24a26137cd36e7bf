"""Peak memory of a forward pass, above that of the model and its images, against transformers.

Each side runs once, in a fresh process that has both models with all weights read. `EVERY=1` adds Mask2Former.

Run: python benchmarks/memory.py
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import transformers
from networks import beside_transformers, in_memory, maps, noisy
from pairs import Case
from report import EVERY
from run import main
from torch import Tensor

from vertebra import Mask2FormerForUniversalSegmentation

BACKBONES = {"Swin-T": "Swin", "ResNet-50": "ResNet"}
BATCH, SIZE = 8, 224
SIDE = 512


def cases() -> Iterator[Case]:
    for label, name in BACKBONES.items():
        pixels = torch.randn(BATCH, 3, SIZE, SIZE)
        ours, theirs = beside_transformers(name, [1, 2, 3, 4])
        title = f"{label}, four stages, {BATCH} of {SIZE}x{SIZE}"
        yield Case(title, "transformers", maps(ours, pixels), maps(theirs, pixels), rounds=0, memory=True)
    if not EVERY:
        return
    below = transformers.SwinConfig(out_indices=[1, 2, 3, 4])
    config = transformers.Mask2FormerConfig(backbone_config=below, num_labels=80)
    theirs = noisy(transformers.Mask2FormerForUniversalSegmentation(config))
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = in_memory(Mask2FormerForUniversalSegmentation.from_pretrained(folder))
    image = torch.randn(1, 3, SIDE, SIDE)
    title = f"Mask2Former over Swin-T, one of {SIDE}x{SIDE}"
    yield Case(
        title, "transformers", partial(logits, ours, image), partial(logits, theirs, image), rounds=0, memory=True
    )


def logits(model: Any, image: Tensor) -> list[Tensor]:
    """Of classes and of masks."""
    with torch.inference_mode():
        found = model(image)
    return [found.class_queries_logits, found.masks_queries_logits]


if __name__ == "__main__":
    main(__file__)
