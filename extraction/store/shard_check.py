"""Whether one shard is what its plan says: its bytes, its ids, its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from vertebra.errors import listing
from vertebra.extraction.plan import Plan
from vertebra.extraction.shard_file import SPELLING, Header, checksum, read_header, shard_name, tensor_name
from vertebra.extraction.store.records import Records, read_ids, shard_records
from vertebra.headers import DamagedFile

SHOWN = 3


class Expected(NamedTuple):
    """What is known of a shard before it is opened.

    Args:
        ids: Of its images, in the plan's order; None where the plan's file of ids is damaged.
        levels: Channels of each level.
        dtype: Of the maps: `"float16"`.
    """

    ids: list[str] | None
    levels: Mapping[str, int]
    dtype: str


@dataclass(frozen=True)
class Checked:
    """What was found.

    Args:
        shard: Number of the shard.
        damage: What is wrong with its content, in words; None where nothing is.
        unreadable: Why it could not be read; what it holds is not known then.
        misplaced: What it is instead, where it is a sound file of another place.
        records: What it says of images, where it is sound.
        cells: `(h, w)` of the maps by the name of the tensor, with the size at which the images were processed.
    """

    shard: int
    damage: str | None = None
    unreadable: str | None = None
    misplaced: str | None = None
    records: Records | None = None
    cells: Mapping[str, tuple[int, ...]] | None = None


def check_shard(plan: Plan, shard: int, expected: Expected) -> Checked:
    """Read a whole shard, and compare it with its checksum and its plan. Nothing is changed."""
    name = shard_name(shard)
    try:
        header = read_header(plan.storage, name)
        with plan.storage.open(name) as file:
            stated, found = checksum(file)
    except (DamagedFile, ValueError, AttributeError) as error:
        return Checked(shard, damage=str(error))
    except OSError as error:
        return Checked(shard, unreadable=str(error))
    if stated != found:
        return Checked(
            shard, damage="its bytes are not those that were written: their SHA-256 is not the one in the header."
        )
    wrong = [fact for fact, value in plan.facts(shard).items() if header.metadata.get(fact) != value]
    if wrong == ["shard"]:
        return Checked(shard, misplaced=f"it is shard {header.metadata['shard']} of this plan.")
    if wrong:
        return Checked(shard, misplaced=f"it is of another plan: its {listing(wrong)} differ.")
    try:
        ids, records = read_ids(header.metadata), shard_records(plan, shard, header.metadata)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        return Checked(shard, damage=f"its header lacks what a shard says: {error!r}.")
    damage = _ids(records, expected) or _tensors(header, ids, expected)
    return Checked(shard, damage, records=None if damage else records, cells=None if damage else _cells(header, ids))


def _ids(records: Records, expected: Expected) -> str | None:
    if expected.ids is None:
        return None
    found = records.images["id"].to_pylist()
    if repeated := {id_ for id_ in found if found.count(id_) > 1} if len(set(found)) < len(found) else set():
        return f"it has more than one record of {_examples(repeated)}."
    if lost := set(expected.ids) - set(found):
        return f"it has no record of {_examples(lost)}, which the plan gives to it."
    if strange := set(found) - set(expected.ids):
        return f"it has records of {_examples(strange)}, which the plan does not give to it."
    return None


def _examples(ids: set[str]) -> str:
    return listing(map(repr, sorted(ids)), SHOWN)


def _tensors(header: Header, ids: Mapping[str, list[str]], expected: Expected) -> str | None:
    several = len(ids) > 1
    wanted = {
        tensor_name(level, _size(size) if several else None): (len(bucket), channels)
        for size, bucket in ids.items()
        for level, channels in expected.levels.items()
    }
    if header.tensors.keys() != wanted.keys():
        return f"it holds the tensors {listing(header.tensors) or 'none'}, not {listing(wanted) or 'none'}."
    for name, block in header.tensors.items():
        if len(block.shape) != 4 or block.shape[:2] != wanted[name]:
            return f"the shape of {name!r} is {list(block.shape)}, not {[*wanted[name], 'h', 'w']}."
        if str(block.dtype) != f"torch.{expected.dtype}":
            return f"{name!r} is {SPELLING[block.dtype]}, and the plan says {expected.dtype}."
    return None


def _cells(header: Header, ids: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    only = next(iter(ids)) if len(ids) == 1 else ""
    return {f"{name}@{only}" if only else name: block.shape[2:] for name, block in header.tensors.items()}


def _size(text: str) -> tuple[int, int]:
    height, width = map(int, text.split("x"))
    return height, width
