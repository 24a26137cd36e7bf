"""What of a store is done: shards on disk, images with maps, images in quarantine."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from vertebra.extraction.plan import Plan
from vertebra.extraction.shard_file import Failure, read_metadata, read_quarantine, shard_name

if TYPE_CHECKING:
    import pyarrow as pa

RETRY = "retry"


class Ledger:
    """The state of a store, read from the headers of its shards.

    Args:
        plans: All plans of a store, oldest first.

    Attributes:
        done: Numbers of the shards that are on disk.
        extracted: How many images have maps.
        failed: Why the others of these shards have none, by id.
        size_bytes: Size of the shards on disk.

    Raises:
        FileExistsError: a file in the place of a shard is of another plan.
    """

    def __init__(self, plans: Iterable[Plan]) -> None:
        self.plans = list(plans)
        self.done: set[int] = set()
        self.extracted = 0
        self.failed: dict[str, Failure] = {}
        self.size_bytes = 0
        for plan in self.plans:
            for shard, header in plan.headers():
                self._add(plan, shard, header)

    def add(self, plan: Plan, shard: int) -> None:
        """Take in a shard that has been written."""
        self._add(plan, shard, read_metadata(plan.storage, shard_name(shard)))

    def _add(self, plan: Plan, shard: int, header: Mapping[str, str]) -> None:
        failed = read_quarantine(header)
        if plan.record.get("kind") == RETRY:
            for name, ids in header.items():
                if name.partition("@")[0] == "ids":
                    for id_ in json.loads(ids):
                        self.failed.pop(id_, None)
        self.failed |= failed
        self.extracted += plan.size_of(shard) - len(failed)
        self.size_bytes += plan.storage.size(shard_name(shard))
        self.done.add(shard)

    @property
    def planned(self) -> int:
        """How many images there are: those that are tried again count once."""
        return sum(plan.ids for plan in self.plans if plan.record.get("kind") != RETRY)

    @property
    def given_up(self) -> int:
        """How many images are in quarantine and in no shard that is still to try them again."""
        again = sum(
            plan.size_of(shard)
            for plan in self.plans
            if plan.record.get("kind") == RETRY
            for shard in self.missing(plan)
        )
        return max(0, len(self.failed) - again)

    def missing(self, plan: Plan) -> list[int]:
        """The shards of a plan that are still to be computed."""
        return [shard for shard in plan.shards if shard not in self.done]

    def to_retry(self) -> tuple[pa.Table, dict[str, int]]:
        """The images in quarantine that no unfinished plan tries again, with their uris, and how often each was tried."""
        import pyarrow as pa
        import pyarrow.compute as pc

        again = {id_: failure.tries for id_, failure in self.failed.items()}
        for plan in self.plans:
            if plan.record.get("kind") == RETRY:
                for shard in self.missing(plan):
                    for image in plan.ids_of(shard):
                        again.pop(image.id, None)
        wanted = pa.array(again, pa.large_string())
        tables = [plan.table().select(["id", "uri"]) for plan in self.plans if plan.record.get("kind") != RETRY]
        return pa.concat_tables(table.filter(pc.is_in(table["id"], value_set=wanted)) for table in tables), again
