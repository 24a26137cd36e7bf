"""What a feature store costs as it grows: opening a million ids, their bytes on disk and in memory; loading batches; one read.

Run: python benchmarks/feature_store_growth.py [--images N] [--ids N]
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
from typing import Any

import torch
from store_files import BYTES, write
from torch.utils.data import DataLoader

from vertebra import FeatureStore
from vertebra.extraction.store.manifest import MANIFEST, QUARANTINE

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


def maps(out: Path, images: int) -> None:
    """A store with maps: one read, batches through a DataLoader, bytes on disk."""
    write(out, images, images // 4)
    store = FeatureStore(out)
    view, choose = store["layer3"], random.Random(0)
    rows = [choose.randrange(images) for _ in range(READS)]
    ids = [store.ids[row] for row in rows]
    print(f"\n{'one level of one image, all bytes used (sum)':<58} {'median':>10} {'99 %':>10}")
    for name, call in {
        "by row": lambda i: view[rows[i]].reshape(-1).view(torch.int64).sum(),
        "by id": lambda i: view[ids[i]].reshape(-1).view(torch.int64).sum(),
        "the sum alone": lambda i, one=view[0]: one.reshape(-1).view(torch.int64).sum(),
    }.items():
        print(line(name, call, READS))
    print(f"\n{f'DataLoader, shuffled batches of {BATCH}':<58} {'images/s':>10}")
    for workers in (0, 2):
        loaded = DataLoader(
            store.dataset(), batch_size=BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0
        )
        # the first of the three starts the workers
        taken = min(seconds(lambda loaded=loaded: [None for _ in loaded]) for _ in range(3))
        print(f"  {f'{workers} workers':<56} {images / taken:>10,.0f}")
    raw, stored = images * BYTES, sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"\nstore {stored:,} bytes, raw tensors {raw:,}: {100 * stored / raw - 100:.3f} % more")


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


def line(name: str, call: Callable[[int], Any], count: int) -> str:
    """Median and 99th percentile of calls, in microseconds."""
    times = []
    for index in range(count):
        start = time.perf_counter_ns()
        call(index)
        times.append((time.perf_counter_ns() - start) / 1e3)
    return f"  {name:<56} {statistics.median(times):>7.1f} us {statistics.quantiles(times, n=100)[98]:>7.1f} us"


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
