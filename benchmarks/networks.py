"""The same backbone in vertebra and in a peer, read from one folder of seeded weights, each loaded as its users load it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import vertebra
from vertebra import AutoBackbone, Backbone

NOISE = 0.02
"""Standard deviation of what is added to all weights, so that none keeps a value at which a mistake would not show."""


def beside_transformers(name: str, indices: Sequence[int], **config: Any) -> tuple[Backbone, Any]:
    """Both sides of a Backbone of transformers: ours, and theirs.

    Args:
        name: Of its classes, without ending: `"Swin"`.
        indices: Of the selected stages.
        config: What its configuration has that is not the default.
    """
    import transformers

    config_class = getattr(transformers, f"{name}Config")
    lists = {key: list(value) for key, value in vars(config_class()).items() if isinstance(value, tuple)}
    source = config_class(**{**lists, **config, "out_indices": list(indices)})  # its own default tuples it cannot build
    theirs = noisy(getattr(transformers, f"{name}Backbone")(source))
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = AutoBackbone.from_pretrained(folder)
        theirs = type(theirs).from_pretrained(folder).eval()
    return in_memory(ours), theirs


def beside_timm(
    architecture: str, name: str, indices: Sequence[int], their_indices: Sequence[int], **options: Any
) -> tuple[Backbone, Callable[[Tensor], Any]]:
    """Both sides of a model of timm: our native class with timm's weights, and `features_only=True`.

    Args:
        architecture: timm's name.
        name: Of our classes, without ending: `"Swin"`.
        indices: Of the selected stages.
        their_indices: timm's of the same stages.
        options: With which our maps are timm's.
    """
    import timm
    from timm.models import save_for_hf

    with tempfile.TemporaryDirectory() as folder:
        save_for_hf(noisy(timm.create_model(architecture, num_classes=0)), folder, safe_serialization=True)
        ours = getattr(vertebra, f"{name}Backbone").from_pretrained(folder, out_indices=list(indices), **options)
        source = f"local-dir:{Path(folder)}"
        theirs = timm.create_model(source, pretrained=True, features_only=True, out_indices=their_indices).eval()
    if getattr(theirs, "output_fmt", "NCHW") == "NHWC":
        return in_memory(ours), lambda pixels: [found.permute(0, 3, 1, 2) for found in theirs(pixels)]
    return in_memory(ours), theirs


def noisy(model: nn.Module) -> Any:
    """The model in evaluation mode, no weight where it began."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=NOISE)
    return model.eval()


def in_memory(model: Any) -> Any:
    """The model with all weights read: those of a mapped file are there only once something has looked at them."""
    for tensor in model.state_dict().values():
        tensor.sum()
    return model


def maps(run: Callable[[Tensor], Any], pixels: Tensor) -> Callable[[], list[Tensor]]:
    """A call that gives the feature maps, without gradients."""
    return partial(_maps, run, pixels)


def operations(run: Callable[[Tensor], Any], pixels: Tensor) -> int:
    """Floating-point operations of matrix products and convolutions, counted on one image, for all of them."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run(pixels[:1])
    return counter.get_total_flops() * len(pixels)


def _maps(run: Callable[[Tensor], Any], pixels: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        found = run(pixels)
        return list(found.feature_maps if hasattr(found, "feature_maps") else found)
