"""Post-processing of 100 queries and 150 classes, against transformers.

`blobs` are like a trained model's outputs: smooth masks, of which most are sure of their class. `noise` is the worst case: every
class and every query may win at every pixel. Maps and segments are the same to the bit. Instances are those of `compat=True`,
which are transformers'; without it the same work drops what is covered. The cases that `EVERY=1` adds take transformers minutes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from pairs import Case
from report import EVERY
from run import main
from torch import Tensor

from vertebra import MaskFormerImageProcessor, SegformerImageProcessor

QUERIES, CLASSES = 100, 150
SIZES = {"427x640": ((427, 640), (128, 192)), "2048x2048": ((2048, 2048), (512, 512))}
OURS = {"queries": MaskFormerImageProcessor(), "pixels": SegformerImageProcessor()}
THEIRS = {"queries": transformers.MaskFormerImageProcessor(), "pixels": transformers.SegformerImageProcessor()}

# task: what the model predicts, and what the call is given; in `noise` thresholds so low that all queries are worked on
TASKS: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "semantic": ("queries", {"blobs": {}, "noise": {}}),
    "semantic of logits": ("pixels", {"blobs": {}, "noise": {}}),
    "panoptic": (
        "queries",
        {
            "blobs": {"overlap_mask_area_threshold": 0.3, "label_ids_to_fuse": set()},
            "noise": {
                "threshold": 0.01,
                "mask_threshold": 0.01,
                "overlap_mask_area_threshold": 0.0,
                "label_ids_to_fuse": set(),
            },
        },
    ),
    "instance": ("queries", {"blobs": {"threshold": 0.5}, "noise": {"threshold": 0.03}}),
}
USUAL = {"semantic, 2048x2048, blobs"}
"""The large cases of every run."""
WEIGHED = {
    "semantic, 427x640, noise",
    "panoptic, 427x640, noise",
    "instance, 427x640, noise",
    "semantic, 2048x2048, blobs",
}
"""Those whose memory is measured in every run."""


def cases() -> Iterator[Case]:
    for size in SIZES:
        for task in TASKS:
            for kind in ("blobs", "noise"):
                name = f"{task}, {size}, {kind}"
                large = size != "427x640"
                if EVERY or not large or name in USUAL:
                    model, arguments = TASKS[task]
                    target, shape = SIZES[size]
                    given = {**arguments[kind], "outputs": outputs(model, shape, kind), "target_sizes": [target]}
                    method = f"post_process_{task.split()[0]}_segmentation"
                    compat = {"compat": True} if task == "instance" else {}
                    yield Case(
                        name,
                        "transformers",
                        partial(getattr(OURS[model], method), **given, **compat),
                        partial(getattr(THEIRS[model], method), **given),
                        outputs=tensors,
                        tolerance=0,
                        asked=2,
                        rounds=2 if large else 7,
                        asked_memory=3 if EVERY or name in WEIGHED else None,
                    )


def tensors(results: list[Any]) -> Iterator[Tensor]:
    """Maps, and segments as numbers."""
    for result in results:
        if isinstance(result, Tensor):
            yield result
            continue
        yield result["segmentation"]
        keys = ("id", "label_id", "was_fused", "score")
        yield torch.tensor([[float(one[key]) for key in keys] for one in result["segments_info"]], dtype=torch.float64)


def outputs(model: str, size: tuple[int, int], kind: str) -> SimpleNamespace:
    """Seeded outputs of a model."""
    generator = torch.Generator().manual_seed(0)
    if model == "pixels":
        return SimpleNamespace(logits=maps(CLASSES, size, kind, generator))
    classes = torch.randn(1, QUERIES, CLASSES + 1, generator=generator)
    if kind == "blobs":
        sure = torch.randint(0, CLASSES, (QUERIES,), generator=generator)
        classes[0, torch.arange(QUERIES), sure] += 9
    return SimpleNamespace(class_queries_logits=classes, masks_queries_logits=maps(QUERIES, size, kind, generator))


def maps(count: int, size: tuple[int, int], kind: str, generator: torch.Generator) -> torch.Tensor:
    """Return logits `(1, count, *size)`."""
    if kind == "noise":
        return torch.randn(1, count, *size, generator=generator)
    y, x = torch.meshgrid(*(torch.linspace(0, 1, side) for side in size), indexing="ij")
    centre, radius = (
        torch.rand(2, count, 1, 1, generator=generator),
        0.05 + 0.2 * torch.rand(count, 1, 1, generator=generator),
    )
    distance = ((y - centre[0]) ** 2 + (x - centre[1]) ** 2).sqrt()
    rough = F.interpolate(torch.randn(1, count, 16, 16, generator=generator), size=size, mode="bicubic")
    return 30 * (radius - distance)[None] + rough


if __name__ == "__main__":
    main(__file__)
