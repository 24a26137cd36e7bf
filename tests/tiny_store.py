"""Small photos, broken ones, and the recipe of a tiny net, for the tests of extraction."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from real import tiny_backbone, tiny_processor

from vertebra.extraction.plan import open_plans
from vertebra.extraction.recipe import Recipe
from vertebra.extraction.runtime import Runtime
from vertebra.extraction.worker import extract_shard

LEVELS = ["stem", "stage1", "stage2"]


def recipe(**options: Any) -> Recipe:
    """A ResNet of 1,920 stored bytes an image of 32 x 48 pixels; the same weights every time."""
    torch.manual_seed(0)
    backbone = options.pop("backbone", None) or tiny_backbone(out_features=LEVELS)
    processor = options.pop("processor", None) or tiny_processor()
    return Recipe(backbone, processor=processor, **{"decode_threads": 2, **options})


def compute_shards(out: str, shards: list[int], batch_size: int) -> None:
    """Compute some shards of a store that is planned: what another process does."""
    torch.set_num_threads(1)
    runtime = Runtime(recipe(batch_size=batch_size))
    for shard in shards:
        extract_shard(open_plans(out)[0], shard, runtime)
    runtime.close()


def jpeg(seed: int, size: tuple[int, int] = (40, 30)) -> bytes:
    """A JPEG file of `(width, height)` pixels with a picture of its own."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def jpegs(folder: Path, count: int, size: tuple[int, int] = (40, 30)) -> Path:
    """A new folder of JPEG files `0000.jpg` and so on."""
    folder.mkdir(parents=True)
    for index in range(count):
        (folder / f"{index:04d}.jpg").write_bytes(jpeg(index, size))
    return folder


def broken_jpegs(folder: Path) -> dict[str, str]:
    """Six files that are no whole JPEG, each in its own way, and the beginning of what is said of each."""
    whole = jpeg(0, (400, 300))
    kinds = {
        "cut.jpg": (whole[: len(whole) // 2], "OSError: image file is truncated"),
        "empty.jpg": (b"", "UnidentifiedImageError: cannot identify image file 'empty.jpg'"),
        "head.jpg": (whole[:3], "UnidentifiedImageError: cannot identify image file 'head.jpg'"),
        "page.jpg": (b"<!DOCTYPE html><html></html>", "UnidentifiedImageError: cannot identify image file 'page.jpg'"),
        "shifted.jpg": (b"\0" + whole, "UnidentifiedImageError: cannot identify image file 'shifted.jpg'"),
        "tables.jpg": (whole[:400], "OSError: "),
    }
    for name, (data, _) in kinds.items():
        (folder / name).write_bytes(data)
    return {name: said for name, (_, said) in kinds.items()}
