"""UperNet against transformers', outputs compared: a forward at 512x512, forward and backward of two images at 256x256.

Run: python benchmarks/heads.py [rounds]
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from typing import Any

import torch
import transformers
from pairs import alternate, row

from vertebra import UperNetForSemanticSegmentation

LABELS = 150
BACKBONES = {
    "Swin-T": transformers.SwinConfig(out_indices=[1, 2, 3, 4]),
    "ResNet-50": transformers.ResNetConfig(out_indices=[1, 2, 3, 4]),
}


def forward(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(pixels).logits


def train(model: Any, pixels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    loss = model(pixels, labels=labels).loss
    loss.backward()
    return loss.detach()


def compare(name: str, ours: Any, theirs: Any, rounds: int) -> None:
    here, there = ours(), theirs()
    assert (here - there).abs().max() <= 1e-5 * there.abs().max(), f"{name}: outputs differ"
    print(row(name, *alternate(ours, theirs, rounds)), flush=True)


def main(rounds: int = 7) -> None:
    torch.manual_seed(0)
    image, pair = torch.randn(1, 3, 512, 512), (torch.randn(2, 3, 256, 256), torch.randint(0, LABELS, (2, 256, 256)))
    print(
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, UperNet, {LABELS} labels, fp32, medians of {rounds}"
    )
    print(f"{'':<44} {'vertebra':>11} {'other':>11}   ratio  (quartiles)")
    for name, below in BACKBONES.items():
        config = transformers.UperNetConfig(backbone_config=below, num_labels=LABELS)
        theirs = transformers.UperNetForSemanticSegmentation(config).eval()
        with tempfile.TemporaryDirectory() as folder:
            theirs.save_pretrained(folder)
            ours = UperNetForSemanticSegmentation.from_pretrained(folder)
        compare(f"{name}, one image", partial(forward, ours, image), partial(forward, theirs, image), rounds)
        # in evaluation mode, where both compute the same: stochastic depth draws differently
        compare(
            f"{name}, forward and backward of two", partial(train, ours, *pair), partial(train, theirs, *pair), rounds
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
