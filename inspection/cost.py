"""The cost card: parameters, FLOPs, bytes of maps and most live bytes of a backbone, without running it for real."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vertebra.backbones.base import Backbone, Size
from vertebra.inspection.facts import REAL_RUN, NoDraws
from vertebra.inspection.trace import FusedAttention, Trace
from vertebra.model import parse_dtype
from vertebra.stages import Stage

WHOLE = ("parameters", "weight_bytes", "flops", "macs", "peak_bytes", "cpu_peak_bytes")


@dataclass(frozen=True)
class StageCost:
    """What a stage costs; FLOPs and bytes are of a forward of the whole batch without gradients.

    Args:
        stage: The stage.
        selected: Whether the backbone that was asked about returns its map.
        parameters: Parameters of a backbone that is pruned to end with this stage.
        own_parameters: Those of them that no stage before needs.
        flops: FLOPs of a backbone that is pruned to end with this stage.
        own_flops: Those of them that no stage before needs.
        map_shape: `(channels, height, width)` of its map.
        map_bytes: Bytes of its map.
        peak_bytes: Most live bytes of a backbone that returns the maps of all stages up to this one, weights not counted.
    """

    stage: Stage
    selected: bool
    parameters: int
    own_parameters: int
    flops: int
    own_flops: int
    map_shape: tuple[int, int, int]
    map_bytes: int
    peak_bytes: int


@dataclass(frozen=True)
class Cost:
    """What running a backbone costs. Prints as a table.

    FLOPs are two per multiply-add of convolutions, matrix products and attention. Bytes are those of tensors; workspace that
    kernels take inside one operation comes on top (`cpu_peak_bytes` has that of the CPU's convolutions), and so does what an
    optimizer keeps.

    Args:
        size: `(height, width)` of the images.
        batch: Images that run together; all FLOPs and bytes are for these.
        dtype: Dtype of weights and maps.
        training: Whether the numbers are those of a forward and a backward in training mode, instead of a forward alone.
        stages: One row per stage that has a map at this size.
        parameters: Of the backbone with its selection.
        weight_bytes: Bytes of its parameters and buffers.
        flops: FLOPs with its selection.
        peak_bytes: Most live bytes with its selection: pixels, intermediate tensors, maps and gradients, without the weights.
        cpu_peak_bytes: The same with the copies that the CPU's convolutions make: what its allocator gives out. `memory_bytes` and
            `largest_batch` leave them out, since kernels of a GPU make others.
    """

    size: Size
    batch: int
    dtype: torch.dtype
    training: bool
    stages: tuple[StageCost, ...]
    parameters: int
    weight_bytes: int
    flops: int
    peak_bytes: int
    cpu_peak_bytes: int
    _peak: Callable[[int], int] = field(repr=False, compare=False)

    @property
    def macs(self) -> int:
        """Multiply-adds: half the FLOPs."""
        return self.flops // 2

    @property
    def memory_bytes(self) -> int:
        """Most live bytes together with the weights."""
        return self.weight_bytes + self.peak_bytes

    def memory_at(self, batch: int) -> int:
        """`memory_bytes` of another batch, by a run of its own on the meta device."""
        return self.weight_bytes + self._peak(batch)

    def largest_batch(self, budget_bytes: int) -> int:
        """Return the largest batch whose `memory_bytes` stay within `budget_bytes`; 0 where not even one image fits.

        Memory is nearly affine in the batch: lines through batches that were run give the next guess, and the answer is a batch
        that was seen to fit while the next one was seen not to.

        Raises:
            ValueError: the budget is negative.
        """
        if budget_bytes < 0:
            raise ValueError(f"budget_bytes={budget_bytes} must be a number of bytes from 0, e.g. 16 * 10**9.")
        known = {self.batch: self.memory_bytes, 2 * self.batch: self.memory_at(2 * self.batch)}
        while True:
            fits = max((batch for batch, used in known.items() if used <= budget_bytes), default=0)
            over = min((batch for batch, used in known.items() if used > budget_bytes), default=None)
            if over == fits + 1:
                return fits
            ordered = sorted(known)
            first = min(ordered.index(fits) if fits else 0, len(ordered) - 2)
            low, high = ordered[first], ordered[first + 1]
            per_image = max(1.0, (known[high] - known[low]) / (high - low))
            guess = max(fits + 1, low + int((budget_bytes - known[low]) // per_image))
            guess = guess if over is None else min(guess, over - 1)
            known[guess] = self.memory_at(guess)

    def disk_bytes(self, images: int, dtype: torch.dtype | str = "float16") -> dict[str, int]:
        """Selected stage to the bytes that `vertebra extract` stores of `images` images; headers (ids) come on top.

        Args:
            images: How many.
            dtype: Dtype of the stored maps; extract's own default is float16.

        Raises:
            ValueError: it is no floating-point dtype.
        """
        width = parse_dtype(dtype).itemsize
        chosen = [row for row in self.stages if row.selected]
        return {row.stage.name: _numel(row.map_shape) * width * images for row in chosen}

    def to_dict(self) -> dict[str, Any]:
        """The numbers as JSON holds them."""
        rows = [
            {
                "name": row.stage.name,
                "index": row.stage.index,
                "selected": row.selected,
                "map_shape": list(row.map_shape),
            }
            | {name: getattr(row, name) for name in ("parameters", "flops", "own_flops", "map_bytes", "peak_bytes")}
            for row in self.stages
        ]
        whole = {name: getattr(self, name) for name in WHOLE}
        run = {"size": list(self.size), "batch": self.batch, "dtype": _spelled(self.dtype), "training": self.training}
        return {**run, "stages": rows, **whole, "memory_bytes": self.memory_bytes}

    def __str__(self) -> str:
        head = ("stage", "parameters", "GMAC", "GMAC up to here", "bytes of map", "most live, all maps kept")
        rows = [
            (
                row.stage.name,
                f"{row.own_parameters:,}",
                giga(row.own_flops / 2),
                giga(row.flops / 2),
                binary(row.map_bytes),
                binary(row.peak_bytes),
            )
            for row in self.stages
        ]
        width = max(len(row[0]) for row in [head, *rows])
        marks = ["  ", *("* " if row.selected else "  " for row in self.stages)]
        kind = "a forward and a backward" if self.training else "a forward"
        plural = "s" if self.batch > 1 else ""
        return "\n".join(
            [
                f"cost        {kind} of {self.batch} image{plural} of {self.size[0]}x{self.size[1]}, {_spelled(self.dtype)}"
                f"{'; the rows are of a forward alone' if self.training else ''}",
                "",
                *(
                    f"{mark}{a:<{width}}  {b:>13}  {c:>8}  {d:>15}  {e:>12}  {f:>24}"
                    for mark, (a, b, c, d, e, f) in zip(marks, [head, *rows], strict=True)
                ),
                "",
                f"compute     {giga(self.macs)} GMAC with this selection; a multiply-add is 2 FLOPs: {giga(self.flops)} GFLOP",
                f"memory      {binary(self.memory_bytes)}: weights {binary(self.weight_bytes)}, other tensors at most "
                f"{binary(self.peak_bytes)} at once ({binary(self.cpu_peak_bytes)} on a CPU, whose convolutions copy); "
                f"workspace of other kernels{' and optimizers' if self.training else ''} not counted",
            ]
        )


def cost(
    backbone: Backbone,
    height: int,
    width: int,
    batch: int = 1,
    *,
    dtype: torch.dtype | str | None = None,
    training: bool = False,
) -> Cost:
    """Return the cost of a backbone from runs of its twins on the meta device: nothing is computed, no weights are needed.

    What a stage needs is read off one run of all stages: the operations and parameters that reach its map. A few parallel
    architectures (`backbone.exceptions` names them) compute more than that when pruned; what the selection as a whole costs is
    always that of a run of its own. Attention counts as the one fused kernel that it is on the CPU, wherever the CPU fuses it.

    Args:
        backbone: Any backbone, on the meta device or with weights; it is left alone.
        height: Height of the images in pixels.
        width: Width of the images in pixels.
        batch: Images that run together.
        dtype: Dtype of weights and pixels; the backbone's own when None.
        training: Count a forward and a backward in training mode, with what is frozen left frozen, and with a gradient for
            every selected map. An optimizer's state is not counted.

    Raises:
        TypeError: `backbone` is no Backbone.
        ValueError: images of this size do not run, the batch or the dtype cannot be used, or the architecture cannot run on the
            meta device.
    """
    if not isinstance(backbone, Backbone):
        raise TypeError(
            f"cost takes a Backbone, got {type(backbone).__name__}; AutoBackbone.from_pretrained(…) makes one, of a plain timm "
            f"name as well."
        )
    if not isinstance(batch, int) or batch < 1:
        raise ValueError(f"batch={batch} must be a whole number of at least 1.")
    if min(height, width) < 1:
        raise ValueError(f"An image of {height}x{width} has no pixels; sizes are height and width in pixels, from 1x1.")
    if (reason := why_unknown(backbone)) is not None:
        raise ValueError(reason)
    size, kind = (height, width), parse_dtype(backbone.dtype if dtype is None else dtype)
    own = _twin(backbone, kind, training)
    trace, _ = _run(own, size, batch)
    return Cost(
        size=size,
        batch=batch,
        dtype=kind,
        training=training,
        stages=_stages(backbone, size, batch, kind),
        parameters=own.num_parameters(),
        weight_bytes=sum(tensor.nbytes for tensor in trace.weights),
        flops=sum(trace.flops),
        peak_bytes=trace.peak_bytes(),
        cpu_peak_bytes=trace.peak_bytes(copies=True),
        _peak=lambda count: _run(own, size, count)[0].peak_bytes(),
    )


def why_unknown(backbone: Backbone) -> str | None:
    """Why the cost of a backbone is not known; None where it is."""
    name = type(getattr(backbone, "timm_model", backbone)).__name__
    if name not in REAL_RUN:
        return None
    return f"The cost of {name} is not known: {REAL_RUN[name][1]}. Only a run on real tensors measures it."


def _twin(backbone: Backbone, dtype: torch.dtype, training: bool = False, **selection: Any) -> Backbone:
    with NoDraws(), torch.no_grad():
        return backbone.twin(**selection, freeze=backbone.config.freeze if training else None).to(dtype).train(training)


def _run(twin: Backbone, size: Size, batch: int) -> tuple[Trace, tuple[Tensor, ...]]:
    """Run a twin, in training mode with a backward, and return what it cost and its maps."""
    pixels = torch.empty(batch, twin.config.num_channels, *size, dtype=twin.dtype, device="meta")
    trace = Trace([*twin.parameters(), *twin.buffers()])
    with ExitStack() as modes:
        for mode in (torch.set_grad_enabled(twin.training), FusedAttention(), trace):
            modes.enter_context(mode)
        maps = twin(pixels, return_dict=True).feature_maps
        needing = [level for level in maps if level.requires_grad]
        if needing:
            torch.autograd.backward(needing, [torch.empty_like(level) for level in needing])
    twin.zero_grad()
    return trace, maps


def _stages(backbone: Backbone, size: Size, batch: int, dtype: torch.dtype) -> tuple[StageCost, ...]:
    last = len(backbone.stages) - 1
    whole = _twin(backbone, dtype, out_indices=range(backbone.first_map, last + 1))
    if backbone.last_stage < last and not whole.accepts(*size):  # too small for stages that are not selected
        whole = _twin(backbone, dtype, out_indices=range(backbone.first_map, backbone.last_stage + 1))
    trace, maps = _run(whole, size, batch)
    before = 0
    rows = []
    for stage, level in zip(whole.output_stages, maps, strict=True):
        needed = trace.sources(level)
        own, before = needed & ~before, before | needed
        rows.append(
            StageCost(
                stage=stage,
                selected=stage.index in backbone.selected,
                parameters=_parameters(trace, needed),
                own_parameters=_parameters(trace, own),
                flops=trace.flops_of(needed),
                own_flops=trace.flops_of(own),
                map_shape=(level.shape[1], level.shape[2], level.shape[3]),
                map_bytes=level.nbytes,
                peak_bytes=trace.peak_bytes(before),
            )
        )
    return tuple(rows)


def _parameters(trace: Trace, sources: int) -> int:
    return sum(tensor.numel() for tensor in trace.weights_of(sources) if isinstance(tensor, torch.nn.Parameter))


def _numel(shape: tuple[int, int, int]) -> int:
    return shape[0] * shape[1] * shape[2]


def _spelled(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def giga(number: float) -> str:
    """Billions, to three digits or more: `4.09`, `0.0123`, `1,234`."""
    value = number / 1e9
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def binary(size: float) -> str:
    """Bytes as people read them, in powers of 1024."""
    power = next((power for power in (1, 2, 3) if size < 1024 ** (power + 1)), 4)
    return f"{size / 1024**power:,.{1 if power < 3 else 2}f} {'KMGT'[power - 1]}iB"
