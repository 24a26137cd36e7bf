"""What every module of a network gave in one run, and which modules of two networks belong together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from vertebra.backbones.base import Backbone

Pair = tuple["Record", "Record"]


@dataclass(frozen=True)
class Record:
    """What one call of a module gave.

    Args:
        name: Path of the module; from the second call on with `#2`, `#3`, ….
        kind: Its class.
        outputs: The tensors it returned, on the CPU, as they were then.
    """

    name: str
    kind: str
    outputs: tuple[Tensor, ...]

    @cached_property
    def largest(self) -> tuple[float, ...]:
        """Largest absolute value of each tensor."""
        return tuple(tensor.abs().max().item() if tensor.numel() else 0.0 for tensor in self.outputs)

    @cached_property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the tensors."""
        return tuple(tuple(tensor.shape) for tensor in self.outputs)


def record(backbone: Backbone, pixels: Tensor) -> tuple[tuple[Tensor, ...], list[Record]]:
    """Run a backbone and return its maps, and what its modules gave in the order in which they were done.

    Args:
        backbone: In evaluation mode.
        pixels: `(b, c, h, w)`; moved to the device and dtype of the backbone.
    """
    ran: list[Record] = []
    calls: Counter[str] = Counter()
    last: list[tuple[Tensor, int, Tensor]] = []

    def copied(tensor: Tensor) -> Tensor:
        """A copy; the same one again where a module hands on what its last child gave."""
        for seen, version, copy in last:
            if seen is tensor and version == tensor._version:
                return copy
        last[:] = [(tensor, tensor._version, tensor.detach().clone().cpu())]
        return last[0][2]

    def note(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        tensors = tuple(copied(leaf) for leaf in tree_leaves(output) if isinstance(leaf, Tensor))
        calls[name] += 1
        if tensors:
            ran.append(Record(name if calls[name] == 1 else f"{name}#{calls[name]}", type(module).__name__, tensors))

    hooks = [m.register_forward_hook(partial(note, name)) for name, m in backbone.named_modules() if name]
    try:
        with torch.no_grad():
            maps = backbone(pixels.to(backbone.device, backbone.dtype), return_dict=True).feature_maps
    finally:
        for hook in hooks:
            hook.remove()
    return maps, ran


def pair_records(
    a: Sequence[Record], b: Sequence[Record], agree: Callable[[Tensor, Tensor], bool], tolerance: float
) -> tuple[bool, list[Pair]]:
    """Match what two networks recorded: whether by name, and the pairs in the order of `a`.

    Without a name in common, records belong together that have the same shapes and agree, both in order. After the last of
    these, where the networks part, they belong together by their shapes alone, again in order.

    Args:
        a: Records of the first.
        b: Records of the second.
        agree: Whether two tensors are equal within the tolerance.
        tolerance: Largest difference of equal tensors, over the largest value.
    """
    named = {there.name: there for there in b}
    common = [(here, named[here.name]) for here in a if here.name in named]
    if common:
        return True, common

    def equal(x: Record, y: Record) -> bool:
        near = (abs(big - other) <= tolerance * big for big, other in zip(x.largest, y.largest, strict=True))
        return all(near) and all(map(agree, x.outputs, y.outputs))  # the first is necessary, and cheap

    pairs, start, after = _in_order(a, b, equal)
    rest, _, _ = _in_order(a[start:], b[after:], lambda x, y: True)
    return False, [*pairs, *rest]


def _in_order(
    a: Sequence[Record], b: Sequence[Record], fit: Callable[[Record, Record], bool]
) -> tuple[list[Pair], int, int]:
    """Pairs of equal shapes that fit, and how much of `a` and of `b` lies before the end of the last one."""
    pairs: list[Pair] = []
    used, next_free = 0, 0
    for index, here in enumerate(a):
        for place in range(next_free, len(b)):
            if here.shapes == b[place].shapes and fit(here, b[place]):
                pairs.append((here, b[place]))
                used, next_free = index + 1, place + 1
                break
    return pairs, used, next_free
