"""Feature maps of every image of a source, stored shard by shard."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from tqdm import tqdm

from vertebra.backbones.base import Backbone
from vertebra.extraction.engines import check_engine, find_engine
from vertebra.extraction.generations import plan_run, settled
from vertebra.extraction.image_table import ImageSource, ImageTable, image_table
from vertebra.extraction.ledger import Ledger
from vertebra.extraction.leftovers import remove_leftovers
from vertebra.extraction.plan import SHARD_BYTES, Out, Plan, open_plans
from vertebra.extraction.recipe import Recipe
from vertebra.extraction.recipe import pick_device as pick_device
from vertebra.extraction.runtime import Runtime
from vertebra.extraction.storage import Storage
from vertebra.extraction.store.manifest import save_manifest
from vertebra.extraction.worker import Receipt
from vertebra.image_processing.base import BaseImageProcessor

FULL = {errno.ENOSPC, errno.EDQUOT}


class TooManyBad(RuntimeError):
    """More images cannot be used than the caller allows."""


@dataclass(frozen=True)
class Extraction:
    """What an extraction did.

    Args:
        out: Where the store is.
        extracted: How many images have maps.
        failed: Id to reason, of the images that have none.
        shards: Number of shards on disk.
        size_bytes: Their size together.
        seconds: Wall time of this run.
        device: Where the backbone ran.
        planned: How many images the store is to have.
        computed: How many images this run has computed.
        unplanned: How many images of the source are in no plan, since they came later; `append=True` takes them in.
        missing: Number of shards that are not on disk: those of the other runs (`shard_count`).
    """

    out: Storage
    extracted: int
    failed: Mapping[str, str]
    shards: int
    size_bytes: int
    seconds: float
    device: str
    planned: int
    computed: int
    unplanned: int = 0
    missing: int = 0

    @property
    def exit_code(self) -> int:
        """0 when every image has maps, 3 when some failed, 1 when all did."""
        if not self.failed:
            return 0
        return 3 if self.extracted else 1


def extract(
    source: ImageSource | ImageTable,
    out: Out,
    backbone: Backbone | Recipe,
    processor: BaseImageProcessor | None = None,
    *,
    size: tuple[int, int] | None = None,
    batch_size: int | None = None,
    dtype: str | None = None,
    device: str | torch.device | None = None,
    shard_bytes: int = SHARD_BYTES,
    append: bool = False,
    retry_quarantined: bool = False,
    max_bad: float | None = None,
    engine: str = "inline",
    workers: int | None = None,
    devices: Sequence[str] | None = None,
    engine_options: Mapping[str, Any] | None = None,
    shard_index: int = 0,
    shard_count: int = 1,
    progress: bool = True,
) -> Extraction:
    """Compute the selected feature maps of every image of `source` and store them in `out`.

    A plan, written first, says which images are in which shard; `out/shards/*.safetensors` appear one by one, each whole. The
    same call again computes what is missing, so it goes on after a crash; `vertebra.FeatureStore` reads them. An
    image that cannot be read, decoded or run, or whose maps pass the range of `dtype`, is put into quarantine with the
    reason, and the others go on.

    Args:
        source: A folder, a glob pattern, an image file, a list, a table of ids and uris, webdataset's tar files, or images in
            memory; see `image_table`.
        out: A new or an empty folder, or one that holds this very job; or a uri of such a place, as `s3://bucket/features`, for
            which the client of that protocol has to be installed (s3fs, gcsfs, …).
        backbone: In evaluation mode; its `out_features` are the levels stored. It is moved to `device`. Or a `Recipe`, which
            has more settings and can name a model, so that other processes load it.
        processor: The image processor that belongs to the backbone.
        size: `(height, width)` in pixels that images are brought to, by a processor that crops (timm's) after its usual crop; None
            leaves it to the processor.
        batch_size: How many images run together; None: 8.
        dtype: Dtype of the stored maps: `"float16"`, `"bfloat16"` or `"float32"`; None: what `out` has, else float16 on a
            CPU and bfloat16 on a GPU, where the backbone then computes in it as well.
        device: Where the backbone runs; None takes a GPU where there is one.
        shard_bytes: Size that shards aim at, in bytes.
        append: Take in images of the source that came after the plan was made, as one more plan.
        retry_quarantined: Try the images in quarantine again, as one more plan.
        max_bad: Share of the images, 0..1, that may be in quarantine; None allows all.
        engine: `"inline"` (this process), `"local"` (other processes of this machine; whoever calls it from a script needs
            `if __name__ == "__main__":`) or `"ray"`.
        workers: Processes of the engine.
        devices: What these run on, e.g. `["cuda:0", "cuda:1"]`.
        engine_options: Further arguments of the engine's `run`: `stall` of `"local"`, `address` and `gpus` of `"ray"`.
        shard_index: Which share of the shards this call computes, 0 to `shard_count - 1`.
        shard_count: How many calls share the work, on machines that see the same folder.
        progress: Show a bar on a terminal.

    Returns:
        What was done, `exit_code` included.

    Raises:
        ValueError: an argument that cannot be used, e.g. a size that the backbone does not run at; or `out` holds another job
            (the text says what differs) or other images.
        OSError: the source holds no image, or `out` holds something else, is too small or cannot be written.
        ImportError: the engine needs a package that is not installed.
        TooManyBad: more images than `max_bad` are in quarantine. What is done stays.
    """
    started = time.monotonic()
    if not 0 <= shard_index < shard_count:
        raise ValueError(
            f"shard_index={shard_index} must be within 0..{shard_count - 1}, since shard_count={shard_count}."
        )
    check_engine(engine, workers, devices, engine_options)
    run = find_engine(engine)
    found = image_table(source)
    recipe = _recipe(backbone, processor, size, batch_size, dtype, device or (devices[0] if devices else None))
    job = Runtime(replace(recipe, images=found.images, **settled(recipe, open_plans(out))))
    try:
        with _naming_full_disk(out):
            ledger, unplanned = plan_run(
                found, out, job, shard_bytes, append=append, retry_quarantined=retry_quarantined
            )
    finally:
        job.close()
    todo = {
        plan.generation: [k for k in ledger.missing(plan) if k % shard_count == shard_index] for plan in ledger.plans
    }
    count = sum(plan.size_of(k) for plan in ledger.plans for k in todo[plan.generation])
    refuse_small(ledger, todo)
    recipe = replace(job.recipe, dtype=job.dtype, compute_dtype=job.compute_dtype)
    if engine == "inline":
        recipe = replace(recipe, model=job.backbone, processor=job.processor, options={})

    def too_many() -> bool:
        return max_bad is not None and ledger.given_up > max_bad * ledger.planned

    before = ledger.size_bytes
    with _naming_full_disk(out), tqdm(total=count, unit="image", disable=None if progress else True) as bar:
        for plan in ledger.plans:
            if not todo[plan.generation] or too_many():
                continue

            def on_receipt(receipt: Receipt, plan: Plan = plan) -> None:
                ledger.add(plan, receipt.shard)
                bar.set_postfix_str(f"{_rate(ledger, before, started)}, {len(ledger.failed)} in quarantine")

            run(
                plan,
                recipe,
                todo[plan.generation],
                workers=workers,
                devices=devices,
                on_receipt=on_receipt,
                advance=bar.update,
                stop=too_many,
                **(engine_options or {}),
            )
        save_manifest(ledger.plans)
    remove_leftovers(ledger.plans[0].storage)
    if too_many():
        raise TooManyBad(
            f"{len(ledger.failed)} of {ledger.planned} images are in quarantine, more than max_bad={max_bad:g} allows; the "
            f"first: {_first(ledger)}. What is done stays in {str(ledger.plans[0].storage)!r}: the same call with a larger "
            f"max_bad goes on."
        )
    return Extraction(
        out=ledger.plans[0].storage,
        extracted=ledger.extracted,
        failed={id_: failure.error for id_, failure in sorted(ledger.failed.items())},
        shards=len(ledger.done),
        size_bytes=ledger.size_bytes,
        seconds=time.monotonic() - started,
        device=str(job.device),
        planned=ledger.planned,
        computed=count,
        unplanned=unplanned,
        missing=sum(len(ledger.missing(plan)) for plan in ledger.plans),
    )


def _recipe(
    backbone: Backbone | Recipe,
    processor: BaseImageProcessor | None,
    size: tuple[int, int] | None,
    batch_size: int | None,
    dtype: str | None,
    device: str | torch.device | None,
) -> Recipe:
    given = {
        "processor": processor,
        "size": size,
        "batch_size": batch_size,
        "dtype": dtype,
        "device": None if device is None else str(device),
    }
    given = {name: value for name, value in given.items() if value is not None}
    if isinstance(backbone, Recipe):
        return replace(backbone, **given)  # type: ignore[arg-type]
    return Recipe(backbone, **given)  # type: ignore[arg-type]


@contextmanager
def _naming_full_disk(out: Out) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise OSError(
            error.errno,
            f"The disk of {str(out)!r} is full. What is done stays; free space, and the same command goes on",
        ) from error


def refuse_small(ledger: Ledger, todo: Mapping[int, Sequence[int]]) -> None:
    """Check that the shards to be computed fit on the disk.

    Raises:
        OSError: they do not.
    """
    needed = sum(plan.bytes_per_image * plan.size_of(shard) for plan in ledger.plans for shard in todo[plan.generation])
    storage = ledger.plans[0].storage
    free = storage.free_bytes()
    if free is not None and needed > free:
        raise OSError(
            f"The maps need about {size_text(needed)}, and {size_text(free)} are free at {str(storage)!r}. Store less (fewer "
            f"levels, pooled maps, some of the channels), or free space; the same call goes on then."
        )


def size_text(count: float) -> str:
    """Bytes in MiB, or in GiB where there is one."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _rate(ledger: Ledger, before: int, started: float) -> str:
    return f"{(ledger.size_bytes - before) / max(time.monotonic() - started, 1e-9) / 1e6:.1f} MB/s"


def _first(ledger: Ledger) -> str:
    id_, failure = next(iter(ledger.failed.items()))
    return f"{id_!r}: {failure.error}"
