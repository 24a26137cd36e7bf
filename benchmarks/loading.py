"""Loading: `from_pretrained` of a local folder with safetensors, beside transformers and timm.

Models come from the same files; maps or logits are compared first. Both sides map the file into memory, so that neither has read
all of it when it returns. `EVERY=1` adds networks, a case that has every weight looked at as well, and the first call of a process,
which is one after the imports.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from networks import in_memory, noisy
from pairs import Case
from report import EVERY
from run import main
from torch import Tensor

import vertebra

STAGES = ["stage1", "stage2", "stage3", "stage4"]
CLASS = "transformers' class itself, since its AutoBackbone asks the network about a local folder"
BACKBONES = {
    "Swin-T": ("Swin", STAGES, 5.0),
    "ResNet-50": ("ResNet", STAGES, None),
    "ViT-B/14": ("Dinov2", ["stage12"], None),
}
FRESH = """
import time, torch
from {library} import {name}
start = time.perf_counter()
model = {name}.from_pretrained({folder!r})
seconds = time.perf_counter() - start
pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    print(seconds, *(map.abs().sum().item() for map in model(pixels).feature_maps))
"""


def cases() -> Iterator[Case]:
    """Backbones, models for segmentation, a network of timm; then what the plain call leaves out."""
    import transformers

    with tempfile.TemporaryDirectory() as made:
        for title, (name, stages, asked) in BACKBONES.items():
            if not (asked or EVERY):
                continue
            folder = f"{made}/{name}"
            theirs = getattr(transformers, f"{name}Backbone")
            config = getattr(transformers, f"{name}Config")(out_features=stages)
            noisy(theirs(config)).save_pretrained(folder)
            load = partial(vertebra.AutoBackbone.from_pretrained, folder)
            yield Case(
                title,
                "transformers",
                load,
                partial(theirs.from_pretrained, folder),
                _maps,
                asked=asked,
                rounds=15,
                remark=CLASS,
            )
        for name in ("MaskFormer", "Mask2Former") if EVERY else ("Mask2Former",):
            ending = "ForInstanceSegmentation" if name == "MaskFormer" else "ForUniversalSegmentation"
            below = transformers.SwinConfig(depths=[2, 2, 6, 2], out_features=STAGES)
            theirs = getattr(transformers, name + ending)
            folder = f"{made}/{name}"
            noisy(theirs(getattr(transformers, f"{name}Config")(backbone_config=below))).save_pretrained(folder)
            load = partial(getattr(vertebra, name + ending).from_pretrained, folder)
            yield Case(
                f"{name}, Swin-T", "transformers", load, partial(theirs.from_pretrained, folder), _logits, rounds=9
            )
        yield from _timm(f"{made}/timm", "regnety_032")
        if not EVERY:
            return
        swin = f"{made}/Swin"
        ours, theirs = vertebra.AutoBackbone.from_pretrained, transformers.SwinBackbone.from_pretrained
        sides = [lambda load=load: in_memory(load(swin)) for load in (ours, theirs)]
        yield Case("Swin-T, and every weight read", "transformers", *sides, _maps, rounds=9)
        yield Case(
            "Swin-T, first call of a process",
            "transformers",
            _fresh("vertebra", "AutoBackbone", swin),
            _fresh("transformers", "SwinBackbone", swin),
            lambda told: [torch.tensor(told[1:])],
            seconds=lambda told: told[0],
            rounds=3,
        )


def _timm(folder: str, architecture: str) -> Iterator[Case]:
    """A network that vertebra has through timm alone, beside timm."""
    import timm
    from timm.models import save_for_hf

    save_for_hf(noisy(timm.create_model(architecture)), folder, safe_serialization=True)
    source, levels = f"local-dir:{Path(folder)}", (1, 2, 3, 4)

    def theirs() -> Any:
        return timm.create_model(source, pretrained=True, features_only=True, out_indices=levels).eval()

    load = partial(vertebra.AutoBackbone.from_pretrained, folder, out_indices=levels)
    yield Case(f"timm's {architecture}", "timm", load, theirs, _maps, rounds=11)


def _pixels() -> Tensor:
    return torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def _maps(model: Any) -> list[Tensor]:
    found = model(_pixels())
    return list(getattr(found, "feature_maps", found))


@torch.no_grad()
def _logits(model: Any) -> list[Tensor]:
    found = model(_pixels())
    return [found.class_queries_logits, found.masks_queries_logits]


def _fresh(library: str, name: str, folder: str) -> Callable[[], tuple[float, ...]]:
    """A load in a process of its own: seconds after the imports, and how large its maps are in sum."""

    def run() -> tuple[float, ...]:
        code = FRESH.format(library=library, name=name, folder=folder)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return tuple(map(float, done.stdout.splitlines()[-1].split()))

    return run


if __name__ == "__main__":
    main(__file__)
