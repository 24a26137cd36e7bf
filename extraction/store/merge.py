"""Stores of one job that were computed apart, as one store: plans behind each other, shards under new numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from vertebra.errors import listing
from vertebra.extraction.ledger import RETRY
from vertebra.extraction.plan import Out, Plan, claim, diff, existing_plans, ids_file, open_plans
from vertebra.extraction.runtime import available_cores
from vertebra.extraction.shard_file import NO_CHECKSUM, blocks, header_bytes, read_header, shard_name
from vertebra.extraction.storage import Storage
from vertebra.extraction.store.manifest import present, save_manifest
from vertebra.headers import LENGTH_BYTES

if TYPE_CHECKING:
    import pyarrow as pa

MAX_THREADS = 8
SHOWN = 3


def merge(stores: Sequence[Out], out: Out, *, progress: bool = False) -> list[Plan]:
    """Copy stores of one job with different images into a new store.

    Every plan becomes a plan of the new store, in the order given, and every shard a shard of it; shards that a store still lacks,
    the new one lacks too, and the same extraction computes them. A shard whose bytes are not those that were written ends the
    merge. The same call again goes on where it stopped.

    Args:
        stores: At least two, e.g. of machines that shared no folder.
        out: A new place, or what the same call has begun.
        progress: Show a bar on a terminal.

    Returns:
        The plans of the new store.

    Raises:
        ValueError: the stores are of different jobs (lists in what), or have images in common (names some); or `out` is one of
            them.
        FileExistsError: `out` holds something else.
        OSError: there is no store, a shard is damaged, or `out` has too little space or cannot be written.
    """
    sources = [existing_plans(store) for store in stores]
    if len(sources) < 2:
        raise ValueError(f"There are {len(sources)} stores to merge; give two or more.")
    for plans in sources[1:]:
        _refuse_other_job(sources[0][0], plans[0])
    _refuse_common(sources)
    place = claim(out)
    if any(_is_same(plans[0].storage, place) for plans in sources):
        raise ValueError(f"{str(place)!r} is one of the stores to merge; OUT has to be a new or an empty folder.")
    pairs = _write_plans([plan for plans in sources for plan in plans], place)
    work = [(source, target, shard) for source, target in pairs for shard in _to_copy(source, target)]
    needed = sum(source.storage.size(shard_name(shard)) for source, _, shard in work)
    free = place.free_bytes()
    if free is not None and needed > free:
        raise OSError(
            f"The shards take {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free at {str(place)!r}."
        )
    with (
        ThreadPoolExecutor(min(MAX_THREADS, available_cores())) as pool,
        tqdm(total=needed, unit="B", unit_scale=True, disable=None if progress else True) as bar,
    ):
        for size in pool.map(_copy, *zip(*work, strict=True)) if work else ():
            bar.update(size)
    merged = [target for _, target in pairs]
    save_manifest(merged)
    return merged


def _is_same(one: Storage, other: Storage) -> bool:
    here, there = one.local(""), other.local("")
    if here is None or there is None:
        return str(one) == str(other)
    return here.resolve() == there.resolve()


def _refuse_other_job(first: Plan, other: Plan) -> None:
    if first.fingerprint != other.fingerprint:
        changes = "\n".join(
            f"  {line}" for line in diff(first.meaning, other.meaning, names=("the first", "the other"))
        )
        raise ValueError(
            f"{str(first.storage)!r} and {str(other.storage)!r} hold the features of different jobs:\n{changes}\nThey stay "
            f"two stores; what differs has to be computed anew for one of them."
        )


def _refuse_common(sources: Sequence[Sequence[Plan]]) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    before = pa.array([], pa.large_string())
    for plans in sources:
        ids = pa.concat_arrays(
            [plan.table()["id"].combine_chunks() for plan in plans if plan.record.get("kind") != RETRY]
        )
        common = ids.filter(pc.is_in(ids, value_set=before))
        if len(common):
            raise ValueError(
                f"{len(common)} images of {str(plans[0].storage)!r} are in a store before it as well: "
                f"{listing(map(repr, common[:SHOWN].to_pylist()))}. Every image has one record; extract them under other ids, "
                f"or leave one of the stores out."
            )
        before = pa.concat_arrays([before, ids])


def _write_plans(plans: Sequence[Plan], place: Storage) -> list[tuple[Plan, Plan]]:
    """Each plan with what it becomes; the new ones are written."""
    before = open_plans(place)
    pairs: list[tuple[Plan, Plan]] = []
    first = 0
    for generation, plan in enumerate(plans):
        content = ids_file(_renumbered(plan, first - plan.first), plan.per_shard)
        kind = plan.record.get("kind") if generation == 0 or plan.record.get("kind") == RETRY else "append"
        target = replace(
            plan,
            storage=place,
            generation=generation,
            first=first,
            digest=hashlib.sha256(content).hexdigest(),
            record={**plan.record, "kind": kind, "merged_from": str(plan.storage)},
        )
        pairs.append((plan, target))
        first += plan.count
        if generation < len(before):
            if before[generation].digest != target.digest or before[generation].fingerprint != target.fingerprint:
                raise FileExistsError(f"{str(place)!r} holds another store; give a new or an empty folder.")
            continue
        with place.write(f"{target.name}.parquet") as file:
            file.write(content)
        target.write()
    if len(before) > len(pairs):
        raise FileExistsError(f"{str(place)!r} holds another store, with more plans; give a new or an empty folder.")
    return pairs


def _renumbered(plan: Plan, shift: int) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    table = plan.table()
    shards = pc.add(table["shard"], pa.scalar(shift, pa.int32()))
    return table.set_column(table.column_names.index("shard"), "shard", shards)


def _to_copy(source: Plan, target: Plan) -> Iterator[int]:
    """Shards of a plan that its copy has not got yet."""
    shift, there = target.first - source.first, target.done()
    yield from (shard for shard in present([source]) if shard in source.shards and shard + shift not in there)


def _copy(source: Plan, target: Plan, shard: int) -> int:
    """Write a shard under its new number, with a new header and a new checksum; returns its bytes."""
    name, number = shard_name(shard), shard - source.first + target.first
    facts = read_header(source.storage, name).metadata
    if any(facts.get(fact) != value for fact, value in source.facts(shard).items()):
        raise OSError(
            f"'{source.storage}/{name}' is not of its store's plan. `vertebra features verify` says what it is."
        )
    with source.storage.open(name) as file:
        start = file.read(LENGTH_BYTES)
        old = file.read(int.from_bytes(start, "little"))
        new = _new_header(old, target.facts(number))
        stated = facts["checksum"]
        before = hashlib.sha256(start + old.replace(stated.encode(), NO_CHECKSUM.encode(), 1))
        after = hashlib.sha256(new)
        for block in blocks(file):
            before.update(block)
            after.update(block)
        if before.hexdigest() != stated:
            raise OSError(
                f"'{source.storage}/{name}' is damaged: its bytes are not those that were written. Repair its store first: "
                f"`vertebra features verify {source.storage} --remove-damaged`, then the same extraction."
            )
        file.seek(LENGTH_BYTES + len(old))
        with target.storage.write(shard_name(number)) as copy:
            size = copy.write(new.replace(NO_CHECKSUM.encode(), after.hexdigest().encode(), 1))
            for block in blocks(file):
                size += copy.write(block)
    return size


def _new_header(old: bytes, facts: Any) -> bytes:
    content = json.loads(old)
    content["__metadata__"] |= {"checksum": NO_CHECKSUM, **facts}
    return header_bytes(content)
