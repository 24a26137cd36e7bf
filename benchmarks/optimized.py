"""Models after `optimize(["eager", "openvino"])`, against the faster peer in eager mode, and against OpenVINO itself.

The model as it is and OpenVINO's are measured, and the faster is taken; the remark says which. The peer is the one that is faster
in backbones.py. In bfloat16 it stays in float32, and the remark says how far apart the two are; 1e-2 is asked. On a ResNet-50 of
random weights no engine can hold that: rounding the filters alone, with everything else in float32, changes a map by 1.2e-2.
OpenVINO itself is the same graph converted and compiled by hand. `EVERY=1` adds DINOv2, large networks, MaskFormer
and UperNet.

Run: python benchmarks/optimized.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from networks import maps, operations
from pairs import Case
from report import EVERY
from run import main
from torch import Tensor

from backbones import NETWORKS, Network, beside
from heads import SIDE, both, decided, logits_of, without_gradient

SINGLE, SHORT = "float32", "bfloat16"
BACKENDS = {SINGLE: ("eager", "openvino"), SHORT: ("openvino",)}
"""Those that are measured; the model itself computes in float32 alone."""
ASKED = {SINGLE: 1.3, SHORT: 2.0}
TOLERANCE = {SINGLE: 1e-4, SHORT: 3e-2}
HEADS = {"MaskFormer": 1.4, "Mask2Former": 2.0, "UperNet": 1.3}
ROUNDS = 5


def cases() -> Iterator[Case]:
    for network in NETWORKS:
        if EVERY or (network.batch > 1 and not network.large):
            yield from _backbone(network)
    for name, asked in HEADS.items():
        if not (EVERY or name == "Mask2Former"):
            continue
        ours, theirs = both(name)
        fast = ours.optimize("openvino", image_size=SIDE, verbose=False)
        pixels = decided(fast, theirs) if name == "Mask2Former" else torch.randn(1, 3, SIDE, SIDE)
        yield Case(
            f"{name} Swin-T, one image of {SIDE}x{SIDE}, {SINGLE}",
            "transformers",
            without_gradient(partial(fast, pixels)),
            without_gradient(partial(theirs, pixels)),
            outputs=logits_of,
            asked=asked,
            rounds=ROUNDS,
            remark=f"by {fast.optimization.backend}, the {fast.optimization.part}",
        )


def _backbone(network: Network) -> Iterator[Case]:
    pixels = torch.randn(network.batch, 3, network.size, network.size)
    dino = network.name == "Dinov2"
    ours, theirs = beside(network, network.faster)
    for dtype in (SINGLE,) if dino else (SINGLE, SHORT):
        fast = ours.optimize(
            BACKENDS[dtype], dtype=dtype, image_size=network.size, batch_size=network.batch, verbose=False
        )
        title = f"{network.label}, {network.batch} of {network.size}x{network.size}, {dtype}"
        apart = f"outputs differ by {fast.optimization.error:.1e} of the largest value"
        yield Case(
            title,
            network.faster,
            maps(fast, pixels),
            maps(theirs, pixels),
            tolerance=TOLERANCE[dtype],
            asked=1.1 if dino else ASKED[dtype],
            operations=operations(theirs, pixels),
            rounds=ROUNDS,
            remark=apart if dtype == SHORT else f"by {fast.optimization.backend}",
        )
        if dtype == SINGLE and not dino:
            by_hand = _by_hand(ours, pixels)
            yield Case(title, "OpenVINO", maps(fast, pixels), by_hand, asked=0.97, rounds=ROUNDS)


def _by_hand(model: Any, pixels: Tensor) -> Callable[[], list[Tensor]]:
    """What a user of OpenVINO does with the graph of a backbone."""
    import openvino

    class Maps(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
            return tuple(self.model(pixel_values).feature_maps)

    with torch.no_grad():
        converted = openvino.convert_model(torch.export.export(Maps().eval(), (pixels,)))
    converted.reshape(list(pixels.shape))
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.compile_model(converted, "CPU", settings)
    return lambda: [torch.from_numpy(found) for found in compiled([pixels.numpy()]).values()]


if __name__ == "__main__":
    main(__file__)
