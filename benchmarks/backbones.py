"""Four stages of backbones in plain eager mode, against transformers and timm, as a user calls them.

Both sides read one folder of random weights. Swin, ResNet and ConvNeXt take images of 224x224 pixels, DINOv2 of 518x518. timm
puts no norms on its maps, so beside it ours do not either (`apply_layernorm=False`); its maps of Swin, channels last, are permuted.
`EVERY=1` adds large networks.

Run: python benchmarks/backbones.py
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from networks import beside_timm, beside_transformers, maps, operations
from pairs import Case
from report import EVERY
from run import main

PYRAMID = (1, 2, 3, 4)
BLOCKS = (3, 6, 9, 12)
ROUNDS = 5
UNNORMED = {"apply_layernorm": False}


@dataclass(frozen=True)
class Network:
    """A published network in three libraries.

    Args:
        label: In the table.
        name: Of the classes of transformers and of ours, without ending.
        config: What transformers' configuration has that is not the default.
        architecture: timm's name.
        their_indices: timm's of the selected stages.
        asked: The ratio asked for.
        indices: Of the selected stages.
        options: With which our maps are timm's.
        batch: Images.
        size: Their side in pixels.
        large: Whether not every run has it.
        faster: The peer that is the faster one.
    """

    label: str
    name: str
    config: Mapping[str, Any]
    architecture: str
    their_indices: tuple[int, ...]
    asked: float
    indices: tuple[int, ...] = PYRAMID
    options: Mapping[str, Any] = field(default_factory=dict)
    batch: int = 8
    size: int = 224
    large: bool = False
    faster: str = "transformers"


# fmt: off
SWIN_B = {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32]}
DINO = {"indices": BLOCKS, "options": UNNORMED, "batch": 1, "size": 518}
NETWORKS = (
    Network("Swin-T", "Swin", {}, "swin_tiny_patch4_window7_224", (0, 1, 2, 3), 1.1, options=UNNORMED),
    Network("Swin-B", "Swin", SWIN_B, "swin_base_patch4_window7_224", (0, 1, 2, 3), 1.1, options=UNNORMED,
            large=True, faster="timm"),
    Network("ResNet-50", "ResNet", {}, "resnet50", (1, 2, 3, 4), 1.1),
    Network("ConvNeXt-T", "ConvNext", {}, "convnext_tiny", (0, 1, 2, 3), 1.03, options=UNNORMED),
    Network("DINOv2-S/14", "Dinov2", {"image_size": 518, "hidden_size": 384, "num_attention_heads": 6},
            "vit_small_patch14_dinov2", (2, 5, 8, 11), 1.0, faster="timm", **DINO),
    Network("DINOv2-B/14", "Dinov2", {"image_size": 518}, "vit_base_patch14_dinov2", (2, 5, 8, 11), 1.0, large=True, **DINO),
)
# fmt: on


def cases() -> Iterator[Case]:
    for network in NETWORKS:
        if network.large and not EVERY:
            continue
        pixels = torch.randn(network.batch, 3, network.size, network.size)
        images = f"{network.batch} of {network.size}x{network.size}"
        for peer in ("transformers", "timm"):
            ours, theirs = beside(network, peer)
            yield Case(
                f"{network.label}, four stages, {images}",
                peer,
                maps(ours, pixels),
                maps(theirs, pixels),
                asked=network.asked,
                operations=operations(theirs, pixels),
                rounds=ROUNDS,
            )


def beside(network: Network, peer: str) -> tuple[Any, Any]:
    """Our side of a network, and that of `"timm"` or `"transformers"`."""
    if peer == "timm":
        return beside_timm(
            network.architecture, network.name, network.indices, network.their_indices, **network.options
        )
    return beside_transformers(network.name, network.indices, **network.config)


if __name__ == "__main__":
    main(__file__)
