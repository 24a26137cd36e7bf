"""Image processors on 8 photos, against the faster of transformers' backends.

Photos of 640x480 pixels become one batch (`return_tensors="pt"`), from PIL images, from uint8 arrays, and from images of several
sizes; classifiers' processors take the latter two with `EVERY=1`. Both of transformers' backends are timed first, five times each,
and the faster is the peer; ours runs with the backend of the same name, since PIL's filters are another grey level off.
Segmentation processors also run with maps of 8 classes. Outputs, those of maps too, are compared first; tests compare them bit for
bit.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import transformers
from pairs import Case
from photo_files import jpegs
from PIL import Image
from report import EVERY
from run import main

import vertebra

COUNT, WIDTH, HEIGHT, CLASSES = 8, 640, 480, 8
DINOV2 = {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}
CLASSIFIERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT": ("ViTImageProcessor", {}),
    "DINOv2": ("BitImageProcessor", DINOV2),
    "ConvNeXt at 224": ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}}),
    "ConvNeXt at 384": ("ConvNextImageProcessor", {}),
    "CLIP": ("CLIPImageProcessor", {}),
}
SEGMENTERS = {name: f"{name}ImageProcessor" for name in ("MaskFormer", "Mask2Former", "Segformer")}
RESIZES = (
    "resizing to 512x512, by torchvision's kernel on both sides, is 5.5 ms of ours, writing 25 MB of floats 2.1 ms"
)


def photos() -> dict[str, list[Any]]:
    """The same photos as users have them."""
    pictures = [Image.open(io.BytesIO(data)).convert("RGB") for data in jpegs(COUNT, WIDTH, HEIGHT)]
    cuts = [
        picture.crop((0, 0, WIDTH - 32 * (index % 4), HEIGHT - 24 * (index % 3)))
        for index, picture in enumerate(pictures)
    ]
    return {"PIL": pictures, "arrays": [np.array(picture) for picture in pictures], "PIL, of 8 sizes": cuts}


def maps() -> list[Any]:
    """Maps of classes in blobs, one for each photo."""
    draw = np.random.default_rng(0)
    coarse = [draw.integers(0, CLASSES, (6, 8), dtype=np.uint8) for _ in range(COUNT)]
    return [np.array(Image.fromarray(one).resize((WIDTH, HEIGHT), Image.Resampling.NEAREST)) for one in coarse]


def faster(sides: Mapping[str, Callable[[], Any]]) -> str:
    """The name of the side with the least time of all."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(5):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            times[name].append(time.perf_counter() - start)
    return min(times, key=lambda name: min(times[name]))


def case(name: str, kind: str, settings: dict[str, Any], images: list[Any], asked: float, **more: Any) -> Case:
    def side(processor: Any) -> Callable[[], Any]:
        return partial(processor, images, return_tensors="pt", **more)

    peers = {
        backend: side(getattr(transformers, kind + suffix)(**settings))
        for backend, suffix in (("torchvision", ""), ("PIL", "Pil"))
    }
    peer = faster(peers)
    ours = side(getattr(vertebra, kind)(**settings, backend=None if peer == "torchvision" else "pil"))
    remark = RESIZES if name.startswith("Segformer") else ""
    return Case(
        name,
        f"transformers, {peer}",
        ours,
        peers[peer],
        _outputs,
        tolerance=1e-6,
        asked=asked,
        rounds=9,
        remark=remark,
    )


def _outputs(batch: Any) -> list[Any]:
    return [part for value in dict(batch).values() for part in (value if isinstance(value, list) else [value])]


def cases() -> Iterator[Case]:
    transformers.logging.set_verbosity_error()
    for source, images in photos().items():
        for name, (kind, settings) in CLASSIFIERS.items() if EVERY or source == "PIL" else ():
            yield case(f"{name}, {source}", kind, settings, images, 1.5)
        for name, kind in SEGMENTERS.items():
            yield case(f"{name}, {source}", kind, {}, images, 2)
            if source == "arrays":
                ignored = {} if name == "Segformer" else {"ignore_index": 255}
                yield case(f"{name} with maps, {source}", kind, {}, images, 2, segmentation_maps=maps(), **ignored)


if __name__ == "__main__":
    main(__file__)
