"""The plan of an extraction: which images are in which shard of which job, written once and never changed."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, Union

from vertebra.errors import listing
from vertebra.extraction.image_table import ImageSource, ImageTable, image_table
from vertebra.extraction.images import ImageRef
from vertebra.extraction.recipe import fingerprint
from vertebra.extraction.shard_file import (
    FOLDER,
    FORMAT,
    Failure,
    read_metadata,
    read_quarantine,
    sha256,
    shard_name,
    shard_number,
)
from vertebra.extraction.storage import Storage, open_storage
from vertebra.headers import DamagedFile

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

Out: TypeAlias = Union[str, "os.PathLike[str]", Storage]
"""Where a store is: a folder, a uri, or a storage that is open."""
SHARD_BYTES = 256 * 2**20
MAX_IDS = 8192
"""Images that a shard may have: its header is read whole."""
HEADER_BYTES = 2**24
"""Bytes that the ids of a shard may take, twice over."""
GROUP = 2**14
"""Rows, about, that are read to know the ids of a shard."""
OURS = ("plan-", FOLDER, "manifest.parquet", "quarantine.parquet")


class PlannedMeanwhile(FileExistsError):
    """Another process has written a plan since the caller looked."""


class Description(Protocol):
    """What a plan needs to know of a job."""

    @property
    def meaning(self) -> dict[str, Any]:
        """The facts that decide the stored values."""

    @property
    def record(self) -> dict[str, Any]:
        """The circumstances."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of `meaning`."""

    def bytes_per_image(self) -> int:
        """Bytes of the stored maps of one image."""


@dataclass(frozen=True)
class Plan:
    """One generation of a store: some images, in shards, of one job.

    Args:
        storage: Where the store is.
        generation: 0 for the first plan, 1 for what was added first, and so on.
        fingerprint: SHA-256 of `meaning`.
        meaning: The facts that decide the stored values, the same in all generations.
        record: The circumstances: versions, batch size, device, the source.
        digest: SHA-256 of the file with the ids: which plan a shard is of.
        first: Number of the first shard.
        count: How many shards there are.
        per_shard: Images in each, but for the last.
        ids: How many images there are.
        bytes_per_image: What was expected of one, when the shards were cut.
    """

    storage: Storage
    generation: int
    fingerprint: str
    meaning: Mapping[str, Any] = field(repr=False)
    record: Mapping[str, Any] = field(repr=False)
    digest: str
    first: int
    count: int
    per_shard: int
    ids: int
    bytes_per_image: int

    @property
    def shards(self) -> range:
        """Numbers of the shards; they go on counting from one generation to the next."""
        return range(self.first, self.first + self.count)

    @property
    def name(self) -> str:
        """Name of the plan's file without its ending."""
        return plan_name(self.generation)

    def size_of(self, shard: int) -> int:
        """How many images a shard has.

        Raises:
            ValueError: the plan has no such shard.
        """
        if shard not in self.shards:
            raise ValueError(f"{self.name} has the shards {self.first} to {self.shards[-1]}, not {shard}.")
        return min(self.per_shard, self.ids - (shard - self.first) * self.per_shard)

    def ids_of(self, shard: int) -> list[ImageRef]:
        """The images of a shard, in order.

        Raises:
            ValueError: the plan has no such shard.
            OSError: the file with the ids is missing or was changed.
        """
        start = (shard - self.first) * self.per_shard
        columns = _rows(self._file(), start, self.size_of(shard)).to_pydict()
        return list(map(ImageRef, columns["id"], columns["uri"], columns["tried"]))

    def table(self) -> pa.Table:
        """All images: columns `id`, `uri`, `shard`, `row`, `tried`."""
        return self._file().read()

    def _file(self) -> Any:
        name = f"{self.name}.parquet"
        file, digest = _parquet(self.storage, name, self.storage.version(name))
        if digest != self.digest:
            raise OSError(
                f"'{self.storage}/{name}' is not the file that {self.name}.json was written with: it was damaged, or is of "
                f"another store. Put the original back."
            )
        return file

    def facts(self, shard: int) -> dict[str, str]:
        """What the header of a shard says it is a part of."""
        return {
            "fingerprint": self.fingerprint,
            "generation": str(self.generation),
            "plan": self.digest,
            "shard": str(shard),
        }

    def done(self) -> set[int]:
        """The shards that are on disk. Raises what `headers` does."""
        return {shard for shard, _ in self.headers()}

    def headers(self) -> Iterator[tuple[int, dict[str, str]]]:
        """The number and the metadata of each shard that is on disk. Files that are damaged are reported and left out.

        Raises:
            FileExistsError: a file in the place of a shard is of another plan.
        """
        for shard in sorted(self._present()):
            header = self.header(shard)
            if header is not None:
                yield shard, header

    def header(self, shard: int) -> dict[str, str] | None:
        """The metadata of a shard that is on disk; None where the file is damaged, which is reported.

        Raises:
            FileExistsError: a file in the place of the shard is of another plan.
            OSError: it cannot be read now, which says nothing about what it holds.
        """
        name = shard_name(shard)
        try:
            header = read_metadata(self.storage, name)
        except (DamagedFile, FileNotFoundError, ValueError) as error:
            logger.warning("%s It counts as missing, and the same extraction computes it anew.", error)
            return None
        wrong = [fact for fact, value in self.facts(shard).items() if header.get(fact) != value]
        if wrong:
            raise FileExistsError(
                f"'{self.storage}/{name}' is not of this plan (it differs in {listing(wrong)}). Move it away, or give another "
                f"folder for the features."
            )
        return header

    def _present(self) -> set[int]:
        numbers = map(shard_number, self.storage.names(FOLDER))
        return {number for number in numbers if number is not None and number in self.shards}

    def quarantine(self) -> dict[str, Failure]:
        """The images of finished shards that have no maps."""
        return {id_: failure for _, header in self.headers() for id_, failure in read_quarantine(header).items()}

    def write(self) -> None:
        """Write the plan's facts beside its ids: from now on it exists. Raises FileExistsError where it does already."""
        content = {"format": FORMAT, **{name: getattr(self, name) for name in FIELDS}}
        with self.storage.write(f"{self.name}.json", new=True) as file:
            file.write((json.dumps(content, indent=1) + "\n").encode())


