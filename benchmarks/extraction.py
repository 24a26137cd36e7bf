"""Extraction of photos on disk, end to end: against transformers' pipeline, and against the forward pass alone.

pipeline: the last map of JPEGs of 640x480 pixels by `image-feature-extraction` on the same weights and settings, given a list
of paths, against `extract` with all it does: plan, checksum of the weights, a store with checksums and fsync. With a tiny network
it is what the libraries themselves cost. One line has our network in bfloat16 by OpenVINO, and says how far that is off.
forward (`EVERY=1`): `extract_shards` over such photos (read, decode, resize, forward, store) against the same model in the same
memory format over ready batches; a ratio of 1 says that nothing is lost around the network. The process keeps its memory
(`keep_memory`), as those of `vertebra extract` do, for both sides.

Run: python benchmarks/extraction.py
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch
import transformers
from networks import operations
from pairs import Case
from photo_files import jpegs
from report import EVERY
from run import main
from torch import Tensor

from vertebra import AutoBackbone, Backbone, ResNetConfig, SwinConfig, ViTImageProcessor
from vertebra.extraction.extract import extract
from vertebra.extraction.memory import keep_memory
from vertebra.extraction.plan import make_plan
from vertebra.extraction.recipe import Recipe
from vertebra.extraction.runtime import Runtime
from vertebra.extraction.store.feature_store import FeatureStore
from vertebra.extraction.worker import extract_shards

PHOTOS, READY = 32, 32
"""How many through the pipeline, and beside ready batches."""
BATCH = 8
SHARD = 16
"""Photos: the last shard is written with nothing beside it, which in a few photos weighs more than in a million."""
SIDE = 224
SHORT = 3e-2
"""What is left of a value by a network in bfloat16."""
HALF = 1e-3
"""What float16, in which maps are stored, keeps of a value."""
ASKED = 5.0
DECODER = "fast"
PIPELINES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "in batches of 8, to tensors": {"return_tensors": True, "batch_size": BATCH},
}
RESNET18 = {"hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]}
TINY = {"embedding_size": 16, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}
NETWORKS: dict[str, tuple[dict[str, Any], float | None, list[str]]] = {
    "ResNet-18": (RESNET18, ASKED, [*PIPELINES]),
    "tiny ResNet": (TINY, None, [*PIPELINES][1:]),
}
"""Configuration, the ratio asked for, settings of the pipeline."""
REMARK = "the network is in both sides; `of peak` says how near ours is to what this machine could compute it in."
MODELS = {
    "Swin-T, pyramid": SwinConfig(out_features=["stage1", "stage2", "stage3", "stage4"]),
    "ResNet-50, pyramid": ResNetConfig(out_features=["stage1", "stage2", "stage3", "stage4"]),
}
PROCESSOR = ViTImageProcessor(size={"height": SIDE, "width": SIDE}, resample="bicubic")


def cases() -> Iterator[Case]:
    keep_memory()
    yield from pipeline_cases()
    for name, config in MODELS.items() if EVERY else ():
        with photo_folder(READY) as folder:
            sides = Sides(folder, AutoBackbone.from_config(config).eval())
            yield Case(
                f"{name}, {READY} photos, stored as float16",
                "forward alone",
                sides.end_to_end,
                sides.forward,
                outputs=sides.read,
                tolerance=HALF,
                rounds=3,
            )
            sides.runtime.close()


def pipeline_cases() -> Iterator[Case]:
    """The same network and photos in both libraries."""
    with photo_folder(PHOTOS) as folder:
        for name, (config, asked, settings) in NETWORKS.items():
            sides = Pipelines(folder, transformers.ResNetConfig(layer_type="basic", **config))
            for setting in settings:
                yield Case(
                    f"{name}, last map, {PHOTOS} photos; pipeline {setting}",
                    "transformers",
                    sides.extract,
                    partial(sides.pipeline, sides.paths, **PIPELINES[setting]),
                    outputs=sides.read,
                    asked=asked,
                    operations=sides.operations,
                    rounds=3,
                    remark=REMARK if asked else "",
                )
            if asked:
                fast = sides.backbone.optimize(
                    "openvino", dtype="bfloat16", image_size=SIDE, batch_size=BATCH, verbose=False
                )
                yield Case(
                    f"{name}, last map, {PHOTOS} photos; pipeline as it is, ours in bfloat16 by OpenVINO",
                    "transformers",
                    partial(sides.extract, fast),
                    partial(sides.pipeline, sides.paths),
                    outputs=sides.read,
                    tolerance=SHORT,
                    asked=asked,
                    rounds=3,
                    remark=f"outputs differ by {fast.optimization.error:.1e} of the largest value",
                )


class Pipelines:
    """A network behind `extract` and behind transformers' pipeline.

    Args:
        folder: Of the photos.
        config: The network's, in transformers.
    """

    def __init__(self, folder: Path, config: Any) -> None:
        self.folder, self.runs, self.paths = folder, count(), [str(path) for path in sorted(folder.iterdir())]
        with tempfile.TemporaryDirectory() as weights:
            model = transformers.ResNetModel(config).eval()
            model.save_pretrained(weights)
            PROCESSOR.save_pretrained(weights)
            self.backbone = AutoBackbone.from_pretrained(weights, out_features=[f"stage{len(config.depths)}"])
            self.pipeline = transformers.pipeline("image-feature-extraction", model=weights, device="cpu")
        self.operations = operations(model, torch.zeros(1, 3, SIDE, SIDE)) * len(self.paths)

    def extract(self, backbone: Backbone | None = None) -> Path:
        """Write a store, and return where."""
        out = self.folder.parent / f"store-{id(self)}-{next(self.runs)}"
        recipe = Recipe(
            backbone or self.backbone,
            processor=PROCESSOR,
            decoder=DECODER,
            batch_size=BATCH,
            dtype="float32",
            device="cpu",
        )
        extract(self.folder, out, recipe, progress=False)
        return out

    def read(self, found: Any) -> Iterator[Tensor]:
        """The maps of each photo: from the store, or those that the pipeline gave."""
        if isinstance(found, Path):
            (view,) = (FeatureStore(found)[level] for level in self.backbone.out_features)
            yield from (view[Path(path).name] for path in self.paths)
        else:
            yield from (torch.as_tensor(each).squeeze(0) for each in found)


@contextmanager
def photo_folder(photos: int) -> Iterator[Path]:
    """A folder with the photos and, beside it, space for stores."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "photos")
        folder.mkdir()
        for index, data in enumerate(jpegs(photos)):
            (folder / f"{index:04d}.jpg").write_bytes(data)
        yield folder


