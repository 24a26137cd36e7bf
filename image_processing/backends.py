"""Backends: which module does the arithmetic, and how a backend is spelled in a file's class name."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, cast

import torch
from PIL.Image import Resampling

from vertebra.errors import did_you_mean, listing


class Backend(NamedTuple):
    """A row of `BACKENDS`: the module, and what it appends to the class name in a file."""

    module: str
    suffix: str


class Transforms(Protocol):
    """What a backend's module must define; `vertebra.image_processing.transforms` says what each one does."""

    def resize(self, images: torch.Tensor, size: tuple[int, int], resample: Resampling) -> torch.Tensor:
        """Resize `(n, c, h, w)` images."""

    def tensor_to_rgb(self, image: torch.Tensor) -> torch.Tensor:
        """Convert a `(1 | 3 | 4, h, w)` image to `(3, h, w)`."""

    def center_crop(self, images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Cut out, or pad to, the central `size`."""

    def rescale_and_normalize(
        self,
        images: torch.Tensor,
        do_rescale: bool,
        rescale_factor: float | None,
        do_normalize: bool,
        image_mean: float | Sequence[float] | None,
        image_std: float | Sequence[float] | None,
    ) -> torch.Tensor:
        """Rescale and normalise `(n, c, h, w)` images."""


DEFAULT_BACKEND = "torchvision"  # transformers' name for the backend on tensors, whose results this one equals
PIL_BACKEND = "pil"
BACKENDS = {
    DEFAULT_BACKEND: Backend("vertebra.image_processing.transforms", suffix=""),
    PIL_BACKEND: Backend("vertebra.image_processing.pil_transforms", suffix="Pil"),
}
# What the suffix in a file's class name meant to the version of transformers that wrote it (5.x where 4.x differs).
_FILE_SUFFIXES = {"Fast": DEFAULT_BACKEND, "Pil": PIL_BACKEND}


def load_backend(name: str) -> Transforms:
    """Import a backend's module."""
    return cast(Transforms, importlib.import_module(BACKENDS[name].module))


def read_backend(value: Any, name: str = "backend") -> str:
    """Check a backend's name.

    Raises:
        ValueError: there is no such backend; the text lists them.
    """
    if value not in BACKENDS:
        raise ValueError(
            f"{name}={value!r} does not exist; there is {listing(BACKENDS)}.{did_you_mean(value, BACKENDS)}"
        )
    return str(value)


def split_type(type_name: str) -> tuple[str, str | None]:
    """Return a file's class name in today's spelling, and the backend that it asks for (None: it does not say).

    `ViTFeatureExtractor`, `ViTImageProcessor`, `ViTImageProcessorFast` and `ViTImageProcessorPil` are all
    `ViTImageProcessor`. The first two do not say: to transformers 4 they meant PIL, to 5 the tensor backend.
    """
    name = type_name.replace("FeatureExtractor", "ImageProcessor")
    for suffix, backend in _FILE_SUFFIXES.items():
        if name.endswith(f"ImageProcessor{suffix}"):
            return name.removesuffix(suffix), backend
    return name, None
