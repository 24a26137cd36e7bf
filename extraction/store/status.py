"""How far a store is: what is planned, done, in quarantine, missing, and who else is at work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, NamedTuple

from vertebra.errors import listing
from vertebra.extraction.ledger import RETRY
from vertebra.extraction.leftovers import TEMPORARY, is_alive
from vertebra.extraction.plan import Out, Plan, existing_plans
from vertebra.extraction.shard_file import FOLDER, shard_number
from vertebra.extraction.storage import Storage
from vertebra.extraction.store.findings import SHOWN
from vertebra.extraction.store.manifest import Manifest, is_current, load_manifest
from vertebra.extraction.store.records import MAPS


class Generation(NamedTuple):
    """One plan of a store.

    Args:
        generation: Its number.
        kind: `"first"`, `"append"` or `"retry"`.
        source: What the images were, in words.
        images: How many.
        shards: Of how many shards.
        missing: Numbers of those that are not on disk.
    """

    generation: int
    kind: str
    source: str
    images: int
    shards: int
    missing: list[int]


class Writer(NamedTuple):
    """A process that is writing a shard, or was when it was killed.

    Args:
        process: Its number.
        shard: Which shard.
        is_alive: Whether it still runs; None where another machine knows.
    """

    process: int
    shard: int
    is_alive: bool | None


@dataclass(frozen=True)
class Status:
    """The state of a store.

    Args:
        store: Where it is.
        fingerprint: SHA-256 of what decides the values.
        model: What the backbone was called.
        model_class: Its class.
        dtype: Of the maps.
        levels: Level name to channels, stride and offset, as the plan has them.
        planned: How many images it is to have.
        extracted: How many have maps.
        quarantined: How many have none, by what they failed at.
        missing: How many are not computed yet.
        shards: Number of shards on disk.
        missing_shards: Number of those that are not.
        size_bytes: Size of the shards on disk.
        generations: The plans, oldest first.
        writers: Who is writing shards now, as temporary files tell.
        manifest: `"current"`, `"stale"` or `"none"`.
    """

    store: str
    fingerprint: str
    model: str
    model_class: str
    dtype: str
    levels: Mapping[str, Mapping[str, Any]]
    planned: int
    extracted: int
    quarantined: Mapping[str, int]
    missing: int
    shards: int
    missing_shards: int
    size_bytes: int
    generations: Sequence[Generation]
    writers: Sequence[Writer]
    manifest: str

    @property
    def is_complete(self) -> bool:
        """Whether all that is planned is computed."""
        return not self.missing_shards

    def to_json(self) -> dict[str, Any]:
        """The status as JSON holds it."""
        lists = {
            "generations": [part._asdict() for part in self.generations],
            "writers": [part._asdict() for part in self.writers],
        }
        return {"complete": self.is_complete, **asdict(self), **lists}

    def __str__(self) -> str:
        stages = listing(f"{count} {stage}" for stage, count in self.quarantined.items())
        failed = f"{sum(self.quarantined.values())} in quarantine{f' ({stages})' if stages else ''}"
        rows = [
            f"{self.store}: {'complete' if self.is_complete else 'not complete'}",
            f"  model       {self.model or '-'} ({self.model_class}), {self.dtype}, fingerprint {self.fingerprint[:12]}",
            f"  images      {self.extracted} of {self.planned} with maps, {failed}, {self.missing} still to be computed",
            f"  shards      {self.shards} of {self.shards + self.missing_shards} on disk, {self.size_bytes / 2**20:.1f} MiB",
            *(f"  level       {_level(name, facts)}" for name, facts in self.levels.items()),
            *(f"  generation  {_generation(part)}" for part in self.generations),
            *(f"  writing     {_writer(part)}" for part in self.writers),
            f"  manifest    {self.manifest}",
        ]
        return "\n".join(rows)


def status(out: Out) -> Status:
    """The state of a store, from its plans and its manifest; headers are read of shards that the manifest does not know.

    Raises:
        OSError: there is no store, or a plan is damaged, or a file in the place of a shard is of another plan.
        ValueError: a plan is of another format.
    """
    plans = existing_plans(out)
    storage = plans[0].storage
    manifest = load_manifest(plans)
    counts = manifest.records.images["status"].cast("string").value_counts().to_pylist()
    stages = {found["values"]: found["counts"] for found in counts}
    planned = sum(plan.ids for plan in plans if plan.record.get("kind") != RETRY)
    generations = [_described(plan, manifest) for plan in plans]
    return Status(
        store=str(storage),
        fingerprint=plans[0].fingerprint,
        model=str(plans[0].record.get("model_id") or ""),
        model_class=str(plans[0].meaning["model"]["class"]),
        dtype=plans[0].meaning["dtype"],
        levels={
            level["name"]: {key: value for key, value in level.items() if key != "name"}
            for level in plans[0].meaning["levels"]
        },
        planned=planned,
        extracted=stages.pop(MAPS, 0),
        quarantined=dict(sorted(stages.items())),
        missing=planned - len(manifest.records.images),
        shards=len(manifest.shards),
        missing_shards=sum(len(part.missing) for part in generations),
        size_bytes=sum(manifest.shards.values()),
        generations=generations,
        writers=_writers(storage),
        manifest={True: "current", False: "stale", None: "none"}[is_current(plans)],
    )


def _described(plan: Plan, manifest: Manifest) -> Generation:
    missing = [shard for shard in plan.shards if shard not in manifest.shards]
    kind, source = (str(plan.record.get(name, "")) for name in ("kind", "source"))
    return Generation(plan.generation, kind, source, plan.ids, plan.count, missing)


def _writers(storage: Storage) -> list[Writer]:
    found = []
    for name in storage.names(FOLDER):
        match = TEMPORARY.fullmatch(name)
        shard = shard_number(match["name"]) if match else None
        if match and shard is not None:
            found.append(Writer(int(match["process"]), shard, is_alive(match)))
    return found


def _level(name: str, facts: Mapping[str, Any]) -> str:
    if facts["stride"] is None:
        return f"{name:<12} {facts['channels']:>5} channels  one cell an image"
    first, second = (f"{float(Fraction(part)):.6g}" for part in facts["stride"])
    return f"{name:<12} {facts['channels']:>5} channels  stride {first if first == second else f'{first}x{second}'}"


def _generation(part: Generation) -> str:
    missing = f", {len(part.missing)} missing: {listing(part.missing, SHOWN)}" if part.missing else ""
    shards = f"{part.shards} shard{'s' if part.shards > 1 else ''}"
    return f"{part.generation} ({part.kind}): {part.images} images of {part.source}, {shards}{missing}"


def _writer(part: Writer) -> str:
    state = {True: "runs on this machine", False: "was killed", None: "of another machine"}[part.is_alive]
    return f"shard {part.shard}: process {part.process} {state}"
