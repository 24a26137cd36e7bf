"""Models handed to OpenVINO by `optimize()`, against the peers in eager mode, and against OpenVINO itself.

In bfloat16 the peers stay in float32, and the remark says how far apart the two are; 1e-2 is asked. On a ResNet-50 of random
weights no engine can hold that: rounding the filters alone, with everything else in float32, changes a map by 1.2e-2. OpenVINO
itself is the same graph converted and compiled by hand. Of a composed model `optimize()` gives it all
or the backbone alone, whichever is faster.

Run: python benchmarks/optimized.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from networks import beside_timm, beside_transformers, maps, operations
from pairs import Case
from run import main
from torch import Tensor

from backbones import NETWORKS
from heads import SIDE, both, decided, logits_of, without_gradient

SINGLE, SHORT = "float32", "bfloat16"
FASTER = {"Swin-B": "timm", "DINOv2-B/14": "transformers"}
"""Of the large networks beside the faster peer alone, as backbones.py finds it."""
ASKED = {SINGLE: 1.3, SHORT: 2.0}
TOLERANCE = {SINGLE: 1e-4, SHORT: 3e-2}
HEADS = {"MaskFormer": 1.4, "Mask2Former": 2.0, "UperNet": 1.3}


def cases() -> Iterator[Case]:
    yield from _backbones()
    for name, asked in HEADS.items():
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
            rounds=5,
            remark=f"OpenVINO computes the {fast.optimization.part}",
        )


def _apart(fast: Any) -> str:
    return f"outputs differ by {fast.optimization.error:.1e} of the largest value"


def _backbones() -> Iterator[Case]:
    for network in NETWORKS:
        pixels = torch.randn(network.batch, 3, network.size, network.size)
        dino = network.name == "Dinov2"
        for peer in ("transformers", "timm"):
            if FASTER.get(network.label, peer) != peer:
                continue
            if peer == "timm":
                ours, theirs = beside_timm(
                    network.architecture, network.name, network.indices, network.their_indices, **network.options
                )
            else:
                ours, theirs = beside_transformers(network.name, network.indices, **network.config)
            for dtype in (SINGLE,) if dino else (SINGLE, SHORT):
                fast = ours.optimize(
                    "openvino", dtype=dtype, image_size=network.size, batch_size=network.batch, verbose=False
                )
                title = f"{network.label}, {network.batch} of {network.size}x{network.size}, {dtype}"
                yield Case(
                    title,
                    peer,
                    maps(fast, pixels),
                    maps(theirs, pixels),
                    tolerance=TOLERANCE[dtype],
                    asked=1.1 if dino else ASKED[dtype],
                    operations=operations(theirs, pixels),
                    rounds=5,
                    remark=_apart(fast) if dtype == SHORT else "",
                )
                if peer == "transformers" and dtype == SINGLE and not dino:
                    by_hand = _by_hand(ours, pixels)
                    yield Case(title, "OpenVINO", maps(fast, pixels), by_hand, asked=0.97, rounds=7)


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
