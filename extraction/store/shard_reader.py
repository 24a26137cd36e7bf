"""The maps of one shard: tensors that are the file itself, mapped into memory, or byte ranges of a file that is far away."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from vertebra.errors import listing
from vertebra.extraction.plan import Plan
from vertebra.extraction.shard_file import Block, Size, read_header, shard_name, tensor_name
from vertebra.extraction.store.rows import Run


class ShardReader:
    """One shard, opened.

    Args:
        plan: Which it is a part of.
        shard: Its number.

    Raises:
        OSError: it is damaged, missing or not of this plan.
    """

    def __init__(self, plan: Plan, shard: int) -> None:
        self.storage, self.name = plan.storage, shard_name(shard)
        self.where = f"{self.storage}/{self.name}"
        try:
            header = read_header(self.storage, self.name)
        except (OSError, ValueError) as error:
            raise OSError(
                f"The shard {self.where!r} is damaged or missing ({error}). `vertebra features verify {self.storage}` looks for "
                f"others; extracting again computes it anew."
            ) from error
        if wrong := [fact for fact, value in plan.facts(shard).items() if header.metadata.get(fact) != value]:
            raise OSError(
                f"The shard {self.where!r} is not of this store's plan: its {listing(wrong)} differ. Put the right file in its "
                f"place, or move it away and extract again."
            )
        self.blocks = header.tensors
        self._maps: dict[str, Tensor] = {}
        path = self.storage.local(self.name)
        if path is not None:
            file = cast(
                torch.UntypedStorage, torch.UntypedStorage.from_file(str(path), shared=False, nbytes=header.size)
            )
            self._maps = {name: _view(file, block) for name, block in self.blocks.items()}

    def map(self, level: str, size: Size, row: int) -> Tensor:
        """One of the maps that `rows` gives, `(c, h, w)`."""
        return self.rows(level, size, row, row + 1)[0]

    def rows(self, level: str, size: Size, start: int, stop: int) -> Tensor:
        """Maps of a level of images that were processed at one size, `(stop - start, c, h, w)`: the file itself where it is local.

        Raises:
            OSError: the shard has no such maps.
        """
        name = self._name(level, size)
        dtype, (count, *shape), first = self.blocks[name]
        if stop > count:
            raise OSError(
                f"The shard {self.where!r} is damaged: it has {count} maps of {name!r}, not {stop}. Extract again."
            )
        if name in self._maps:
            return self._maps[name][start:stop]
        each = dtype.itemsize * math.prod(shape)
        return self._read(Block(dtype, (stop - start, *shape), first + start * each))

    def run(self, level: str, run: Run) -> Tensor:
        """What `rows` gives for a run of the store's rows."""
        return self.rows(level, run.size, run.row, run.row + run.stop - run.start)

    def _name(self, level: str, size: Size) -> str:
        for name in (level, tensor_name(level, size)):
            if name in self.blocks:
                return name
        raise OSError(
            f"The shard {self.where!r} is damaged: it has no maps of {level!r} at {size[0]}x{size[1]} pixels, only "
            f"{listing(self.blocks)}. Extract again."
        )

    def _read(self, block: Block) -> Tensor:
        dtype, shape, start = block
        if not math.prod(shape):
            return torch.empty(shape, dtype=dtype)
        data = self.storage.read(self.name, start, start + dtype.itemsize * math.prod(shape))
        return torch.frombuffer(bytearray(data), dtype=dtype).view(shape)


def _view(file: torch.UntypedStorage, block: Block) -> Tensor:
    """A tensor of a file, without a copy. Headers are padded, so every tensor begins where its dtype may."""
    dtype, shape, start = block
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return torch.empty(0, dtype=dtype).set_(file, start // dtype.itemsize, shape, strides)  # type: ignore[arg-type]