class Sides:
    """Extraction, and the forward pass that is in it.

    Args:
        folder: Of the photos.
        backbone: What computes the maps.
    """

    def __init__(self, folder: Path, backbone: Backbone) -> None:
        recipe = Recipe(backbone, processor=PROCESSOR, decoder=DECODER, batch_size=BATCH, device="cpu")
        self.folder, self.runtime, self.out = folder, Runtime(recipe), folder.parent / "store"
        files = sorted(folder.iterdir())
        pixels = [self.runtime.resize(self.runtime.decode(path.read_bytes())).pixels for path in files]
        batches = [torch.stack(pixels[start : start + BATCH]) for start in range(0, len(files), BATCH)]
        layout = torch.channels_last if self.runtime.channels_last else torch.contiguous_format
        self.batches = [self.runtime.normalise(batch).contiguous(memory_format=layout) for batch in batches]

    def end_to_end(self) -> Path:
        """Write the store, in place of the last one, and return where."""
        rmtree(self.out, ignore_errors=True)
        plan = make_plan(self.folder, self.out, self.runtime, self.runtime.bytes_per_image() * SHARD)
        assert sum(receipt.ids for receipt in extract_shards(plan, plan.shards, self.runtime)) == READY
        return self.out

    def forward(self) -> None:
        """Compute the maps of each batch, and keep none."""
        deque(self.maps(), maxlen=0)

    def maps(self) -> Iterator[tuple[Tensor, ...]]:
        """The maps of each batch."""
        with torch.inference_mode():
            for batch in self.batches:
                yield self.runtime.model(batch, return_dict=True).feature_maps

    def read(self, out: Path | None) -> Iterator[Tensor]:
        """Each level of all photos: from the store, or computed once more where nothing was kept."""
        if out is None:
            found = list(self.maps())
        else:
            store = FeatureStore(out)
            found = [tuple(level[None] for level in store.read(id_).values()) for id_ in sorted(store.ids)]
        yield from (torch.cat(levels) for levels in zip(*found, strict=True))


if __name__ == "__main__":
    main(__file__)
