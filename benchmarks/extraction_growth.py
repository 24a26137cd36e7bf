"""How the cost of extraction grows with the number of images: images per second and memory, and what a million ids take.

images: 1,000, 10,000 and 100,000 ids of JPEGs of 64x48 pixels through a tiny ResNet at 32x32, each in a process of its own.
memory: 20,000 photos of 320x240 pixels at 64x64, 4 MiB a shard; the memory of the process is to stay flat.
ids: planning a million synthetic ids, their plan and manifest on disk, and finding one of them. Maps are one number each.

The uris name 500 files over and over, so that disks need not hold 100,000. The memory curve has the resident set at each tenth of
the run; its first point is after the first twentieth, when all that is set up once is there.

Run: python benchmarks/extraction_growth.py [--part images|memory|ids] [--counts 1000,10000,100000] [--decode fast|pillow]
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from photo_files import jpegs
from pyarrow import parquet

from vertebra import AutoBackbone, ResNetConfig, ViTImageProcessor
from vertebra.extraction.image_table import image_table
from vertebra.extraction.plan import SHARD_BYTES, make_plan, open_plans
from vertebra.extraction.recipe import Recipe
from vertebra.extraction.runtime import Runtime
from vertebra.extraction.shard_file import Shard
from vertebra.extraction.store.feature_store import FeatureStore
from vertebra.extraction.worker import extract_shards, write_shard

FILES = 500
COUNTS = "1000,10000,100000"
POINTS = 10
MIB = 2**20


def resident() -> float:
    """MiB of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


def source(place: Path, count: int, width: int, height: int) -> Path:
    """A table of `count` ids whose uris name `FILES` photos."""
    (place / "photos").mkdir()
    for index, data in enumerate(jpegs(FILES, width, height)):
        (place / "photos" / f"{index}.jpg").write_bytes(data)
    uris = [f"photos/{index % FILES}.jpg" for index in range(count)]
    parquet.write_table(pa.table({"id": ids(count), "uri": uris}), place / "source.parquet")
    return place / "source.parquet"


def ids(count: int) -> list[str]:
    """Names as data sets have them: one of a thousand classes, then eight digits that mean nothing."""
    draw = np.random.default_rng(0)
    classes, numbers = draw.integers(0, 1000, count), draw.permutation(4 * count)[:count]
    return [f"n{group:08d}/{number:08x}.jpg" for group, number in zip(classes.tolist(), numbers.tolist(), strict=True)]


def tiny(side: int, decoder: str = "fast") -> Recipe:
    """A ResNet with a thousand weights, whose last map is stored."""
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", out_indices=[-1])
    processor = ViTImageProcessor(size={"height": side, "width": side}, resample="bicubic")
    backbone = AutoBackbone.from_config(config).eval()
    return Recipe(backbone, processor=processor, decoder=decoder, batch_size=32, device="cpu")


