"""What an extraction will take: images, bytes, time, measured on a sample. Nothing is written."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, replace

from vertebra.extraction.generations import settled, unplanned
from vertebra.extraction.image_table import ImageSource, ImageTable, image_table
from vertebra.extraction.images import ImageRef
from vertebra.extraction.ledger import Ledger
from vertebra.extraction.plan import Out, claim, open_plans, refuse_another_job
from vertebra.extraction.recipe import Recipe
from vertebra.extraction.runtime import Runtime
from vertebra.extraction.storage import open_storage
from vertebra.extraction.worker import compute_shard

SAMPLE = 64


@dataclass(frozen=True)
class Estimate:
    """What is still to be done.

    Args:
        images: How many images are to be computed; those in plans that are begun and those that came later together.
        done: How many images have maps already.
        size_bytes: Bytes that the maps will take.
        free_bytes: Bytes that are free where they go; None where nobody knows, as in a bucket.
        sample: How many images were computed to know.
        bad: How many of these cannot be used.
        images_per_second: How fast this process computed them, reading and decoding included.
        device: Where.
    """

    images: int
    done: int
    size_bytes: int
    free_bytes: int | None
    sample: int
    bad: int
    images_per_second: float
    device: str

    @property
    def seconds(self) -> float:
        """How long one process will take."""
        return self.images / self.images_per_second if self.images_per_second else 0.0

    @property
    def fits(self) -> bool:
        """Whether there is space enough, as far as anybody knows."""
        return self.free_bytes is None or self.size_bytes <= self.free_bytes


def estimate(source: ImageSource | ImageTable, out: Out, recipe: Recipe, sample: int = SAMPLE) -> Estimate:
    """Measure a sample of the images that an extraction would compute.

    Args:
        source: The images; see `image_table`.
        out: Where the store is or will be.
        recipe: How maps are computed.
        sample: How many images are computed, at most.

    Raises:
        ValueError: `out` holds another job or other images.
        OSError: the source holds no image, or `out` holds something else.
    """
    found = image_table(source)
    plans = open_plans(out)
    if not plans:
        claim(out)
    job = Runtime(replace(recipe, images=found.images, **settled(recipe, plans)))
    try:
        ledger = Ledger(plans)
        images = len(found)
        if plans:
            refuse_another_job(plans[0], job)
            missing = sum(plan.size_of(shard) for plan in plans for shard in ledger.missing(plan))
            images = missing + len(unplanned(found, plans))
        rows = sorted(random.Random(0).sample(range(len(found)), min(sample, len(found))))
        chosen = found.table.take(rows).to_pydict()
        refs = list(map(ImageRef, chosen["id"], chosen["uri"]))
        compute_shard(refs[: job.recipe.batch_size], job)  # the first batch pays for what is set up once
        started = time.monotonic()
        shard, _ = compute_shard(refs, job)
        seconds = time.monotonic() - started
    finally:
        job.close()
    good = len(refs) - len(shard.quarantine)
    stored = sum(batch.nbytes for levels in shard.maps.values() for batches in levels.values() for batch in batches)
    size = images * stored // len(refs)
    free = open_storage(out).free_bytes()
    return Estimate(
        images, ledger.extracted, size, free, len(refs), len(refs) - good, len(refs) / seconds, str(job.device)
    )
