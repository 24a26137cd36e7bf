"""Mask2Former against transformers', outputs compared: a forward at 512x512 and its parts, forward and backward at 256x256.

Run: python benchmarks/mask2former.py [rounds]
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers
from pairs import alternate, row
from torch import Tensor

from vertebra import Mask2FormerForUniversalSegmentation

LABELS = 80
BACKBONE = transformers.SwinConfig(out_indices=[1, 2, 3, 4], drop_path_rate=0.0)


def forward(model: Any, pixels: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(pixels).masks_queries_logits


def train(model: Any, pixels: Tensor, masks: list[Tensor], classes: list[Tensor]) -> Tensor:
    model.zero_grad()
    torch.manual_seed(0)  # the same points for both
    loss = model(pixels, masks, classes).loss
    loss.backward()
    return loss.detach()


def compare(name: str, ours: Callable[[], Tensor], theirs: Callable[[], Tensor], rounds: int) -> None:
    here, there = ours(), theirs()
    assert (here - there).abs().max() <= 1e-4 * there.abs().max(), f"{name}: outputs differ"
    print(row(name, *alternate(ours, theirs, rounds)), flush=True)


def main(rounds: int = 7) -> None:
    torch.manual_seed(0)
    image, small = torch.randn(1, 3, 512, 512), torch.randn(1, 3, 256, 256)
    labels = [(torch.rand(6, 256, 256) > 0.7).float()], [torch.randint(0, LABELS, (6,))]
    config = transformers.Mask2FormerConfig(backbone_config=BACKBONE, num_labels=LABELS)
    theirs = transformers.Mask2FormerForUniversalSegmentation(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = Mask2FormerForUniversalSegmentation.from_pretrained(folder)
    print(
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, Mask2Former over Swin-T, fp32, medians of {rounds}"
    )
    print(f"{'':<44} {'vertebra':>11} {'other':>11}   ratio  (quartiles)")
    compare("one image of 512x512", partial(forward, ours, image), partial(forward, theirs, image), rounds)
    levels, other = ours.model.pixel_level_module, theirs.model.pixel_level_module
    with torch.inference_mode():
        maps = other.encoder(image).feature_maps
        pixels, other_pixels = levels.decoder(maps), other.decoder(maps)
        compare("  backbone", lambda: levels.encoder(image)[0][-1], lambda: other.encoder(image)[0][-1], rounds)
        compare(
            "  pixel decoder", lambda: levels.decoder(maps).masks, lambda: other.decoder(maps).mask_features, rounds
        )
        decode, other_decode = ours.model.transformer_module, theirs.model.transformer_module
        compare(
            "  transformer decoder",
            lambda: decode(pixels).states[-1],
            lambda: other_decode(other_pixels.multi_scale_features, other_pixels.mask_features).last_hidden_state,
            rounds,
        )
    compare(
        "forward and backward of one of 256x256",
        partial(train, ours, small, *labels),
        partial(train, theirs, small, *labels),
        rounds,
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
