"""Reading stored maps, against safetensors' own reader on the same files: at random, in batches, and a whole level.

256 MiB of maps, float16 `(256, 14, 14)`, in four shards; the files are in memory. A read at random is of one image, all of
whose bytes are summed, in both sides. `python benchmarks/feature_store_growth.py` has what a million ids cost.

Run: python benchmarks/feature_store.py
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from pairs import Case
from run import main
from safetensors import safe_open
from store_files import SHAPE, write
from torch import Tensor

from vertebra import FeatureStore
from vertebra.extraction.shard_file import shard_name

IMAGES, SHARDS = 2672, 4
READS, BATCH, BATCHES = 2000, 32, 50
LEVEL = "layer3"
PEER = "safetensors"


def cases() -> Iterator[Case]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "maps")
        plan = write(out, IMAGES, IMAGES // SHARDS)
        store = FeatureStore(out)
        view = store[LEVEL]
        files = [safe_open(out / shard_name(number), framework="pt") for number in plan.shards]
        slices = [file.get_slice(LEVEL) for file in files]

        def theirs(row: int) -> Tensor:
            shard, place = divmod(row, plan.per_shard)
            return slices[shard][place]

        choose = random.Random(0)
        rows = [choose.randrange(IMAGES) for _ in range(READS)]
        ids = [store.ids[row] for row in rows]
        peer = partial(sums, theirs, rows)
        yield Case(f"{READS} maps at random by row, summed", PEER, partial(sums, view.__getitem__, rows), peer)
        yield Case(f"{READS} maps at random by id, summed", PEER, partial(sums, view.__getitem__, ids), peer)
        batches = [[choose.randrange(IMAGES) for _ in range(BATCH)] for _ in range(BATCHES)]
        yield Case(
            f"{BATCHES} batches of {BATCH} maps at random",
            PEER,
            lambda: [view.gather(batch) for batch in batches],
            lambda: [torch.stack([theirs(row) for row in batch]) for batch in batches],
            tolerance=0.0,
        )
        level = torch.zeros(IMAGES, *SHAPE, dtype=torch.float16)  # the memory is there already
        yield Case(
            f"a level, {level.nbytes >> 20} MiB, copied into one tensor",
            PEER,
            lambda: copied((block.maps for block in view.blocks()), level),
            lambda: copied((file.get_tensor(LEVEL) for file in files), level),
            outputs=lambda found: [found.clone()],
            tolerance=0.0,
        )


def sums(read: Callable[[int | str], Tensor], keys: Sequence[int | str]) -> Tensor:
    """Read maps one after the other, all bytes of each."""
    return torch.stack([read(key).reshape(-1).view(torch.int64).sum() for key in keys])


def copied(parts: Iterator[Tensor], out: Tensor) -> Tensor:
    """Fill a tensor with parts of it, one after the other."""
    done = 0
    for part in parts:
        out[done : done + len(part)] = part
        done += len(part)
    return out


if __name__ == "__main__":
    main(__file__)
