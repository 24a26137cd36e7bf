"""MaskFormer, Mask2Former and UperNet over Swin-T against transformers': one image of 512x512.

`EVERY=1` adds parts of the models, which get the maps that their own side's backbone gives, and training: forward, loss and
backward of one image of 256x256, in evaluation mode, where both compute the same (stochastic depth and dropout draw differently).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import torch
import transformers
from pairs import Case
from report import EVERY
from run import main
from torch import Tensor

from vertebra import (
    Mask2FormerForUniversalSegmentation,
    MaskFormerForInstanceSegmentation,
    UperNetForSemanticSegmentation,
)

SIDE, SMALL = 512, 256
LABELS, CLASSES, MASKS = 80, 150, 6


def cases() -> Iterator[Case]:
    """Each model, then its parts and its training."""
    yield from _maskformer()
    yield from _mask2former()
    yield from _upernet()


MODELS: dict[str, tuple[Any, int]] = {
    "MaskFormer": (MaskFormerForInstanceSegmentation, LABELS),
    "Mask2Former": (Mask2FormerForUniversalSegmentation, LABELS),
    "UperNet": (UperNetForSemanticSegmentation, CLASSES),
}
"""Our class, called as transformers' is, and how many labels it tells apart."""


def both(name: str) -> tuple[Any, Any]:
    """A model over Swin-T with random weights, ours and transformers'."""
    cls, labels = MODELS[name]
    torch.manual_seed(0)
    below = transformers.SwinConfig(out_indices=[1, 2, 3, 4])
    config = getattr(transformers, f"{name}Config")(backbone_config=below, num_labels=labels)
    theirs = getattr(transformers, cls.__name__)(config)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        return cls.from_pretrained(folder), theirs.eval()


def _maskformer() -> Iterator[Case]:
    ours, theirs = both("MaskFormer")
    pixels = torch.randn(1, 3, SIDE, SIDE)
    yield _forward("MaskFormer", ours, theirs, pixels, asked=1.1)
    if not EVERY:
        return
    module, other = ours.model.pixel_level_module, theirs.model.pixel_level_module
    maps, other_maps = _maps(module.encoder, other.encoder, pixels)
    yield _part(
        "MaskFormer, pixel decoder",
        lambda: module.decoder(maps)[0],
        lambda: other.decoder(other_maps).last_hidden_state,
    )
    decode, other_decode = ours.model.transformer_module, theirs.model.transformer_module
    yield _part(
        "MaskFormer, transformer decoder",
        lambda: decode(maps[-1])[0][-1],
        lambda: other_decode(other_maps[-1]).last_hidden_state,
    )
    yield _training("MaskFormer", ours, theirs, _labelled())


def _mask2former() -> Iterator[Case]:
    ours, theirs = both("Mask2Former")
    pixels = decided(ours, theirs)
    yield _forward("Mask2Former", ours, theirs, pixels, asked=1.5)
    if not EVERY:
        return
    module, other = ours.model.pixel_level_module, theirs.model.pixel_level_module
    maps, other_maps = _maps(module.encoder, other.encoder, pixels)
    yield _part(
        "Mask2Former, pixel decoder",
        lambda: module.decoder(maps).masks,
        lambda: other.decoder(other_maps).mask_features,
    )
    decode, other_decode = ours.model.transformer_module, theirs.model.transformer_module
    with torch.inference_mode():
        pixels, other_pixels = module.decoder(maps), other.decoder(other_maps)
    yield _part(
        "Mask2Former, transformer decoder",
        lambda: decode(pixels).states[-1],
        lambda: other_decode(other_pixels.multi_scale_features, other_pixels.mask_features).last_hidden_state,
    )
    yield _training("Mask2Former", ours, theirs, _labelled())


def _upernet() -> Iterator[Case]:
    ours, theirs = both("UperNet")
    yield _forward("UperNet", ours, theirs, torch.randn(1, 3, SIDE, SIDE), asked=1.05, rounds=4)
    if EVERY:
        yield _training("UperNet", ours, theirs, {"labels": torch.randint(0, CLASSES, (1, SMALL, SMALL))})


def decided(ours: Any, theirs: Any) -> Tensor:
    """An image on which rounding does not decide where a query looks.

    A query of Mask2Former attends to a cell where its mask's logit is 0 or more. Of the five million logits of random weights a few
    are 0 up to rounding, and on one image in three or so such a one matters: two ways to compute the same then differ by 1e-3.
    """
    for _ in range(8):
        pixels = torch.randn(1, 3, SIDE, SIDE)
        with torch.inference_mode():
            here, there = (model(pixels).masks_queries_logits for model in (ours, theirs))
        if (here - there).abs().max() < 1e-5 * there.abs().max():
            return pixels
    raise AssertionError("Mask2Former: masks differ from those of transformers on each of 8 images")


def _maps(ours: Any, theirs: Any, pixels: Tensor) -> tuple[Any, Any]:
    with torch.inference_mode():
        return ours(pixels).feature_maps, theirs(pixels).feature_maps


def _labelled() -> dict[str, Any]:
    return {
        "mask_labels": [(torch.rand(MASKS, SMALL, SMALL) > 0.7).float()],
        "class_labels": [torch.randint(0, LABELS, (MASKS,))],
    }


def _forward(name: str, ours: Any, theirs: Any, pixels: Tensor, asked: float, rounds: int = 7) -> Case:
    return Case(
        f"{name} Swin-T, one image of {SIDE}x{SIDE}",
        "transformers",
        without_gradient(lambda: ours(pixels)),
        without_gradient(lambda: theirs(pixels)),
        outputs=logits_of,
        asked=asked,
        rounds=rounds,
    )


def logits_of(output: Any) -> list[Tensor]:
    """What post-processing reads."""
    names = ("logits", "class_queries_logits", "masks_queries_logits")
    return [value for name in names if (value := getattr(output, name, None)) is not None]


def _part(name: str, ours: Callable[[], Tensor], theirs: Callable[[], Tensor]) -> Case:
    return Case(f"{name}, {SIDE}x{SIDE}", "transformers", without_gradient(ours), without_gradient(theirs), rounds=5)


def _training(name: str, ours: Any, theirs: Any, labels: dict[str, Any], rounds: int = 3) -> Case:
    pixels = torch.randn(1, 3, SMALL, SMALL)

    def step(model: Any) -> Tensor:
        model.zero_grad()
        torch.manual_seed(0)  # the same points for both
        loss: Tensor = model(pixels, **labels).loss
        loss.backward()
        return loss.detach()

    return Case(
        f"{name} Swin-T, forward and backward of {SMALL}x{SMALL}",
        "transformers",
        lambda: step(ours),
        lambda: step(theirs),
        rounds=rounds,
    )


def without_gradient(run: Callable[[], Any]) -> Callable[[], Any]:
    return torch.inference_mode()(run)


if __name__ == "__main__":
    main(__file__)
