"""Post-processing of 100 queries and 150 classes, against transformers: time, and peak memory above that of the inputs.

Run: python benchmarks/post_processing.py [--rounds 3]

`blobs` are like a trained model's outputs: smooth masks, of which most are sure of their class. `noise` is the worst case: every
class and every query may win at every pixel. Outputs are compared first. Times are of one process that alternates the two;
memory is the high-water mark of a fresh process for each side, less what it held when the inputs were there (Linux).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from pairs import alternate, row

from vertebra import MaskFormerImageProcessor, SegformerImageProcessor

QUERIES, CLASSES = 100, 150
LARGE, PHOTO = (2048, 2048), (427, 640)
OURS = {"queries": MaskFormerImageProcessor(), "pixels": SegformerImageProcessor()}
THEIRS = {"queries": transformers.MaskFormerImageProcessor(), "pixels": transformers.SegformerImageProcessor()}
SEMANTIC, INSTANCE, PANOPTIC = (f"post_process_{task}_segmentation" for task in ("semantic", "instance", "panoptic"))

# name: what the model predicts, the inputs' kind and size, the method and its arguments
CASES: dict[str, tuple[str, str, tuple[int, int], str, dict[str, Any]]] = {
    "semantic, 2048x2048, blobs": ("queries", "blobs", (512, 512), SEMANTIC, {"target_sizes": [LARGE]}),
    "semantic, 2048x2048, noise": ("queries", "noise", (512, 512), SEMANTIC, {"target_sizes": [LARGE]}),
    "panoptic, 2048x2048, blobs": ("queries", "blobs", (512, 512), PANOPTIC, {"target_sizes": [LARGE]}),
    "panoptic, 2048x2048, noise": ("queries", "noise", (512, 512), PANOPTIC, {"target_sizes": [LARGE]}),
    "instance, 2048x2048, blobs": ("queries", "blobs", (512, 512), INSTANCE, {"target_sizes": [LARGE]}),
    "instance, 2048x2048, noise": ("queries", "noise", (512, 512), INSTANCE, {"target_sizes": [LARGE]}),
    "semantic, 427x640, blobs": ("queries", "blobs", (128, 192), SEMANTIC, {"target_sizes": [PHOTO]}),
    "semantic, 427x640, noise": ("queries", "noise", (128, 192), SEMANTIC, {"target_sizes": [PHOTO]}),
    "semantic of logits, 427x640, blobs": ("pixels", "blobs", (128, 128), SEMANTIC, {"target_sizes": [PHOTO]}),
    "semantic of logits, 427x640, noise": ("pixels", "noise", (128, 128), SEMANTIC, {"target_sizes": [PHOTO]}),
}
THRESHOLDS: dict[tuple[str, str], dict[str, float]] = {
    (PANOPTIC, "blobs"): {"threshold": 0.5, "mask_threshold": 0.5, "overlap_mask_area_threshold": 0.3},
    (PANOPTIC, "noise"): {"threshold": 0.01, "mask_threshold": 0.01, "overlap_mask_area_threshold": 0.0},
    (INSTANCE, "blobs"): {"threshold": 0.5},
    (INSTANCE, "noise"): {"threshold": 0.03},
}
"""In `noise` so low that all queries are worked on."""


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


def outputs(name: str) -> SimpleNamespace:
    """Seeded outputs of a model for a case."""
    model, kind, size, _, _ = CASES[name]
    generator = torch.Generator().manual_seed(0)
    if model == "pixels":
        return SimpleNamespace(logits=maps(CLASSES, size, kind, generator))
    classes = torch.randn(1, QUERIES, CLASSES + 1, generator=generator)
    if kind == "blobs":
        sure = torch.randint(0, CLASSES, (QUERIES,), generator=generator)
        classes[0, torch.arange(QUERIES), sure] += 9
    return SimpleNamespace(class_queries_logits=classes, masks_queries_logits=maps(QUERIES, size, kind, generator))


def task(name: str, side: dict[str, Any], **more: Any) -> Callable[[], Any]:
    """The call of one side for a case."""
    model, kind, _, method, arguments = CASES[name]
    arguments = {**THRESHOLDS.get((method, kind), {}), **arguments}
    if method == PANOPTIC:
        arguments = {"label_ids_to_fuse": set(), **arguments}
    return partial(getattr(side[model], method), outputs(name), **arguments, **more)


def check(name: str) -> None:
    """Compare results where both sides are right: instances without dropping what is covered, in transformers' order."""
    ours = task(name, OURS, **({"compat": True} if CASES[name][3] == INSTANCE else {}))()
    theirs = task(name, THEIRS)()
    for here, there in zip(ours, theirs, strict=True):
        if isinstance(there, dict):
            assert here["segments_info"] == there["segments_info"], f"{name}: segments differ"
            here, there = here["segmentation"], there["segmentation"]
        assert torch.equal(here, there), f"{name}: maps differ"


def memory(name: str, side: str) -> float:
    """Peak MiB of one run in a fresh process, above what the process held before."""
    done = subprocess.run([sys.executable, __file__, "--child", name, side], capture_output=True, text=True, check=True)
    return float(done.stdout)


def child(name: str, side: str) -> None:
    run = task(name, OURS if side == "ours" else THEIRS)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the mark is of making the inputs till now
    held = resident("VmRSS")
    run()
    print(resident("VmHWM") - held)


def resident(field: str) -> float:
    """A field of Linux's account of this process in MiB (`ru_maxrss` would begin with the parent's)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def main(rounds: int) -> None:
    print(
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, transformers {transformers.__version__}, one image"
    )
    print(f"{'':<44} {'vertebra':>11} {'transformers':>11}  ratio  (quartiles)   peak MiB, ratio")
    for name in CASES:
        check(name)
        line = row(name, *alternate(task(name, OURS), task(name, THEIRS), rounds))
        ours, theirs = memory(name, "ours"), memory(name, "theirs")
        print(f"{line}   {ours:6.0f} {theirs:6.0f} {theirs / ours:5.1f}x", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=2)
    given = parser.parse_args()
    if given.child:
        child(*given.child)
    else:
        main(given.rounds)