def _whole(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is no whole number")
    return value


FIELDS: dict[str, Callable[[Any], Any]] = {
    "generation": _whole, "fingerprint": str, "meaning": dict, "record": dict, "digest": str, "first": _whole,
    "count": _whole, "per_shard": _whole, "ids": _whole, "bytes_per_image": _whole,
}  # fmt: skip
"""What stands in a plan's file, and how it is read."""


def plan_name(generation: int) -> str:
    """Name of a plan's file without its ending, `plan-0000`."""
    return f"plan-{generation:04d}"


@lru_cache(maxsize=4)
def _parquet(storage: Storage, name: str, version: str) -> tuple[Any, str]:
    """A Parquet file, opened, and the SHA-256 of its bytes. Another version is another file."""
    from pyarrow import parquet

    path = storage.local(name)
    with storage.open(name) as file:
        digest = sha256(file)
    return parquet.ParquetFile(path or storage.open(name), memory_map=path is not None), digest


def _rows(file: Any, start: int, count: int) -> pa.Table:
    """`count` rows of a Parquet file from `start` on; only the row groups that hold them are read."""
    groups, first, before = [], None, 0
    for index in range(file.num_row_groups):
        rows = file.metadata.row_group(index).num_rows
        if before < start + count and before + rows > start:
            groups.append(index)
            first = before if first is None else first
        before += rows
    return file.read_row_groups(groups).slice(start - (first or 0), count)


def open_plans(out: Out) -> list[Plan]:
    """The plans of a store, oldest first; none where there is no store.

    Raises:
        OSError: a plan is damaged, or does not fit its file of ids.
        ValueError: a plan is of another format.
    """
    storage = open_storage(out)
    names = set(storage.names())
    plans: list[Plan] = []
    while (name := f"{plan_name(len(plans))}.json") in names:
        plans.append(_open(storage, name))
    return plans


def existing_plans(out: Out) -> list[Plan]:
    """The plans of a store, oldest first.

    Raises:
        FileNotFoundError: there is no store.
        OSError, ValueError: as for `open_plans`.
    """
    plans = open_plans(out)
    if not plans:
        raise FileNotFoundError(
            f"{str(out)!r} holds no features: it has no plan. `vertebra extract SRC OUT --model M` makes one."
        )
    return plans


def _open(storage: Storage, name: str) -> Plan:
    where = f"{storage}/{name}"
    try:
        content = json.loads(storage.read(name))
        if content["format"] != FORMAT:
            raise ValueError(f"{where!r} has format {content['format']!r}; this version of vertebra reads {FORMAT}.")
        facts = {name: kind(content[name]) for name, kind in FIELDS.items()}
        plan = Plan(storage, **facts)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise OSError(f"{where!r} is damaged: {error!r}. Plans are written whole; put the original back.") from error
    if min(plan.ids, plan.per_shard, plan.count) < 1:
        raise DamagedFile(f"{where!r} is damaged: a plan has images and shards, at least one of each.")
    if plan.fingerprint != fingerprint(plan.meaning):
        raise OSError(f"{where!r} is damaged: its meaning was changed, it no longer fits its fingerprint.")
    return plan


def make_plan(
    source: ImageSource | ImageTable,
    out: Out,
    job: Description,
    shard_bytes: int = SHARD_BYTES,
    *,
    kind: str = "first",
    tried: Mapping[str, int] | None = None,
    bytes_per_image: int | None = None,
    after: int | None = None,
) -> Plan:
    """Write the next plan of a store: the first one, or one more generation.

    Args:
        source: The images; see `image_table`. Their ids are taken as they are: what must not be planned twice is left out by
            the caller.
        out: Where the store is or will be: a folder, made where it does not exist, or a uri such as `s3://bucket/features`.
        job: What is computed.
        shard_bytes: Size that shards aim at, in bytes.
        kind: Why there is this plan: `"first"`, `"append"` or `"retry"`. It stands in the record.
        tried: How often images have failed before, by id.
        bytes_per_image: What is expected of one; None asks the job.
        after: How many plans the caller knows of; None: it does not matter.

    Raises:
        PlannedMeanwhile: there are more plans than `after`, since another process has written one.
        ValueError: the images cannot be planned, or the store holds another job.
        OSError: there are none, or `out` holds something else or cannot be written.
    """
    found = image_table(source)
    storage = claim(out)
    with storage.alone():
        before = open_plans(storage)
        if after is not None and len(before) > after:
            raise PlannedMeanwhile(f"{str(storage)!r} has been planned by another process meanwhile.")
        if before:
            refuse_another_job(before[0], job)
        size = bytes_per_image or job.bytes_per_image()
        return _write(found, storage, before, job, shard_bytes, kind, tried or {}, size)


def _write(
    found: ImageTable,
    storage: Storage,
    before: list[Plan],
    job: Description,
    shard_bytes: int,
    kind: str,
    tried: Mapping[str, int],
    bytes_per_image: int,
) -> Plan:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    ids = found.table["id"]
    longest = pc.max(pc.binary_length(ids)).as_py()
    per_shard = max(1, min(shard_bytes // bytes_per_image, MAX_IDS, HEADER_BYTES // longest))
    first = before[-1].first + before[-1].count if before else 0
    rows = np.arange(len(found))
    columns = {
        "id": ids,
        "uri": found.table["uri"],
        "shard": pa.array((first + rows // per_shard).astype(np.int32)),
        "row": pa.array((rows % per_shard).astype(np.int32)),
        "tried": pa.array(
            [tried.get(id_, 0) for id_ in ids.to_pylist()] if tried else np.zeros(len(found)), pa.int32()
        ),
    }
    content = ids_file(pa.table(columns), per_shard)
    with storage.write(f"{plan_name(len(before))}.parquet") as file:
        file.write(content)
    plan = Plan(
        storage=storage,
        generation=len(before),
        fingerprint=job.fingerprint,
        meaning=job.meaning,
        record={**job.record, "kind": kind, "source": found.source},
        digest=hashlib.sha256(content).hexdigest(),
        first=first,
        count=-(-len(found) // per_shard),
        per_shard=per_shard,
        ids=len(found),
        bytes_per_image=bytes_per_image,
    )
    try:
        plan.write()
    except FileExistsError as error:
        raise PlannedMeanwhile(f"{str(storage)!r} has been planned by another process meanwhile.") from error
    return plan


def ids_file(table: pa.Table, per_shard: int) -> bytes:
    """The content of a plan's file of ids; row groups begin where shards do."""
    from pyarrow import parquet

    content = io.BytesIO()
    parquet.write_table(
        table,
        content,
        compression="zstd",
        row_group_size=per_shard * -(-GROUP // per_shard),
        use_dictionary=["shard", "tried"],
        column_encoding={"id": "DELTA_BYTE_ARRAY", "uri": "DELTA_BYTE_ARRAY", "row": "DELTA_BINARY_PACKED"},
    )
    return content.getvalue()


def claim(out: Out) -> Storage:
    """Check that a place holds nothing but a store, and open it.

    Raises:
        NotADirectoryError: `out` is a file.
        FileExistsError: it holds something else.
    """
    storage = open_storage(out)
    strange = [name for name in storage.names() if not name.startswith((".", *OURS))]
    if strange:
        raise FileExistsError(f"{str(out)!r} holds other files ({listing(strange, 5)}); give a new or an empty folder.")
    return storage


def refuse_another_job(plan: Plan, job: Description) -> None:
    """Raise what tells a job from the one that a store holds.

    Raises:
        ValueError: they differ; lists in what.
    """
    if plan.fingerprint == job.fingerprint:
        return
    changes = "\n".join(f"  {line}" for line in diff(plan.meaning, job.meaning))
    raise ValueError(
        f"{str(plan.storage)!r} holds the features of another job:\n{changes}\nGive another folder, or the same settings."
    )


OPTIONS = {
    "levels": "--features, --indices or --strides",
    "pool": "--pool",
    "cell_stride": "--cell-stride",
    "channel_subset": "--channels",
    "height": "--size",
    "width": "--size",
    "decoder": "--decode",
    "upright": "--no-upright",
    "dtype": "--dtype",
    "compute_dtype": "--compute-dtype",
    "nonfinite": "--allow-nonfinite",
    "weights_sha256": "--model, --revision; other levels may need other weights",
}
"""What sets a fact, by the last part of its name."""


def diff(
    stored: Mapping[str, Any], asked: Mapping[str, Any], *, names: tuple[str, str] = ("stored", "asked")
) -> list[str]:
    """What differs between two meanings (or records), one line a fact: `dtype: stored 'float16', asked 'bfloat16' (--dtype)`.

    `names` are those of the two in the lines.
    """
    old, new = dict(_flat(stored)), dict(_flat(asked))
    lines = []
    levels = set(old.get("levels", ())) ^ set(new.get("levels", ()))
    parts = tuple(f"levels.{level}." for level in levels)  # of a level that only one has, its name says all
    for name in sorted(old.keys() | new.keys()):
        if old.get(name, "nothing") != new.get(name, "nothing") and not name.startswith(parts):
            option = OPTIONS.get(name.rpartition(".")[2])
            hint = f" ({option})" if option else ""
            lines.append(f"{name}: {names[0]} {_short(old, name)}, {names[1]} {_short(new, name)}{hint}")
    return lines


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested JSON by their path; lists of named things by name."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}".lstrip("."))
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) and "name" in item for item in value):
        yield name, [item["name"] for item in value]
        for item in value:
            yield from _flat({key: part for key, part in item.items() if key != "name"}, f"{name}.{item['name']}")
    else:
        yield name, value


def _short(facts: Mapping[str, Any], name: str) -> str:
    text = repr(facts[name]) if name in facts else "nothing"
    return text if len(text) <= 80 else f"{text[:77]}…"
