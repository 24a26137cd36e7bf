"""Feature stores of random maps, written as extraction writes them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import torch

from vertebra.extraction.image_table import ImageTable
from vertebra.extraction.plan import Plan, make_plan
from vertebra.extraction.recipe import fingerprint
from vertebra.extraction.shard_file import Shard
from vertebra.extraction.store.manifest import save_manifest
from vertebra.extraction.worker import write_shard

SHAPE, SIZE = (256, 14, 14), (224, 224)
BYTES = 2 * 256 * 14 * 14


def write(out: Path, images: int, per_shard: int, levels: tuple[str, ...] = ("layer3",)) -> Plan:
    """A store of so many images, with their maps in float16; without levels its shards hold ids alone."""
    ids = [f"n{number // 1300:08d}/n{number // 1300:08d}_{number * 7919 % 999983}.JPEG" for number in range(images)]
    table = ImageTable(pa.table({"id": pa.array(ids, pa.large_string()), "uri": pa.array(ids, pa.large_string())}))
    each = max(1, len(levels) * BYTES)
    plan = make_plan(table, out, _job(levels), per_shard * each, bytes_per_image=each)
    generator = torch.Generator().manual_seed(0)
    for number in plan.shards:
        names = [image.id for image in plan.ids_of(number)]
        shard = Shard(sizes=dict.fromkeys(names, (375, 500)))
        batches = {name: torch.randn(len(names), *SHAPE, generator=generator).half() for name in levels}
        shard.add(SIZE, names, batches)
        write_shard(plan, number, shard)
    save_manifest([plan])
    return plan


def _job(levels: tuple[str, ...]) -> Any:
    """What a plan needs to know; nothing is computed."""
    places = [
        {"name": name, "index": i, "channels": SHAPE[0], "stride": [16, 16], "offset": None}
        for i, name in enumerate(levels)
    ]
    meaning = {"levels": places, "dtype": "float16", "model": {"class": "none"}}
    return SimpleNamespace(
        meaning=meaning, record={}, fingerprint=fingerprint(meaning), bytes_per_image=lambda: len(levels) * BYTES
    )
