"""Where the cells of maps lie, measured: a run on the meta device in which every tensor carries its grid along.

Convolutions, poolings, paddings, strided slices, resizes and regrouping move the grid by known amounts; everything else
leaves cells where they are. Where paths meet whose cells lie at different places there is no one answer, and none is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from vertebra.stages import Grid, Stage, pair

Size = tuple[int, int]


@dataclass(frozen=True)
class Cells:
    """Where the cells of a tensor lie, and how many rows and columns of them there are."""

    grid: Grid
    size: Size

    @property
    def count(self) -> int:
        """How many cells there are."""
        return self.size[0] * self.size[1]


@dataclass(frozen=True)
class Lost:
    """Why nobody can say where the cells of a tensor lie."""

    reason: str


State = Cells | Lost


class Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is active, every tensor made from a tracked one is tracked."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._states = WeakTensorKeyDictionary()

    def start(self, pixels: Tensor) -> None:
        """Track `(b, c, h, w)` pixels."""
        self._states[pixels] = Cells(Grid(), (pixels.shape[-2], pixels.shape[-1]))

    def of(self, level: Tensor) -> State:
        """Where the cells of a `(b, c, h, w)` map lie."""
        state: State = Lost("its map is not made from the image")
        if level in self._states:
            state = self._states[level]
        return _regrouped(state, (level.shape[-2], level.shape[-1]))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf in self._states]
        if inputs:
            states = [self._states[leaf] for leaf in inputs]
            rule = RULES.get(func._schema.name.removeprefix("aten::"))
            leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
            if rule is not None and args and args[0] is inputs[0] and isinstance(states[0], Cells):
                state = rule(states[0], args, leaves[0], kwargs or {})
            else:
                state = _met(func._schema.name.removeprefix("aten::"), states, inputs, leaves)
            for leaf in leaves:
                self._states[leaf] = state
        return output


def _met(name: str, states: Sequence[State], inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> State:
    """The state of what is made from several tensors; gates of a single row or column do not count beside maps."""
    cells = [state for state in states if isinstance(state, Cells)]
    if len(cells) < len(states):
        return next(state for state in states if isinstance(state, Lost))
    maps = [state for state in cells if min(state.size) > 1] or cells
    first = max(maps, key=lambda state: state.count)
    if all(state.grid == first.grid for state in maps):
        return first
    if name in (
        "bmm",
        "mm",
        "baddbmm",
        "addmm",
    ):  # attention to cells of another grid: rows are those of the first operand
        left, right = maps[-2:]
        shape = outputs[0].shape
        return right if right.count in shape and left.count not in shape else left
    if name == "cat":
        if (merged := _phases(maps)) is not None:
            return merged
        held = [state for state, tensor in zip(states, inputs, strict=True) if _holds(tensor, state)]
        if held and len(held) < len(states):  # class tokens beside a map that changed its grid
            return _met(name, held, [], outputs)
    return Lost(f"paths whose cells lie at different places meet ({name})")


def _holds(tensor: Tensor, state: State) -> bool:
    """Whether a tensor has a place for every cell, as a plane or in a row of tokens."""
    if isinstance(state, Lost):
        return False
    return state.count in tensor.shape or any(sides == state.size for sides in pairwise(tensor.shape))


def _phases(states: Sequence[Cells]) -> Cells | None:
    """Strided slices put side by side: all the phases of finer cells make up one coarser cell."""
    stride, size = states[0].grid.stride, states[0].size
    if any(state.grid.stride != stride or state.size != size for state in states):
        return None
    tops = sorted({state.grid.offset[0] for state in states})
    lefts = sorted({state.grid.offset[1] for state in states})
    whole = len({state.grid.offset for state in states}) == len(states) == len(tops) * len(lefts)
    if not whole or any(_uneven(places, hop) for places, hop in zip((tops, lefts), stride, strict=True)):
        return None
    return Cells(Grid(stride, (sum(tops) / Fraction(len(tops)), sum(lefts) / Fraction(len(lefts)))), size)


def _uneven(places: Sequence[Fraction], hop: Fraction) -> bool:
    return any(after - before != hop / len(places) for before, after in pairwise(places))


def _regrouped(state: State, size: Size) -> State:
    """What the map that holds these cells says of them: whole blocks of cells in one are cells `count` times as large."""
    if isinstance(state, Lost) or state.size == size:
        return state
    times = (Fraction(state.size[0], size[0]), Fraction(state.size[1], size[1]))
    if any(time.denominator != 1 for time in times):
        was, now = ("x".join(map(str, each)) for each in (state.size, size))
        return Lost(f"{was} cells become {now} in a way that is not followed")
    return Cells(state.grid.window(times, times), size)


def _plane(tensor: Tensor) -> Size:
    return tensor.shape[-2], tensor.shape[-1]


def _window(state: Cells, args: Any, output: Tensor, kernel: Any, stride: Any, padding: Any) -> State:
    there = _regrouped(state, _plane(args[0]))
    if isinstance(there, Lost):
        return there
    return Cells(there.grid.window(kernel, stride, padding), _plane(output))


def _convolution(state: Cells, args: Any, output: Tensor, kwargs: Any) -> State:
    weight, (stride, padding, dilation, transposed) = args[1], args[3:7]
    if args[0].ndim != 4:  # along tokens or channels: gates
        return state
    if transposed:
        return Lost("a transposed convolution")
    kernel = [reach * (side - 1) + 1 for reach, side in zip(_two(dilation), weight.shape[-2:], strict=True)]
    return _window(state, args, output, kernel, _two(stride), _two(padding))


def _two(values: Any) -> list[int]:
    values = [values] if isinstance(values, int) else list(values)
    return values * 2 if len(values) == 1 else values


def _pool(state: Cells, args: Any, output: Tensor, kwargs: Any) -> State:
    kernel = _two(args[1])
    stride = _two(args[2]) if len(args) > 2 and args[2] else kernel
    dilation = _two(args[4]) if len(args) > 4 and not isinstance(args[4], bool) else [1, 1]
    reach = [far * (side - 1) + 1 for far, side in zip(dilation, kernel, strict=True)]
    return _window(state, args, output, reach, stride, _two(args[3]) if len(args) > 3 else [0, 0])


def _adaptive(state: Cells, args: Any, output: Tensor, kwargs: Any) -> State:
    return _regrouped(state, _plane(output))


def _resize(state: Cells, args: Any, output: Tensor, kwargs: Any) -> State:
    there = _regrouped(state, _plane(args[0]))
    if isinstance(there, Lost):
        return there
    if any(value is True for value in args[1:]):
        return Lost("a resize that aligns corners")
    hop = tuple(
        step * Fraction(old, new) for step, old, new in zip(there.grid.stride, there.size, _plane(output), strict=True)
    )
    offset = tuple(at + (new - old) / 2 for at, new, old in zip(there.grid.offset, hop, there.grid.stride, strict=True))
    return Cells(Grid(pair(hop), pair(offset)), _plane(output))


def _axes(state: Cells, tensor: Tensor) -> dict[int, int] | None:
    """Dimensions that hold rows (0) and columns (1), in either layout; None where they are folded into others."""
    if tensor.ndim == 4 and _plane(tensor) == state.size:
        return {2: 0, 3: 1}
    return {1: 0, 2: 1} if tensor.ndim == 4 and tuple(tensor.shape[1:3]) == state.size else None


def _moved(state: Cells, axis: int, cells: int, step: int, length: int) -> Cells:
    """The cells that begin `cells` later along an axis, every `step`-th of them."""
    grid, size, stride, offset = state.grid, list(state.size), list(state.grid.stride), list(state.grid.offset)
    offset[axis] += cells * grid.stride[axis]
    stride[axis] *= step
    size[axis] = length
    return Cells(Grid(pair(stride), pair(offset)), (size[0], size[1]))


def _slice(state: Cells, args: Any, output: Tensor, kwargs: Any) -> State:
    given = list(args[1:])
    dim, start, _, step = given + [0, None, None, 1][len(given) :]
    axes, length = _axes(state, args[0]), args[0].shape[dim]
    axis = None if axes is None else axes.get(dim % args[0].ndim)
    if axis is None:
        return Lost("a strided slice of folded cells") if step != 1 else state
    first = start or 0
    return _moved(state, axis, first + length if first < 0 else min(first, length), step, output.shape[dim])


def _pad(state: Cells, args: Any, output: Tensor, kwargs: Any) -> State:
    moved, axes = state, _axes(state, args[0])
    for index, before in enumerate(args[1][::2]):
        dim = args[0].ndim - 1 - index
        if axes is None and before:
            return Lost("padding of folded cells")
        if axes is not None and dim in axes:
            moved = _moved(moved, axes[dim], -before, 1, output.shape[dim])
    return moved


RULES: dict[str, Callable[[Cells, Any, Tensor, Any], State]] = {
    "convolution": _convolution,
    "max_pool2d_with_indices": _pool,
    "avg_pool2d": _pool,
    "_adaptive_avg_pool2d": _adaptive,
    "adaptive_max_pool2d": _adaptive,
    "upsample_nearest2d": _resize,
    "upsample_bilinear2d": _resize,
    "upsample_bicubic2d": _resize,
    "_upsample_bilinear2d_aa": _resize,
    "_upsample_bicubic2d_aa": _resize,
    "slice": _slice,
    "constant_pad_nd": _pad,
    "reflection_pad2d": _pad,
    "replication_pad2d": _pad,
}


def located(stage: Stage, state: State) -> Stage:
    """A stage with the offset that was measured, or with the reason why there is none."""
    if isinstance(state, Lost):
        return replace(stage, offset=None, offset_note=state.reason)
    if state.grid.stride != stage.stride:
        return replace(
            stage, offset=None, offset_note=f"its cells were measured to be {state.grid.stride[0]} pixels apart"
        )
    return replace(stage, offset=state.grid.offset, offset_note="")


def measure(levels: Callable[[Tensor], Sequence[Tensor]], channels: int, height: int, width: int) -> list[State]:
    """Where the cells of every map lie that `levels` computes from images of a size.

    Args:
        levels: Images `(1, channels, height, width)` on the meta device to maps `(1, c, h, w)`.
        channels: Of the images.
        height: Of the images, in pixels.
        width: Of the images, in pixels.
    """
    with torch.device("meta"), torch.no_grad():
        pixels = torch.empty(1, channels, height, width)
        trace = Trace()
        trace.start(pixels)
        with trace:
            maps = levels(pixels)
    return [trace.of(level) for level in maps]
