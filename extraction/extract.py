"""Feature maps of every image of a source, stored shard by shard."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from vertebra.backbones.base import Backbone
from vertebra.extraction.job import DTYPES, INDEX_NAME, Job, claim_folder, fingerprint
from vertebra.extraction.shards import Place, Shard, Size, shard_name
from vertebra.extraction.sources import ImageFile, Source, find_images
from vertebra.files import write_text
from vertebra.image_processing.base import BaseImageProcessor

SHARD_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Extraction:
    """What an extraction did.

    Args:
        out: The folder written.
        extracted: How many images have maps.
        failed: Id to reason, of the images that have none.
        shards: Number of shard files.
        size_bytes: Their size together.
        seconds: Wall time.
        device: Where the backbone ran.
    """

    out: Path
    extracted: int
    failed: Mapping[str, str]
    shards: int
    size_bytes: int
    seconds: float
    device: str

    @property
    def exit_code(self) -> int:
        """0 when every image has maps, 3 when some failed, 1 when all did."""
        if not self.failed:
            return 0
        return 3 if self.extracted else 1


def extract(
    source: Source,
    out: str | os.PathLike[str],
    backbone: Backbone,
    processor: BaseImageProcessor,
    *,
    size: tuple[int, int] | None = None,
    batch_size: int = 8,
    dtype: str = "float16",
    device: str | torch.device | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: bool = True,
) -> Extraction:
    """Compute the selected feature maps of every image of `source` and store them in the folder `out`.

    `out/shards/*.safetensors` hold the maps, `out/index.json` what they are and where each image's are; see
    `vertebra.extraction.reader.load_features`. Running the same job again replaces the files by equal ones. An image
    that cannot be decoded, does not fit the backbone, or whose maps pass the range of `dtype` is listed under `failed`
    with the reason, and the others go on.

    Args:
        source: A folder, a glob pattern, an image file, a `.txt` list, or a list of files; see `find_images`.
        out: A new or an empty folder, or one that holds this very job.
        backbone: In evaluation mode; its `out_features` are the levels stored. It is moved to `device`.
        processor: The image processor that belongs to the backbone.
        size: `(height, width)` in pixels that images are brought to; None leaves it to the processor.
        batch_size: How many images run together.
        dtype: Dtype of the stored maps: `"float16"`, `"bfloat16"` or `"float32"`.
        device: Where the backbone runs; None takes a GPU where there is one.
        shard_bytes: Size that shards aim at, in bytes.
        progress: Show a bar on a terminal.

    Returns:
        What was done, `exit_code` included.

    Raises:
        ValueError: an argument that cannot be used, e.g. a size that the backbone does not run at.
        OSError: the source holds no image, or `out` holds something else or cannot be written.
    """
    started = time.monotonic()
    images = find_images(source)
    job = Job(backbone, processor, size, dtype, batch_size)
    chosen = pick_device(device)
    description = job.describe()
    shard_size = max(1, shard_bytes // job.bytes_per_image())
    mark = fingerprint(description, images, shard_size)
    folder = claim_folder(out, mark)
    backbone.to(chosen)
    places: dict[str, Place] = {}
    failed: dict[str, str] = {}
    written = []
    with tqdm(total=len(images), unit="image", disable=None if progress else True) as bar:
        for index, part in enumerate(plan_shards(images, shard_size)):
            shard = compute_shard(job, part, chosen, bar.update)
            written.append(shard.write(folder / shard_name(index), mark))
            places |= shard.places(index)
            failed |= shard.failed
    index_text = _index(description, mark, len(written), places, failed)
    write_text(folder / INDEX_NAME, index_text)
    return Extraction(folder, len(places), failed, len(written), sum(written), time.monotonic() - started, str(chosen))


def plan_shards(images: Sequence[ImageFile], shard_size: int) -> list[Sequence[ImageFile]]:
    """Cut the images into runs of `shard_size`: the shards, fixed before anything is computed."""
    return [images[start : start + shard_size] for start in range(0, len(images), shard_size)]


def compute_shard(
    job: Job, images: Sequence[ImageFile], device: torch.device, advance: Callable[[int], Any] = lambda count: None
) -> Shard:
    """Compute the maps of one shard's images. Depends on its arguments alone, so it may be run again.

    Args:
        job: What to compute.
        images: The shard's images.
        device: Where the backbone is.
        advance: Called with the number of images that are done, for progress.
    """
    shard = Shard()
    waiting: dict[Size, list[tuple[str, Tensor]]] = {}
    for image in images:
        try:
            pixels = job.prepare(job.read(image.path))
        except (ValueError, OSError) as error:
            shard.failed[image.id] = _root_cause(error).replace(str(image.path), image.id)
            advance(1)
            continue
        size = (int(pixels.shape[-2]), int(pixels.shape[-1]))
        batch = waiting.setdefault(size, [])
        batch.append((image.id, pixels))
        if len(batch) == job.batch_size:
            _run(job, shard, size, waiting.pop(size), device)
            advance(len(batch))
    for size, batch in waiting.items():
        _run(job, shard, size, batch, device)
        advance(len(batch))
    return shard


def _run(job: Job, shard: Shard, size: Size, batch: list[tuple[str, Tensor]], device: torch.device) -> None:
    ids = [id_ for id_, _ in batch]
    try:
        job.backbone.output_shapes(*size)
    except ValueError as error:
        shard.failed |= dict.fromkeys(ids, str(error))
        return
    pixels = torch.stack([image for _, image in batch]).to(device, job.backbone.dtype)
    with torch.inference_mode():
        maps = job.backbone(pixels, return_dict=True).feature_maps
    stored = {stage.name: level.to(DTYPES[job.dtype]).cpu() for stage, level in zip(job.levels, maps, strict=True)}
    good = []
    for row, id_ in enumerate(ids):
        wrong = [name for name, level in stored.items() if not torch.isfinite(level[row]).all()]
        if wrong:
            shard.failed[id_] = (
                f"Values of {', '.join(wrong)} are not finite as {job.dtype}; bfloat16 and float32 reach further."
            )
        else:
            good.append(row)
    if good:
        kept = {name: level if len(good) == len(ids) else level[good] for name, level in stored.items()}
        shard.add(size, [ids[row] for row in good], kept)


def pick_device(device: str | torch.device | None) -> torch.device:
    """Return the device asked for, or for None a GPU where there is one, else the CPU.

    Raises:
        ValueError: there is no such device.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device={str(device)!r} cannot be used here: {error}. 'cpu' always works; 'cuda' needs a GPU."
        ) from error
    return chosen


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


def _index(description: dict[str, Any], job: str, shards: int, places: dict[str, Place], failed: dict[str, str]) -> str:
    """The content of `index.json`."""
    packages = ("vertebra", "torch", "timm", "safetensors", "pillow")
    versions = {"python": platform.python_version(), **{name: version(name) for name in packages}}
    images = {
        id_: {"shard": place.shard, "row": place.row, "size": place.size} for id_, place in sorted(places.items())
    }
    files = [shard_name(index) for index in range(shards)]
    content = {**description, "job": job, "versions": versions, "shards": files, "images": images, "failed": failed}
    return json.dumps(content, indent=1, default=str) + "\n"
