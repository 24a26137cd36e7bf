"""One row for each image: what the headers of shards say of it, as tables."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vertebra.extraction.plan import Plan
from vertebra.extraction.shard_file import read_quarantine, shard_name

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

MAPS = "maps"
NO_ROW = -1
THREADS = 8
"""Headers that are read at once: where files are far away, many take as long as one."""


@dataclass(frozen=True)
class Records:
    """What became of images.

    Args:
        images: One row for each image, sorted by id; the columns are in `image_schema`.
        failures: Of those without maps, the reason, sorted by id; the columns are in `failure_schema`.
    """

    images: pa.Table
    failures: pa.Table


def image_schema() -> pa.Schema:
    """Columns of `Records.images`.

    `status` is `"maps"`, or the stage that failed. `row` is the one in the shard's tensors of that `size`, which is the
    `"HEIGHTxWIDTH"` at which the image was processed; `height` and `width` are those of the original image. Without maps the row
    is -1, and there are no sizes.
    """
    import pyarrow as pa

    words, number = pa.dictionary(pa.int32(), pa.string()), pa.int32()
    kinds = {"status": words, "shard": number, "row": number, "size": words, "height": number, "width": number}
    return pa.schema({"id": pa.large_string(), **kinds, "generation": number})


def failure_schema() -> pa.Schema:
    """Columns of `Records.failures`: those of a `Failure`, and where it stands."""
    import pyarrow as pa

    text, number = pa.large_string(), pa.int32()
    return pa.schema({"id": text, "stage": text, "error": text, "tries": number, "shard": number, "generation": number})


def read_records(plans: Sequence[Plan], shards: Iterable[int]) -> tuple[Records, list[int]]:
    """Read the headers of shards. Files that are damaged are reported and left out.

    Args:
        plans: All plans of a store.
        shards: Numbers of shards that are on disk.

    Returns:
        The records, and the shards that could be read.

    Raises:
        FileExistsError: a file in the place of a shard is of another plan.
    """
    owners = {shard: plan for plan in plans for shard in plan.shards}
    wanted = [(owners[shard], shard) for shard in shards]
    with ThreadPoolExecutor(THREADS) as pool:
        found = [records for records in pool.map(_read, *zip(*wanted, strict=True)) if records] if wanted else []
    return newest(records for _, records in found), [shard for shard, _ in found]


def newest(parts: Iterable[Records]) -> Records:
    """Several records as one. Of an image that was tried again the maps stand, or the last failure."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = list(parts)
    images = pa.concat_tables([image_schema().empty_table(), *(part.images for part in found)]).unify_dictionaries()
    failures = pa.concat_tables([failure_schema().empty_table(), *(part.failures for part in found)])
    images = _last_of_each(images, images["row"].to_numpy() != NO_ROW)
    failures = _last_of_each(failures, np.zeros(len(failures), bool))
    has_maps = images["row"].to_numpy() != NO_ROW
    if len(failures) + has_maps.sum() != len(images):  # some that failed have maps since
        failed = images["id"].filter(pa.array(~has_maps)).combine_chunks()
        failures = failures.filter(pc.is_in(failures["id"], value_set=failed)).combine_chunks()
    return Records(_with_words_in_order(images), failures)


def _with_words_in_order(images: pa.Table) -> pa.Table:
    """The table with dictionaries in the order of their first use, so that equal tables have equal bytes."""
    for name in ("status", "size"):
        column = images.schema.get_field_index(name)
        words = images[name].cast(images.schema.field(name).type.value_type).dictionary_encode()
        images = images.set_column(column, images.schema.field(name), words)
    return images.combine_chunks()


def _last_of_each(table: pa.Table, wins: Any) -> pa.Table:
    """The rows sorted by id; of rows with one id the last, or the last of those that win."""
    import pyarrow.compute as pc

    order = np.lexsort((table["shard"].to_numpy(), wins))
    table = table.take(order)
    table = table.take(pc.sort_indices(table["id"])).combine_chunks()
    if len(table) < 2:
        return table
    last = pc.not_equal(table["id"][1:], table["id"][:-1]).to_numpy()
    return table if last.all() else table.filter(np.append(last, True))


def _read(plan: Plan, shard: int) -> tuple[int, Records] | None:
    header = plan.header(shard)
    if header is None:
        return None
    try:
        return shard, shard_records(plan, shard, header)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        logger.warning(
            "The header of '%s/%s' is damaged: %r. It counts as missing, and the same extraction computes it anew.",
            plan.storage,
            shard_name(shard),
            error,
        )
        return None


def shard_records(plan: Plan, shard: int, header: Mapping[str, str]) -> Records:
    """What the header of a shard says.

    Raises:
        KeyError, ValueError, TypeError, AttributeError: it is damaged.
    """
    import pyarrow as pa

    buckets, failed = read_ids(header), read_quarantine(header)
    originals = json.loads(header["sizes"])
    ids = [id_ for bucket in buckets.values() for id_ in bucket]
    counts = list(map(len, buckets.values()))
    stages = [failure.stage for failure in failed.values()]
    size = np.array([originals[id_] for id_ in ids], np.int32).reshape(len(ids), 2)
    everywhere = {"shard": shard, "generation": plan.generation}
    images = {
        "id": [*ids, *failed],
        "status": _words([MAPS, *stages], [len(ids)] + [1] * len(failed)),
        "row": np.concatenate([*map(np.arange, counts), np.full(len(failed), NO_ROW)]).astype(np.int32),
        "size": _words([*buckets, None], [*counts, len(failed)]),
        "height": pa.array([*size[:, 0].tolist(), *[None] * len(failed)], pa.int32()),
        "width": pa.array([*size[:, 1].tolist(), *[None] * len(failed)], pa.int32()),
        **{name: np.full(len(ids) + len(failed), value, np.int32) for name, value in everywhere.items()},
    }
    failures = {
        "id": list(failed),
        "stage": stages,
        **{name: [getattr(failure, name) for failure in failed.values()] for name in ("error", "tries")},
        **{name: [value] * len(failed) for name, value in everywhere.items()},
    }
    return Records(pa.table(images, image_schema()), pa.table(failures, failure_schema()))


def _words(words: Sequence[str | None], counts: Sequence[int]) -> pa.Array:
    """Each word so many times."""
    import pyarrow as pa

    known = pa.array(words, pa.string()).dictionary_encode()
    return known.take(pa.array(np.repeat(np.arange(len(words)), counts)))


def read_ids(header: Mapping[str, str]) -> dict[str, list[str]]:
    """Ids in row order, by the `"HEIGHTxWIDTH"` at which their images were processed.

    Raises:
        KeyError, ValueError: the header does not say it.
    """
    found: dict[str, list[str]] = {}
    for name, ids in header.items():
        kind, _, size = name.partition("@")
        if kind == "ids" and ids != "[]":
            found[size or header["size"]] = json.loads(ids)
    return found
