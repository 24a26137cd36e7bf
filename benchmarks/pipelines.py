"""Photos through `pipeline()`, against transformers' on the same weights, settings and files.

JPEGs of 640x480 pixels, one by one and in batches of 8. Labels are compared letter by letter, scores and features as numbers. Both
sides decode with Pillow and resize with the same backend, and give what they give when nothing else is asked for: transformers'
features are nested lists, ours tensors; once both give tensors. The tiny network (`EVERY=1`) shows what the library itself costs.

Run: python benchmarks/pipelines.py
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from pairs import Case
from photo_files import jpegs
from report import EVERY
from run import main
from torch import Tensor

from vertebra import pipeline

PHOTOS = 16
CLASSIFY, FEATURES = "image-classification", "image-feature-extraction"
MODELS = {
    "ResNet-18": {"hidden_sizes": [64, 128, 256, 512], "depths": [2] * 4, "layer_type": "basic", "num_labels": 1000},
    "tiny ResNet": {
        "embedding_size": 16,
        "hidden_sizes": [16, 32, 48, 64],
        "depths": [1] * 4,
        "layer_type": "basic",
    },
}
"""Configurations of transformers' ResNet; weights are random."""
SETTINGS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "classes, one by one": (CLASSIFY, {"batch_size": 1}, {}),
    "classes, batches of 8": (CLASSIFY, {"batch_size": 8}, {}),
    "features, batches of 8": (FEATURES, {"batch_size": 8}, {}),
    "features, batches of 8, both tensors": (FEATURES, {"batch_size": 8}, {"return_tensors": True}),
}
"""Task, arguments of both, arguments of transformers' alone."""


def cases() -> Iterator[Case]:
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / f"{index}.jpg") for index in range(PHOTOS)]
        for path, content in zip(paths, jpegs(PHOTOS), strict=True):
            Path(path).write_bytes(content)
        for label, config in MODELS.items():
            weights = str(Path(folder) / label)
            model = transformers.ResNetForImageClassification(transformers.ResNetConfig(**config))
            model.eval().save_pretrained(weights)
            transformers.ViTImageProcessor().save_pretrained(weights)
            for name, (task, arguments, theirs) in SETTINGS.items() if EVERY or not label.startswith("tiny") else ():
                here = pipeline(task, model=weights)
                there = transformers.pipeline(task, model=weights, device="cpu")
                yield Case(
                    f"{label}, {PHOTOS} photos, {name}",
                    "transformers",
                    partial(here, paths, **arguments),
                    partial(there, paths, **arguments, **theirs),
                    outputs=answers if task == CLASSIFY else features,
                    rounds=3,
                )


def answers(found: list[Any]) -> Iterator[Tensor]:
    """The labels in their order, as numbers of letters, and the scores."""
    for entries in found:
        yield torch.tensor([*" ".join(entry["label"] for entry in entries).encode()])
        yield torch.tensor([entry["score"] for entry in entries])


def features(found: list[Any]) -> Iterator[Tensor]:
    """Of each photo."""
    yield from map(torch.as_tensor, found)


if __name__ == "__main__":
    main(__file__)
