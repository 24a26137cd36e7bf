"""Whether a store is whole: every image has one record, every file is what it was when it was written."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from vertebra.errors import listing
from vertebra.extraction.ledger import RETRY
from vertebra.extraction.plan import Out, Plan, existing_plans
from vertebra.extraction.runtime import available_cores
from vertebra.extraction.shard_file import FOLDER, shard_name
from vertebra.extraction.storage import Entry, Storage, open_storage
from vertebra.extraction.store.findings import (
    DAMAGED,
    MISPLACED,
    MISSING,
    PLAN,
    SHOWN,
    STRANGE,
    UNEVEN,
    UNREADABLE,
    Finding,
    Report,
)
from vertebra.extraction.store.manifest import present
from vertebra.extraction.store.plan_check import check_ids, check_plans, check_repeats
from vertebra.extraction.store.records import NO_ROW, newest
from vertebra.extraction.store.shard_check import Checked, Expected, check_shard
from vertebra.extraction.store.strays import check_manifest, strays

MAX_THREADS = 16


def verify_store(out: Out, *, progress: bool = False) -> Report:
    """Read a whole store and compare every file with what it should be. Nothing is changed.

    Each shard is read and compared with its checksum, the ids in its header with its plan, its tensors with its ids and with
    the levels; plans with each other and with their files of ids; the manifest with the headers; and other files are listed.

    Args:
        out: Where the store is.
        progress: Show a bar on a terminal.

    Raises:
        FileNotFoundError: there is no store.
    """
    storage = open_storage(out)
    try:
        plans = existing_plans(storage)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        advice = "Put the original back: the plan says which images are where. The shards are not touched."
        return Report(str(storage), findings=[Finding(PLAN, "plan", str(error), advice)])
    findings = [finding for finding in map(check_ids, plans) if finding]
    readable = [plan for plan in plans if f"{plan.name}.parquet" not in {finding.name for finding in findings}]
    findings += check_plans(storage, plans)
    if len(readable) == len(plans):
        findings += check_repeats(plans)
    entries = present(plans)
    checked = list(_check(plans, readable, entries, progress))
    sound = [found for found in checked if found.records is not None]
    findings += [*_shards(storage, checked), *_cells(sound), *_missing(plans, checked), *_twice(plans, sound)]
    records = newest(found.records for found in sound if found.records is not None)
    if len(sound) == len(entries):
        findings += check_manifest(storage, plans, records)
    findings += strays(storage, plans)
    extracted = int((records.images["row"].to_numpy() != NO_ROW).sum())
    return Report(
        str(storage),
        planned=sum(plan.ids for plan in plans if plan.record.get("kind") != RETRY),
        extracted=extracted,
        quarantined=len(records.images) - extracted,
        shards=len(sound),
        size_bytes=sum(entries[found.shard].size for found in sound),
        findings=findings,
    )


def remove_damaged(report: Report) -> list[str]:
    """Remove the shards that a report calls damaged or misplaced, so that the next extraction computes them; returns their names.

    A sound shard of another store is left where it is: nobody could compute it again from here.

    Raises:
        OSError: they cannot be removed.
    """
    storage = open_storage(report.store)
    names = [finding.name for finding in report.findings if finding.kind == DAMAGED or _is_swapped(finding)]
    for name in names:
        storage.remove(name)
    return names


def _is_swapped(finding: Finding) -> bool:
    return finding.kind == MISPLACED and finding.text.endswith("of this plan.")


def _check(
    plans: Sequence[Plan], readable: Sequence[Plan], entries: Mapping[int, Entry], progress: bool
) -> Iterator[Checked]:
    lock = threading.Lock()
    levels = {level["name"]: level["channels"] for level in plans[0].meaning["levels"]}
    owners = {shard: plan for plan in plans for shard in plan.shards}

    def check(shard: int) -> Checked:
        plan = owners[shard]
        with lock:  # the file of ids is read by one thread at a time
            ids = [image.id for image in plan.ids_of(shard)] if plan in readable else None
        return check_shard(plan, shard, Expected(ids, levels, plans[0].meaning["dtype"]))

    total = sum(entry.size for entry in entries.values())
    with (
        ThreadPoolExecutor(min(MAX_THREADS, available_cores())) as pool,
        tqdm(total=total, unit="B", unit_scale=True, disable=None if progress else True) as bar,
    ):
        for found in pool.map(check, entries):
            bar.update(entries[found.shard].size)
            yield found


def _shards(storage: Storage, checked: Iterable[Checked]) -> Iterator[Finding]:
    again = (
        f"`vertebra features verify {storage} --remove-damaged` removes it; the same extraction then computes it anew."
    )
    for found in checked:
        name = shard_name(found.shard)
        if found.damage:
            yield Finding(DAMAGED, name, found.damage, again)
        elif found.unreadable:
            yield Finding(UNREADABLE, name, found.unreadable, "Make it readable, and verify again.")
        elif found.misplaced:
            finding = Finding(MISPLACED, name, found.misplaced, f"Give it its right name. Or: {again}")
            if not _is_swapped(finding):
                finding = Finding(
                    MISPLACED, name, found.misplaced, "Move it away; the same extraction then computes this one."
                )
            yield finding


def _cells(sound: Sequence[Checked]) -> Iterator[Finding]:
    first: dict[str, tuple[tuple[int, ...], int]] = {}
    for found in sound:
        for tensor, cells in (found.cells or {}).items():
            before, shard = first.setdefault(tensor, (cells, found.shard))
            if cells != before:
                text = f"the maps of {tensor} have {cells} cells, and {before} in {shard_name(shard)}."
                yield Finding(
                    UNEVEN, shard_name(found.shard), text, "Remove the wrong one of the two, and extract again."
                )


def _missing(plans: Sequence[Plan], checked: Iterable[Checked]) -> Iterator[Finding]:
    there = {found.shard for found in checked}
    for plan in plans:
        missing = [shard for shard in plan.shards if shard not in there]
        if missing:
            images = sum(map(plan.size_of, missing))
            text = (
                f"{len(missing)} of {plan.count} shards are not on disk ({images} images): {listing(missing, SHOWN)}."
            )
            yield Finding(MISSING, plan.name, text, "The same extraction computes them.")


def _twice(plans: Sequence[Plan], sound: Sequence[Checked]) -> Iterator[Finding]:
    """Images that have maps in a retry and also where they failed before: the shard of old was lost and computed again."""
    import pyarrow.compute as pc

    again = any(plan.record.get("kind") == RETRY for plan in plans)
    counts: Counter[str] = Counter()
    for found in sound if again else ():
        if found.records is not None:
            images = found.records.images
            counts.update(images["id"].filter(pc.not_equal(images["row"], NO_ROW)).to_pylist())
    if twice := [id_ for id_, count in counts.items() if count > 1]:
        text = f"{len(twice)} images have maps in two shards, since they were tried again: {listing(map(repr, twice), SHOWN)}."
        yield Finding(STRANGE, FOLDER, text, "Those of the later plan are read.")