def measure(count: int, width: int, height: int, side: int, shard_bytes: int, decoder: str) -> None:
    """Extract, and print images per second and the memory curve."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        table, runtime = source(place, count, width, height), Runtime(tiny(side, decoder))
        jpegs.cache_clear()
        gc.collect()
        start = time.perf_counter()
        plan = make_plan(image_table(table), place / "out", runtime, shard_bytes)
        planned = time.perf_counter() - start
        curve: list[float] = []
        done, due = 0, [count // 20, *(count * point // POINTS for point in range(1, POINTS + 1))]

        def advance(more: int) -> None:
            nonlocal done
            done += more
            while len(curve) < len(due) and done >= due[len(curve)]:
                curve.append(resident())

        start = time.perf_counter()
        size = sum(receipt.bytes for receipt in extract_shards(plan, plan.shards, runtime, advance=advance))
        seconds = time.perf_counter() - start
        runtime.close()
        start = time.perf_counter()
        assert len(FeatureStore(place / "out")) == count
        opened = time.perf_counter() - start
    print(
        f"{count:>9,} images: {count / seconds:7.0f} images/s, plan {planned:.2f} s, {plan.count} shards, {size / MIB:.1f} MiB, "
        f"store opened in {opened:.2f} s"
    )
    print(f"          memory in MiB: {' '.join(f'{point:.0f}' for point in curve)}", flush=True)


def million(count: int) -> None:
    """Plan synthetic ids, write shards of one number an image, and look an image up."""
    with tempfile.TemporaryDirectory() as name:
        place, runtime = Path(name), Runtime(tiny(32))
        names = ids(count)
        parquet.write_table(
            pa.table({"id": names, "uri": [f"/data/train/{id_}" for id_ in names]}), place / "source.parquet"
        )
        table = timed("read the table of ids and uris", lambda: image_table(place / "source.parquet"))
        plan = timed("plan", lambda: make_plan(table, place / "out", runtime, SHARD_BYTES))
        timed("open the plan, list a shard", lambda: open_plans(place / "out")[0].ids_of(plan.shards[-1]))
        timed("list another shard", lambda: plan.ids_of(plan.shards[plan.count // 2]))
        timed(f"write {plan.count} shards", lambda: [synthetic_shard(plan, shard) for shard in plan.shards])
        timed("open the store without a manifest", lambda: FeatureStore(place / "out"))
        timed("index", lambda: FeatureStore(place / "out").index())
        store = timed("open the store with its manifest", lambda: FeatureStore(place / "out"))
        level, some = next(iter(store.levels)), names[count // 3]
        timed("the first map by id", lambda: store[level][some])
        draw = np.random.default_rng(1).integers(0, count, 1000)
        each = timed("1,000 more", lambda: [store[level][names[row]] for row in draw.tolist()])
        assert (len(store), len(each)) == (count, 1000)
        for file in sorted((place / "out").glob("*.parquet")):
            print(
                f"  {file.name:<42} {file.stat().st_size / MIB:8.1f} MiB  {file.stat().st_size / count:6.1f} bytes an id"
            )
        print(f"  {'memory at the end':<42} {resident():8.0f} MiB")


def synthetic_shard(plan: Any, number: int) -> None:
    """A shard whose maps are one number for each image."""
    names = [image.id for image in plan.ids_of(number)]
    level = plan.meaning["levels"][0]
    shard = Shard(sizes=dict.fromkeys(names, (480, 640)))
    shard.add((32, 32), names, {level["name"]: torch.zeros(len(names), 1, 1, 1, dtype=torch.float16)})
    write_shard(plan, number, shard)


def timed(name: str, run: Callable[[], Any]) -> Any:
    """Run, and print how long it took."""
    start = time.perf_counter()
    result = run()
    print(f"  {name:<42} {time.perf_counter() - start:8.3f} s", flush=True)
    return result


def alone(run: Callable[..., None], *arguments: Any) -> None:
    """Run in a fresh process, so that memory counts from nothing."""
    process = multiprocessing.get_context("spawn").Process(target=run, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(process.exitcode)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("images", "memory", "ids"))
    parser.add_argument("--counts", default=COUNTS)
    parser.add_argument("--memory-count", type=int, default=20_000)
    parser.add_argument("--ids-count", type=int, default=1_000_000)
    parser.add_argument("--decode", default="fast")
    args = parser.parse_args()
    if args.part in (None, "images"):
        print("tiny images, tiny model")
        for count in map(int, args.counts.split(",")):
            alone(measure, count, 64, 48, 32, SHARD_BYTES, args.decode)
    if args.part in (None, "memory"):
        print("flat memory")
        alone(measure, args.memory_count, 320, 240, 64, 4 * MIB, args.decode)
    if args.part in (None, "ids"):
        print(f"{args.ids_count:,} ids")
        alone(million, args.ids_count)


if __name__ == "__main__":
    main()
