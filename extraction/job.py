"""What an extraction is: the facts that make two runs the same job, and the check that a folder is free for it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vertebra.backbones.base import Backbone
from vertebra.errors import listing
from vertebra.extraction.shards import FOLDER, read_header
from vertebra.extraction.sources import ImageFile
from vertebra.image_processing.base import BaseImageProcessor
from vertebra.image_processing.inputs import read_images
from vertebra.stages import Stage

INDEX_NAME = "index.json"
FORMAT = 1
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
"""Dtypes in which maps can be stored."""


@dataclass(frozen=True)
class Job:
    """How the maps of an image are computed.

    Args:
        backbone: A backbone in evaluation mode; its selection is what is stored.
        processor: Makes `pixel_values` of an image.
        size: `(height, width)` that images are brought to, or None for what the processor says.
        dtype: Dtype of the stored maps, a key of `DTYPES`.
        batch_size: How many images of one size run together.

    Raises:
        ValueError: a value that cannot be used; says what can.
    """

    backbone: Backbone
    processor: BaseImageProcessor
    size: tuple[int, int] | None = None
    dtype: str = "float16"
    batch_size: int = 8

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype={self.dtype!r} must be one of {listing(DTYPES)}.")
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} must be at least 1.")
        if self.backbone.training:
            raise ValueError(
                "The backbone is in training mode, in which maps depend on the batch; call backbone.eval()."
            )
        if not self.backbone.output_stages:
            raise ValueError(
                "The backbone selects no stage, so there is nothing to store; give out_features, out_indices "
                "or out_strides."
            )
        if self.size is not None:
            self.backbone.output_shapes(*self.size)

    @property
    def levels(self) -> tuple[Stage, ...]:
        """The stages whose maps are stored."""
        return self.backbone.output_stages

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The settings that differ from the processor's own."""
        return {} if self.size is None else size_settings(self.processor, self.size)

    def read(self, path: Path) -> Tensor:
        """Decode an image file, upright and in RGB, to `(3, h, w)` values 0..255.

        Raises:
            ValueError: it cannot be decoded.
            OSError: it cannot be read.
        """
        return read_images(path, convert_rgb=True)[0]

    def prepare(self, image: Tensor) -> Tensor:
        """Turn a decoded image into `(c, h, w)` pixel values."""
        batch = self.processor(image, input_data_format="channels_first", return_tensors="pt", **self.preprocessing)
        pixels: Tensor = batch["pixel_values"][0]
        return pixels

    def bytes_per_image(self) -> int:
        """Bytes of the maps of one image at the job's size, or at the backbone's native one where images vary."""
        shapes = self.backbone.output_shapes(*(self.size or self.backbone.native_size)).values()
        return sum(c * h * w for c, h, w in shapes) * DTYPES[self.dtype].itemsize

    def describe(self) -> dict[str, Any]:
        """The facts that decide the stored values, as JSON holds them."""
        return {
            "format": FORMAT,
            "model": {
                "id": self.backbone.name_or_path,
                "class": type(self.backbone).__name__,
                "config": self.backbone.config.to_dict(),
                "weights_sha256": weights_digest(self.backbone),
            },
            "levels": [level_to_json(stage) for stage in self.levels],
            "preprocessing": {**self.processor.to_dict(), **self.preprocessing},
            "dtype": self.dtype,
        }


def size_settings(processor: BaseImageProcessor, size: tuple[int, int]) -> dict[str, Any]:
    """The settings with which a processor's images come out `(height, width)` pixels large."""
    target = {"height": size[0], "width": size[1]}
    settings: dict[str, Any] = {"do_resize": True, "size": target}
    return settings if processor.crop_size is None else {**settings, "crop_size": target}


def weights_digest(backbone: Backbone) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(backbone.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def fingerprint(description: dict[str, Any], images: Sequence[ImageFile], shard_size: int) -> str:
    """Hash of a job: equal for runs that store the same values under the same names in the same places."""
    facts = [description, shard_size, [image.id for image in images]]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def level_to_json(stage: Stage) -> dict[str, Any]:
    """A stage as JSON holds it; strides and offsets are exact, `"14/3"` where they are not whole."""

    def exact(pair: tuple[Any, Any] | None) -> list[Any] | None:
        return None if pair is None else [int(x) if x.denominator == 1 else str(x) for x in pair]

    content = {"name": stage.name, "index": stage.index, "channels": stage.channels}
    return {**content, "stride": exact(stage.stride), "offset": exact(stage.offset)}


def claim_folder(out: str | os.PathLike[str], job: str) -> Path:
    """Make the folder of a store, or check that what it holds is of the same job, and return it.

    Raises:
        NotADirectoryError: `out` is a file.
        FileExistsError: the folder holds something else.
    """
    out = Path(out).expanduser()
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"{str(out)!r} is a file; give the folder that the features go to.")
    (out / FOLDER).mkdir(parents=True, exist_ok=True)
    strange = sorted(
        path.name for path in out.iterdir() if path.name not in (FOLDER, INDEX_NAME) and not path.name.startswith(".")
    )
    if strange:
        raise FileExistsError(f"{str(out)!r} holds other files ({listing(strange, 5)}); give a new or an empty folder.")
    for path in sorted((out / FOLDER).glob("*.safetensors")):
        if read_header(path).get("job") != job:
            raise FileExistsError(
                f"{str(out)!r} holds the features of another job (another model, selection, size, dtype or set of "
                f"images). Give another folder, or delete this one first."
            )
    return out
