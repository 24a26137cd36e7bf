"""The records of a store as two files, `manifest.parquet` and `quarantine.parquet`: a cache of the headers, never the truth.

The first holds `Records.images`, the second `Records.failures` with the images' uris. The metadata of both say which plans and
which shards they were made of. Equal stores have equal files. A shard that is newer than the manifest counts as changed; so after
`cp -r` headers are read, until `vertebra features index` has made the manifest anew.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vertebra.extraction.ledger import RETRY
from vertebra.extraction.plan import Plan
from vertebra.extraction.shard_file import FOLDER, shard_number
from vertebra.extraction.storage import Entry, Storage
from vertebra.extraction.store.records import Records, failure_schema, image_schema, newest, read_records

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

MANIFEST, QUARANTINE = "manifest.parquet", "quarantine.parquet"
FORMAT = 1
FACTS = b"vertebra"
TEXTS = ("id", "uri", "error")
"""Columns of which no two rows are equal."""
GROUP = 2**17
"""Rows of a row group."""


@dataclass(frozen=True)
class Manifest:
    """What of a store can be read.

    Args:
        records: What became of each image.
        shards: Number to bytes, of the shards that say so.
    """

    records: Records
    shards: Mapping[int, int]


def load_manifest(plans: Sequence[Plan]) -> Manifest:
    """What of a store can be read: from the cache where that fits what is on disk, else from the headers of shards.

    Shards that came after the cache are read and added to it. Where one that it knows was changed or removed, all are read.
    Damaged shards are reported and left out. Nothing is written.

    Args:
        plans: All plans of the store, oldest first.

    Raises:
        FileExistsError: a file in the place of a shard is of another plan.
    """
    entries = present(plans)
    cached = _cached(plans, entries)
    if cached is None:
        return _read(plans, entries)
    new = {shard: entry for shard, entry in entries.items() if shard not in cached.shards}
    if not new:
        return cached
    added = _read(plans, new)
    return Manifest(newest([cached.records, added.records]), {**cached.shards, **added.shards})


def build_manifest(plans: Sequence[Plan]) -> Manifest:
    """What of a store can be read, from the headers of shards alone. Raises what `load_manifest` does."""
    return _read(plans, present(plans))


def save_manifest(plans: Sequence[Plan], manifest: Manifest | None = None) -> Manifest:
    """Write both files, the one with the images last.

    Args:
        plans: All plans of the store, oldest first.
        manifest: What is written; None: what `load_manifest` gives, where that is not there already.

    Raises:
        OSError: the store cannot be written.
    """
    if manifest is None:
        if is_current(plans):
            return load_manifest(plans)
        manifest = load_manifest(plans)
    records, storage = manifest.records, plans[0].storage
    facts = {FACTS: json.dumps({"format": FORMAT, "plans": _digests(plans), "shards": sorted(manifest.shards.items())})}
    for name, table in ((QUARANTINE, _with_uris(records.failures, plans)), (MANIFEST, records.images)):
        _write(storage, name, table.replace_schema_metadata(facts))
    return manifest


def is_current(plans: Sequence[Plan]) -> bool | None:
    """Whether the cache knows all that is on disk; None where there is none."""
    entries = present(plans)
    cached = _cached(plans, entries)
    if cached is None and not {MANIFEST, QUARANTINE} & set(plans[0].storage.names()):
        return None
    return cached is not None and cached.shards.keys() == entries.keys()


def present(plans: Sequence[Plan]) -> dict[int, Entry]:
    """The shards of these plans that are on disk, by number."""
    numbered = ((shard_number(name), entry) for name, entry in plans[0].storage.entries(FOLDER).items())
    found = ((shard, entry) for shard, entry in numbered if shard is not None)
    return dict(sorted((shard, entry) for shard, entry in found if any(shard in plan.shards for plan in plans)))


def _read(plans: Sequence[Plan], entries: Mapping[int, Entry]) -> Manifest:
    records, shards = read_records(plans, entries)
    return Manifest(records, {shard: entries[shard].size for shard in shards})


def _digests(plans: Sequence[Plan]) -> list[str]:
    return [plan.digest for plan in plans]


def _cached(plans: Sequence[Plan], entries: Mapping[int, Entry]) -> Manifest | None:
    """The cache; None where there is none, or one of its shards is not as it was."""
    storage = plans[0].storage
    top = storage.entries()
    if MANIFEST not in top or QUARANTINE not in top:
        return None
    try:
        images, failures = _load(storage, MANIFEST, image_schema()), _load(storage, QUARANTINE, failure_schema())
        facts = json.loads(images.schema.metadata[FACTS])
        shards = {int(shard): int(size) for shard, size in facts["shards"]}
        stale = facts["format"] != FORMAT or facts["plans"] != _digests(plans)[: len(facts["plans"])]
        stale = stale or images.schema.metadata[FACTS] != failures.schema.metadata[FACTS]
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning(
            "%r cannot be read (%s), so the headers of all shards are; `vertebra features index %s` makes it anew.",
            f"{storage}/{MANIFEST}",
            error,
            storage,
        )
        return None
    written = top[MANIFEST].changed
    if stale or not all(_is_as_it_was(entries.get(shard), size, written) for shard, size in shards.items()):
        return None
    return Manifest(Records(images.replace_schema_metadata(), failures.replace_schema_metadata()), shards)


def _is_as_it_was(entry: Entry | None, size: int, written: int | None) -> bool:
    if entry is None or entry.size != size:
        return False
    return entry.changed is None or written is None or entry.changed <= written


def _load(storage: Storage, name: str, schema: pa.Schema) -> pa.Table:
    """A table with the columns of a schema. Raises ValueError where it lacks some."""
    from pyarrow import parquet

    path = storage.local(name)
    table = parquet.read_table(path or io.BytesIO(storage.read(name)), memory_map=path is not None)
    metadata = table.schema.metadata
    return table.select(schema.names).cast(schema.with_metadata(metadata)).combine_chunks()


def _write(storage: Storage, name: str, table: pa.Table) -> None:
    from pyarrow import parquet

    texts = [column for column in table.column_names if column in TEXTS]
    with storage.write(name) as file:
        parquet.write_table(
            table,
            file,
            compression="zstd",
            row_group_size=GROUP,
            use_dictionary=[column for column in table.column_names if column not in texts],
            column_encoding=dict.fromkeys(texts, "DELTA_BYTE_ARRAY"),
        )


def _with_uris(failures: pa.Table, plans: Sequence[Plan]) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not len(failures):
        return failures.add_column(1, "uri", pa.array([], pa.large_string()))
    wanted = failures["id"].combine_chunks()
    tables = [plan.table().select(["id", "uri"]) for plan in plans if plan.record.get("kind") != RETRY]
    found = pa.concat_tables(table.filter(pc.is_in(table["id"], value_set=wanted)) for table in tables).combine_chunks()
    uris = found["uri"].take(pc.index_in(wanted, value_set=found["id"].combine_chunks()))
    return failures.add_column(1, "uri", uris)
