"""Files of a store that are none of its plans and shards: the manifest, temporary files, strange ones."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from vertebra.extraction.leftovers import TEMPORARY, is_alive
from vertebra.extraction.plan import OURS, Plan
from vertebra.extraction.shard_file import FOLDER, shard_number
from vertebra.extraction.storage import Storage
from vertebra.extraction.store.findings import CACHE, LEFTOVER, STRANGE, Finding
from vertebra.extraction.store.manifest import MANIFEST, is_current, load_manifest
from vertebra.extraction.store.records import Records


def check_manifest(storage: Storage, plans: Sequence[Plan], true: Records) -> Iterator[Finding]:
    """Whether the cached tables say what the headers of all shards do, which is `true`."""
    renew = f"`vertebra features index {storage}` makes it anew; until then headers are read instead."
    current = is_current(plans)
    if current is False:
        yield Finding(LEFTOVER, MANIFEST, "it is older than what is on disk.", renew)
    if current:
        cached = load_manifest(plans).records
        if not (cached.images.equals(true.images) and cached.failures.equals(true.failures)):
            yield Finding(CACHE, MANIFEST, "it does not say what the shards say.", renew)


def strays(storage: Storage, plans: Sequence[Plan]) -> Iterator[Finding]:
    """Files that are no part of the store, and temporary ones."""
    for name in storage.names():
        if not name.startswith((".", *OURS)):
            yield Finding(
                STRANGE, name, "it is no part of a store.", "Move it away: extractions refuse to go on beside it."
            )
    for folder in ("", FOLDER):
        for name in storage.names(folder):
            path = f"{folder}/{name}".lstrip("/")
            if found := TEMPORARY.fullmatch(name):
                yield _temporary(path, found)
            elif folder and not name.startswith("."):
                number = shard_number(name)
                if number is None:
                    yield Finding(STRANGE, path, "it is no shard.", "Move it away.")
                elif not any(number in plan.shards for plan in plans):
                    yield Finding(
                        STRANGE, path, "no plan has a shard of this number.", "Move it away, or put its plan back."
                    )


def _temporary(path: str, writer: re.Match[str]) -> Finding:
    process, runs = writer["process"], is_alive(writer)
    if runs:
        return Finding(LEFTOVER, path, f"process {process} is writing it.", "Nothing.")
    if runs is None:
        text = f"process {process} of another machine, or of this one before it was started anew, writes it or has left it."
        return Finding(LEFTOVER, path, text, "An extraction removes it when it has not changed for an hour.")
    return Finding(LEFTOVER, path, f"process {process} was killed and left it.", "The next extraction removes it.")
