"""From a source and a folder to the plans that a run works on: begun, resumed, appended to, tried again."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from vertebra.errors import listing
from vertebra.extraction.image_table import ImageTable
from vertebra.extraction.images import ImageRef
from vertebra.extraction.ledger import RETRY, Ledger
from vertebra.extraction.plan import (
    SHARD_BYTES,
    Out,
    Plan,
    PlannedMeanwhile,
    diff,
    make_plan,
    open_plans,
    refuse_another_job,
)
from vertebra.extraction.recipe import Recipe
from vertebra.extraction.runtime import BadImage, Runtime
from vertebra.extraction.storage import Storage, open_storage

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

SAMPLE = 16
"""Images that are opened to know how large their maps will be."""
CIRCUMSTANCES = ("versions", "batch_size", "device", "channels_last")
"""What may change between runs, and can move values within rounding."""


class Generations(NamedTuple):
    """What a run works on.

    Args:
        ledger: All plans, and what of them is done.
        unplanned: How many images of the source are in no plan, since they came later.
    """

    ledger: Ledger
    unplanned: int


def settled(recipe: Recipe, plans: Sequence[Plan]) -> dict[str, Any]:
    """The dtypes of a store for a recipe that leaves them open: another machine would choose others."""
    if not plans:
        return {}
    return {name: plans[0].meaning[name] for name in ("dtype", "compute_dtype") if getattr(recipe, name) is None}


def plan_run(
    found: ImageTable,
    out: Out,
    job: Runtime,
    shard_bytes: int = SHARD_BYTES,
    *,
    append: bool = False,
    retry_quarantined: bool = False,
) -> Generations:
    """Plan a new store, or take up the plans of one.

    Args:
        found: The images of the source.
        out: Where the store is or will be.
        job: What is computed.
        shard_bytes: Size that new shards aim at, in bytes.
        append: Images of the source that are in no plan make one more plan.
        retry_quarantined: Images in quarantine make one more plan.

    Raises:
        ValueError: the store is of another job, or of another set of images.
        OSError: `out` holds something else, or cannot be written.
    """
    while True:
        try:
            return _plan_run(found, open_storage(out), job, shard_bytes, append, retry_quarantined)
        except PlannedMeanwhile:  # of several runs that begin at once one writes the plan, and the others take it up
            continue


def _plan_run(
    found: ImageTable, out: Storage, job: Runtime, shard_bytes: int, append: bool, retry_quarantined: bool
) -> Generations:
    plans = open_plans(out)
    if not plans:
        first = make_plan(found, out, job, shard_bytes, bytes_per_image=expected_bytes(found, job), after=0)
        return Generations(Ledger([first]), 0)
    refuse_another_job(plans[0], job)
    _tell_changes(plans[-1], job)
    new = unplanned(found, plans, append)
    if append and len(new):
        size = expected_bytes(new, job)
        plans.append(make_plan(new, out, job, shard_bytes, kind="append", bytes_per_image=size, after=len(plans)))
    ledger = Ledger(plans)
    if retry_quarantined:
        table, tried = ledger.to_retry()
        if len(table):
            again = ImageTable(table, found.images, "the quarantine")
            plan = make_plan(again, out, job, shard_bytes, kind=RETRY, tried=tried, after=len(plans))
            ledger = Ledger([*plans, plan])
    return Generations(ledger, 0 if append else len(new))


def _tell_changes(plan: Plan, job: Runtime) -> None:
    now = job.record
    changes = diff(*({name: record.get(name) for name in CIRCUMSTANCES} for record in (plan.record, now)))
    if changes:
        logger.warning(
            "Going on under other circumstances, so values may differ within rounding: %s.", "; ".join(changes)
        )


def unplanned(found: ImageTable, plans: Sequence[Plan], others: bool = False) -> ImageTable:
    """The images of a source that are in no plan.

    Raises:
        ValueError: none is in a plan and `others` does not allow that, or one is there with another uri.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    planned = pa.concat_tables(
        plan.table().select(["id", "uri"]) for plan in plans if plan.record.get("kind") != RETRY
    ).combine_chunks()
    places = pc.index_in(found.table["id"], value_set=planned["id"].chunk(0)).combine_chunks()
    known = pc.is_valid(places)
    if not others and not pc.any(known).as_py():
        raise ValueError(
            f"{str(plans[0].storage)!r} holds the features of other images ({_examples(planned)}); none of {found.source} is "
            f"among them ({_examples(found.table)}). Give another folder, or append=True (--append) to add them."
        )
    _refuse_moved(found, planned, places)
    return ImageTable(found.table.filter(pc.invert(known)), found.images, found.source)


def _refuse_moved(found: ImageTable, planned: pa.Table, places: Any) -> None:
    import pyarrow.compute as pc

    known = found.table.filter(pc.is_valid(places))
    before = planned["uri"].take(pc.drop_null(places))
    moved = pc.not_equal(known["uri"], before)
    if pc.any(moved).as_py():  # None where there is nothing to compare
        row = pc.index(moved, True).as_py()
        raise ValueError(
            f"The id {known['id'][row].as_py()!r} is the image {before[row].as_py()!r} in the store and "
            f"{known['uri'][row].as_py()!r} in the source ({pc.sum(moved).as_py()} of {len(known)} ids differ so). Give other "
            f"images other ids; images that were moved are found again through a link at their old place."
        )


def _examples(table: pa.Table) -> str:
    return listing([repr(id_) for id_ in table["id"].slice(0, 3).to_pylist()])


def expected_bytes(found: ImageTable, job: Runtime) -> int:
    """Bytes of the maps of an image, on average of a sample; the job's own estimate where none can be opened."""
    rows = sorted(random.Random(0).sample(range(len(found)), min(SAMPLE, len(found))))
    sample = found.table.take(rows).to_pydict()
    futures = [
        job.threads.submit(job.prepare, ImageRef(*pair)) for pair in zip(sample["id"], sample["uri"], strict=True)
    ]
    sizes = []
    for future in futures:
        try:
            sizes.append(job.bytes_at(*future.result().size))
        except (BadImage, ValueError):  # said when its turn comes
            continue
    return round(sum(sizes) / len(sizes)) if sizes else job.bytes_per_image()
