"""Photos per second through `pipeline()`, against transformers' on the same weights, settings and files.

64 JPEGs of 640x480 pixels, one by one and in batches of 8. Answers are compared first: labels in the same order, scores to 1e-4,
features to 1e-4 of the largest. Both sides decode with Pillow and resize with the same backend, and give what they give when
nothing else is asked for: transformers' features are nested lists, ours tensors.

Run: python benchmarks/pipelines.py [--model resnet18|swin_t|tiny] [--rounds N]
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from pairs import alternate, row
from photo_files import jpegs

from vertebra import pipeline

PHOTOS = 64
TOLERANCE = 1e-4
MODELS = {
    "resnet18": lambda: transformers.ResNetForImageClassification(
        transformers.ResNetConfig(hidden_sizes=[64, 128, 256, 512], depths=[2] * 4, layer_type="basic", num_labels=1000)
    ),
    "swin_t": lambda: transformers.SwinForImageClassification(transformers.SwinConfig(num_labels=1000)),
    "tiny": lambda: transformers.ResNetForImageClassification(
        transformers.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1] * 4, layer_type="basic")
    ),
}
"""Random weights; tiny is for what the library itself costs."""


def check_answers(ours: list[Any], theirs: list[Any]) -> None:
    for here, there in zip(ours, theirs, strict=True):
        assert [entry["label"] for entry in here] == [entry["label"] for entry in there], "labels differ"
        assert all(abs(a["score"] - b["score"]) < TOLERANCE for a, b in zip(here, there, strict=True)), "scores differ"


def check_features(ours: list[Any], theirs: list[Any]) -> None:
    for here, there in zip(ours, theirs, strict=True):
        expected = torch.as_tensor(there)
        assert (here - expected).abs().max() <= TOLERANCE * expected.abs().max(), "features differ"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=MODELS, help="all by default")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print(
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, transformers {transformers.__version__}, {PHOTOS} photos"
    )
    print(f"{'':<44} {'vertebra':>11} {'transformers':>11}   ratio  (quartiles)")
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / f"{index}.jpg") for index in range(PHOTOS)]
        for path, content in zip(paths, jpegs(PHOTOS), strict=True):
            Path(path).write_bytes(content)
        for name in args.model or MODELS:
            weights = Path(folder) / name
            torch.manual_seed(0)
            MODELS[name]().eval().save_pretrained(weights)
            transformers.ViTImageProcessor().save_pretrained(weights)
            compare(name, str(weights), paths, args.rounds)


def compare(name: str, weights: str, paths: list[str], rounds: int) -> None:
    for task, check in (("image-classification", check_answers), ("image-feature-extraction", check_features)):
        ours, theirs = pipeline(task, model=weights), transformers.pipeline(task, model=weights, device="cpu")
        check(ours(paths, batch_size=8), theirs(paths))
        for batch in (1, 8):
            here, there = partial(ours, paths, batch_size=batch), partial(theirs, paths, batch_size=batch)
            print(row(f"{name}, {task}, batch {batch}", *alternate(here, there, rounds)), flush=True)
    there = partial(theirs, paths, batch_size=8, return_tensors=True)
    print(row(f"{name}, {task}, batch 8, both tensors", *alternate(here, there, rounds)), flush=True)


if __name__ == "__main__":
    main()
