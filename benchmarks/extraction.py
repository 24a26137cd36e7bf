"""Extraction of photos on disk, end to end: against the forward pass alone, and against transformers' pipeline.

forward: `extract_shards` over JPEGs of 640x480 pixels (read, decode, resize, forward, store with checksum and fsync) against the
same model in the same dtype and memory format over ready batches of the same size. The maps are compared first. The process keeps
its memory (`keep_memory`), as those of `vertebra extract` do, for both sides.
pipeline: the last map of 64 photos by the pipeline `image-feature-extraction` on the same weights and settings, against
`extract` with all it does, plan and checksum of the weights included. Outputs are compared first.

Run: python benchmarks/extraction.py [--part forward|pipeline] [--rounds N] [--decode fast|pillow]
"""

from __future__ import annotations

import argparse
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
from pairs import alternate, row
from photo_files import jpegs
from torch import Tensor

from vertebra import AutoBackbone, Backbone, ResNetConfig, SwinConfig, ViTImageProcessor
from vertebra.extraction.extract import extract
from vertebra.extraction.memory import keep_memory
from vertebra.extraction.plan import make_plan
from vertebra.extraction.recipe import Recipe
from vertebra.extraction.runtime import Runtime
from vertebra.extraction.store.feature_store import FeatureStore
from vertebra.extraction.worker import extract_shards

PHOTOS = 64
BATCH = 8
SHARD = 16
"""Photos: the last shard is written with nothing beside it, which in 64 photos weighs more than in a million."""
SIDE = 224
MODELS = {
    "ResNet-50, pyramid": ResNetConfig(out_features=["stage1", "stage2", "stage3", "stage4"]),
    "ResNet-50, last map": ResNetConfig(out_features=["stage4"]),
    "Swin-T, pyramid": SwinConfig(out_features=["stage1", "stage2", "stage3", "stage4"]),
}
PROCESSOR = ViTImageProcessor(size={"height": SIDE, "width": SIDE}, resample="bicubic")


@contextmanager
def photo_folder() -> Iterator[Path]:
    """A folder with the photos and, beside it, space for stores."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "photos")
        folder.mkdir()
        for index, data in enumerate(jpegs(PHOTOS)):
            (folder / f"{index:04d}.jpg").write_bytes(data)
        yield folder


class Sides:
    """Both sides of the first comparison.

    Args:
        folder: Of the photos.
        backbone: What computes the maps.
        decoder: What decodes.
    """

    def __init__(self, folder: Path, backbone: Backbone, decoder: str) -> None:
        recipe = Recipe(backbone, processor=PROCESSOR, decoder=decoder, batch_size=BATCH, device="cpu")
        self.folder, self.runtime, self.runs = folder, Runtime(recipe), count()
        files = sorted(folder.iterdir())
        pixels = [self.runtime.resize(self.runtime.decode(path.read_bytes())).pixels for path in files]
        batches = [torch.stack(pixels[start : start + BATCH]) for start in range(0, len(files), BATCH)]
        layout = torch.channels_last if self.runtime.channels_last else torch.contiguous_format
        self.batches = [self.runtime.normalise(batch).contiguous(memory_format=layout) for batch in batches]

    def end_to_end(self) -> Path:
        """Write the store, and return where."""
        out = self.folder.parent / f"store-{next(self.runs)}"
        plan = make_plan(self.folder, out, self.runtime, self.runtime.bytes_per_image() * SHARD)
        assert sum(receipt.ids for receipt in extract_shards(plan, plan.shards, self.runtime)) == PHOTOS
        return out

    def forward(self) -> Iterator[tuple[Tensor, ...]]:
        """The maps of each batch."""
        with torch.inference_mode():
            for batch in self.batches:
                yield self.runtime.model(batch, return_dict=True).feature_maps


def extract_once(sides: Sides) -> None:
    rmtree(sides.end_to_end())


def forward_once(sides: Sides) -> None:
    deque(sides.forward(), maxlen=0)


def check_forward(sides: Sides) -> None:
    store = FeatureStore(sides.end_to_end())
    maps = [torch.cat(levels) for levels in zip(*sides.forward(), strict=True)]
    for index, id_ in enumerate(sorted(store.ids)):
        for level, expected in zip(store.read(id_).values(), maps, strict=True):
            assert torch.equal(level, expected[index].to(level.dtype)), f"{id_}: maps differ"


def forward_part(args: argparse.Namespace) -> None:
    print(
        f"\n{PHOTOS} photos, batches of {BATCH}, float32 stored as float16, decoder {args.decode}: end to end, forward alone"
    )
    for name in args.model or MODELS:
        torch.manual_seed(0)
        with photo_folder() as folder:
            sides = Sides(folder, AutoBackbone.from_config(MODELS[name]).eval(), args.decode)
            check_forward(sides)
            ours, theirs, ratios = alternate(partial(extract_once, sides), partial(forward_once, sides), args.rounds)
            sides.runtime.close()
        print(row(name, ours, theirs, ratios), f"{PHOTOS / ours:6.1f} images/s", flush=True)


def pipeline_part(args: argparse.Namespace) -> None:
    print(f"\n{PHOTOS} photos, ResNet-18, last map: extract (batches of {BATCH}, decoder {args.decode}), the pipeline")
    torch.manual_seed(0)
    config = transformers.ResNetConfig(hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic")
    runs = count()
    with photo_folder() as folder, tempfile.TemporaryDirectory() as weights:
        model = transformers.ResNetModel(config).eval()
        model.save_pretrained(weights)
        PROCESSOR.save_pretrained(weights)
        backbone = AutoBackbone.from_pretrained(weights, out_features=["stage4"])
        pipeline = transformers.pipeline("image-feature-extraction", model=weights, device="cpu")
        paths = [str(path) for path in sorted(folder.iterdir())]

        def ours(dtype: str | None = None) -> Path:
            out = folder.parent / f"store-{next(runs)}"
            recipe = Recipe(
                backbone, processor=PROCESSOR, decoder=args.decode, batch_size=BATCH, dtype=dtype, device="cpu"
            )
            extract(folder, out, recipe, progress=False)
            return out

        def theirs(**settings: Any) -> list[Any]:
            return pipeline(paths, **settings)

        store = FeatureStore(ours("float32"))
        for path, expected in zip(paths, theirs(return_tensors=True), strict=True):
            found = store["stage4"][Path(path).name]
            assert (found - expected[0]).abs().max() <= 1e-4 * expected.abs().max(), f"{path}: maps differ"
        for name, settings in {
            "pipeline as it is": {},
            "pipeline, batch_size=8": {"batch_size": 8},
            "pipeline, tensors": {"return_tensors": True},
            "pipeline, tensors, batch_size=8": {"return_tensors": True, "batch_size": 8},
        }.items():
            there = partial(theirs, **settings)
            print(row(name, *alternate(ours, there, args.rounds)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("forward", "pipeline"))
    parser.add_argument("--model", action="append", choices=MODELS, help="of the part forward; all by default")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--decode", default="fast")
    args = parser.parse_args()
    keep_memory()
    print(
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, transformers {transformers.__version__}, medians"
    )
    print(f"{'':<44} {'vertebra':>11} {'other':>11}   ratio  (quartiles)")
    parts = {"forward": forward_part, "pipeline": pipeline_part}
    for name in [args.part] if args.part else parts:
        parts[name](args)


if __name__ == "__main__":
    main()
