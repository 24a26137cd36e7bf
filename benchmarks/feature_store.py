"""Reading stored maps: latency, throughput and size against safetensors' own reader, and what a million ids cost.

Writes 256 MiB of maps, float16 `(256, 14, 14)`, in four shards. All figures are warm: the files are in memory.

Run: python benchmarks/feature_store.py
"""

from __future__ import annotations

import argparse
import pickle
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import torch
from safetensors import safe_open
from torch.utils.data import DataLoader

from vertebra import FeatureStore
from vertebra.extraction.image_table import ImageTable
from vertebra.extraction.plan import Plan, make_plan
from vertebra.extraction.recipe import fingerprint
from vertebra.extraction.shard_file import Shard, shard_name
from vertebra.extraction.store.manifest import MANIFEST, QUARANTINE, save_manifest
from vertebra.extraction.worker import write_shard

SHAPE, SIZE = (256, 14, 14), (224, 224)
BYTES = 2 * 256 * 14 * 14
READS, BATCH = 2000, 32
MEMORY = """
import resource, sys
from pathlib import Path
import pyarrow.parquet
from vertebra import FeatureStore
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
before = resident()
store = FeatureStore(sys.argv[1])
store.place(store.ids[0])
pyarrow.default_memory_pool().release_unused()
print(resident() - before)
"""
"""What a process of its own takes for a store."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2672, help="with maps (default: 2672, 256 MiB)")
    parser.add_argument("--ids", type=int, default=1_000_000, help="of the store without maps (default: 1,000,000)")
    args = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, maps of {BYTES:,} bytes")
    with tempfile.TemporaryDirectory() as folder:
        maps(Path(folder) / "maps", args.images)
        many(Path(folder) / "many", args.ids)


def job(levels: tuple[str, ...] = ("layer3",)) -> Any:
    """What a plan needs to know; nothing is computed."""
    places = [
        {"name": name, "index": i, "channels": SHAPE[0], "stride": [16, 16], "offset": None}
        for i, name in enumerate(levels)
    ]
    meaning = {"levels": places, "dtype": "float16", "model": {"class": "none"}}
    return SimpleNamespace(
        meaning=meaning, record={}, fingerprint=fingerprint(meaning), bytes_per_image=lambda: len(levels) * BYTES
    )


def write(out: Path, images: int, shard_bytes: int, levels: tuple[str, ...] = ("layer3",)) -> Plan:
    """A store of random maps; without levels its shards hold ids alone."""
    ids = [f"n{number // 1300:08d}/n{number // 1300:08d}_{number * 7919 % 999983}.JPEG" for number in range(images)]
    table = ImageTable(pa.table({"id": pa.array(ids, pa.large_string()), "uri": pa.array(ids, pa.large_string())}))
    plan = make_plan(table, out, job(levels), shard_bytes, bytes_per_image=max(1, len(levels) * BYTES))
    generator = torch.Generator().manual_seed(0)
    for number in plan.shards:
        names = [image.id for image in plan.ids_of(number)]
        shard = Shard(sizes=dict.fromkeys(names, (375, 500)))
        batches = {name: torch.randn(len(names), *SHAPE, generator=generator).half() for name in levels}
        shard.add(SIZE, names, batches)
        write_shard(plan, number, shard)
    save_manifest([plan])
    return plan


def maps(out: Path, images: int) -> None:
    plan = write(out, images, images // 4 * BYTES)
    store = FeatureStore(out)
    view = store["layer3"]
    files = [safe_open(out / shard_name(number), framework="pt") for number in plan.shards]
    slices = [file.get_slice("layer3") for file in files]

    def theirs(row: int) -> torch.Tensor:
        shard, place = divmod(row, plan.per_shard)
        return slices[shard][place]

    choose = random.Random(0)
    rows = [choose.randrange(images) for _ in range(READS)]
    ids = [store.ids[row] for row in rows]
    for row, id_ in zip(rows, ids, strict=True):
        assert view[row].equal(theirs(row)), "maps differ"
        assert view[id_].equal(view[row]), "ids and rows differ"
    print(f"\n{'one level of one image, all bytes used (sum)':<58} {'median':>10} {'99 %':>10}")
    for name, call in {
        "vertebra, by row": lambda i: view[rows[i]].reshape(-1).view(torch.int64).sum(),
        "vertebra, by id": lambda i: view[ids[i]].reshape(-1).view(torch.int64).sum(),
        "safetensors.safe_open, get_slice()[row]": lambda i: theirs(rows[i]).reshape(-1).view(torch.int64).sum(),
        "the sum alone": lambda i, one=view[0]: one.reshape(-1).view(torch.int64).sum(),
    }.items():
        print(line(name, call, READS))
    print(f"\n{'the view alone, no byte used':<58} {'median':>10} {'99 %':>10}")
    print(line("vertebra, by row", lambda i: view[rows[i]], READS))
    print(line("vertebra, by id", lambda i: view[ids[i]], READS))
    print(f"\n{f'{BATCH} random images as one tensor':<58} {'median':>10} {'99 %':>10}")
    batches = [[choose.randrange(images) for _ in range(BATCH)] for _ in range(200)]
    assert view.gather(batches[0]).equal(torch.stack([theirs(row) for row in batches[0]]))
    print(line("vertebra, gather", lambda i: view.gather(batches[i]), 200))
    print(line("safetensors, stack of slices", lambda i: torch.stack([theirs(r) for r in batches[i]]), 200))
    sequential(view, files, images)
    loader(store, images)
    raw, stored = images * BYTES, sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"\nstore {stored:,} bytes, raw tensors {raw:,}: {100 * stored / raw - 100:.3f} % more")


def line(name: str, call: Callable[[int], Any], count: int) -> str:
    """Median and 99th percentile of calls, in microseconds."""
    times = []
    for index in range(count):
        start = time.perf_counter_ns()
        call(index)
        times.append((time.perf_counter_ns() - start) / 1e3)
    return f"  {name:<56} {statistics.median(times):>7.1f} us {statistics.quantiles(times, n=100)[98]:>7.1f} us"


def sequential(view: Any, files: list[Any], images: int) -> None:
    print(f"\n{'a whole level, copied into one tensor':<58} {'best of 10':>10}")
    out = torch.empty(images, *SHAPE, dtype=torch.float16)
    out.fill_(0)  # the memory is there already

    def ours() -> None:
        done = 0
        for block in view.blocks():
            out[done : done + len(block.maps)] = block.maps
            done += len(block.maps)

    def theirs() -> None:
        done = 0
        for file in files:
            maps = file.get_tensor("layer3")
            out[done : done + len(maps)] = maps
            done += len(maps)

    ours(), theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(10)]
    for name, best in zip(
        ("vertebra, blocks()", "safetensors, get_tensor"), map(min, zip(*pairs, strict=True)), strict=True
    ):
        print(f"  {name:<56} {out.nbytes / best / 1e9:>6.1f} GB/s")
    sums = min(
        seconds(lambda: [block.maps.reshape(-1).view(torch.int64).sum() for block in view.blocks()]) for _ in range(5)
    )
    print(f"  {'vertebra, blocks(), summed in place':<56} {out.nbytes / sums / 1e9:>6.1f} GB/s")


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def loader(store: FeatureStore, images: int) -> None:
    print(f"\n{f'DataLoader, shuffled batches of {BATCH}':<58} {'images/s':>10}")
    for workers in (0, 2):
        loaded = DataLoader(
            store.dataset(), batch_size=BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0
        )
        taken = min(
            seconds(lambda loaded=loaded: [None for _ in loaded]) for _ in range(3)
        )  # the first starts the workers
        print(f"  {f'{workers} workers':<56} {images / taken:>10,.0f}")


def many(out: Path, images: int) -> None:
    """A store of so many ids: what opening it costs, with the manifest and without."""
    start = time.perf_counter()
    plan = write(out, images, 4096, ())
    print(f"\n{images:,} ids in {plan.count} shards ({time.perf_counter() - start:.1f} s to write)")
    for name in (f"{plan.name}.parquet", MANIFEST):
        size = (out / name).stat().st_size
        print(f"  {name:<56} {size / images:>7.1f} bytes an id")
    opening = min(seconds(lambda: FeatureStore(out)) for _ in range(3))
    store = FeatureStore(out)
    growth = int(subprocess.check_output([sys.executable, "-c", MEMORY, str(out)], text=True))
    print(f"  {'opened with the manifest':<56} {opening:>7.2f} s")
    print(f"  {'pickled':<56} {len(pickle.dumps(store)) / images:>7.1f} bytes an id")
    print(f"  {'memory while it is open':<56} {growth / images:>7.1f} bytes an id")
    names = store.ids[:: max(1, images // READS)][:READS]
    print(line("place(id)", lambda i: store.place(names[i]), len(names)))
    for name in (MANIFEST, QUARANTINE):
        (out / name).unlink()
    print(f"  {'opened from the headers':<56} {seconds(lambda: FeatureStore(out)):>7.2f} s")
    print(f"  {'manifest made anew from the headers':<56} {seconds(store.index):>7.2f} s")


if __name__ == "__main__":
    main()
