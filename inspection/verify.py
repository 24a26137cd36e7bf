"""verify: build a backbone on the meta device, run it, and compare every claim with what comes out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vertebra.backbones.base import Backbone
from vertebra.errors import listing
from vertebra.stages import Stage, stride_text

Finding = tuple[str, str]
"""A claim that does not hold: its kind, which `backbone.exceptions` may explain, and what was found."""
MANY = 8
"""Stages up to which each is selected alone also on the meta device."""
TOLERANCE = 1e-5
"""Of the largest value: attention takes another path when gradients are recorded."""


@dataclass(frozen=True)
class Report:
    """What `verify` found. True when every claim holds; prints as a table.

    Args:
        name: What was verified.
        size: `(height, width)` of the images it ran on.
        stages: One row per stage: name, channels, stride, and the shape that came out.
        failures: One line per claim that does not hold.
        expected: The same for claims that `backbone.exceptions` explains, with the reason.
    """

    name: str
    size: tuple[int, int]
    stages: tuple[tuple[Stage, tuple[int, ...]], ...]
    failures: tuple[str, ...]
    expected: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return not self.failures

    def __str__(self) -> str:
        rows = [f"{self.name} at {self.size[0]}x{self.size[1]}: {'every claim holds' if self else 'FAILED'}"]
        for stage, shape in self.stages:
            rows.append(
                f"  {stage.index:>2}  {stage.name:<16} {stage.channels:>5} channels  stride {stride_text(stage.stride)}  {shape}"
            )
        rows += [f"  - {failure}" for failure in self.failures]
        return "\n".join([*rows, *(f"  expected: {exception}" for exception in self.expected)])

    def raise_if_failed(self) -> None:
        """Raise a RuntimeError that lists the claims which do not hold, if any."""
        if not self:
            raise RuntimeError(str(self))


def verify(backbone: Backbone, size: tuple[int, int] | None = None, device: str = "meta") -> Report:
    """Check a backbone's contract: maps, channels, layout, order, strides, sizes, names, pruning and gradients.

    The backbone itself is left alone: twins of it are built and run, on the meta device unless told otherwise, so no weights
    are needed and nothing is computed. Claims that `backbone.exceptions` explains are not failures.

    The first, a middle and the last stage are checked in twins pruned to them, every other stage by selecting it alone in
    the whole, and the first and the last by selecting both. On the meta device, of more than 8 stages only a first, a middle
    and a last one of those others are selected: each costs a run of the whole, and blocks of a kind are claimed alike.

    Args:
        backbone: Any backbone.
        size: `(height, width)` of the images; the architecture's own size when None.
        device: Where to run. `"cpu"` computes for real, and also compares the values of pruned twins with the whole.

    Raises:
        ValueError: the architecture does not run at `size`.
    """
    height, width = size or backbone.native_size
    every = range(backbone.first_map, len(backbone.stages))
    whole = backbone.twin(device, out_indices=every, size_policy=None).eval()
    batch = 2 if device == "meta" else 1  # real runs are about values, and large models about memory
    pixels = torch.rand(batch, backbone.config.num_channels, height, width, device=device)
    with torch.no_grad():
        maps = whole(pixels).feature_maps
    findings = [*check_maps(whole, maps, height, width), *check_hops(whole, maps, height, width)]
    shapes = tuple(zip(whole.output_stages, (tuple(level.shape) for level in maps), strict=False))
    by_stage = dict(zip(every, maps, strict=False))
    pruned = sorted(_three(every) & by_stage.keys())
    for index in pruned:
        findings += _check_pruned(backbone, whole, index, pixels, by_stage[index])
    alone = [index for index in every if index not in pruned]
    if device == "meta" and len(every) > MANY:
        alone = sorted(_three(alone))
    selections = [*([index] for index in alone), [every[0], every[-1]]] if len(every) > 1 else []
    findings += _check_selections(whole, selections, by_stage, pixels)
    reasons = whole.exceptions
    failures = tuple(text for kind, text in findings if kind not in reasons)
    expected = tuple(f"{text} ({reasons[kind]})" for kind, text in findings if kind in reasons)
    return Report(_name(backbone), (height, width), shapes, failures, expected)


def _three(indices: Sequence[int]) -> set[int]:
    """The first, a middle and the last."""
    return {indices[0], indices[len(indices) // 2], indices[-1]}


def _name(backbone: Backbone) -> str:
    return str(getattr(backbone.config, "backbone", None) or backbone.name_or_path or type(backbone).__name__)


def check_maps(whole: Backbone, maps: tuple[Tensor, ...], height: int, width: int) -> Iterator[Finding]:
    """Names, channels and sizes must be those that `output_shapes` claims."""
    claimed = whole.output_shapes(height, width)
    if len(claimed) != len(whole.output_stages):
        yield "names", f"stage names repeat: {whole.stage_names}"
    if len(maps) != len(whole.output_stages):
        yield "maps", f"{len(whole.output_stages)} stages are claimed and {len(maps)} maps come out"
    for stage, level in zip(whole.output_stages, maps, strict=False):
        if tuple(level.shape[1:]) != claimed[stage.name]:
            yield "maps", f"{stage.name}: {claimed[stage.name]} is claimed and {tuple(level.shape[1:])} comes out"


def check_hops(whole: Backbone, maps: tuple[Tensor, ...], height: int, width: int) -> Iterator[Finding]:
    """Cells must be size over stride, rounded either way; where padding makes them fewer, a larger image tells the hop."""
    came = list(zip(whole.output_stages, maps, strict=False))
    odd = [(stage, level) for stage, level in came if not _covers(stage, level, height, width)]
    if not odd:
        return
    step = whole.size_divisor
    larger = whole.output_shapes(height + step, width + step) if whole.accepts(height + step, width + step) else None
    for stage, level in odd:
        rows, columns = level.shape[-2:]
        more = larger and (larger[stage.name][1] - rows, larger[stage.name][2] - columns)
        if not more or any(gained * hop != step for gained, hop in zip(more, stage.stride, strict=True)):
            cells = f"{height}x{width} gives {rows}x{columns} cells"
            yield "cells", f"{stage.name}: stride {stride_text(stage.stride)} is claimed and {cells}"


def _check_selections(
    whole: Backbone, selections: Iterable[list[int]], by_stage: dict[int, Tensor], pixels: Tensor
) -> Iterator[Finding]:
    """Any selection must give the maps that all stages together give."""
    for indices in selections:
        whole.out_indices = indices
        with torch.no_grad():
            maps = whole(pixels).feature_maps
        names = whole.out_features
        if [tuple(level.shape) for level in maps] != [tuple(by_stage[index].shape) for index in indices]:
            yield "maps", f"{names} selected: {[tuple(level.shape) for level in maps]} come out"
        elif pixels.device.type != "meta":
            for name, index, level in zip(names, indices, maps, strict=True):
                if not _alike(level, by_stage[index]):
                    yield "values", f"{names} selected: the values of {name} differ from those with all stages selected"


def _alike(level: Tensor, expected: Tensor) -> bool:
    return bool((level - expected).abs().max() <= TOLERANCE * expected.abs().max())


def _covers(stage: Stage, level: Tensor, height: int, width: int) -> bool:
    pairs = zip(level.shape[-2:], (height, width), stage.stride, strict=True)
    return all(math.floor(pixels / hop) <= cells <= math.ceil(pixels / hop) for cells, pixels, hop in pairs)


def _check_pruned(
    backbone: Backbone, whole: Backbone, index: int, pixels: Tensor, expected: Tensor
) -> Iterator[Finding]:
    name = backbone.stages[index].name
    pruned = backbone.twin(str(pixels.device), out_indices=[index], size_policy=None, prune=True).eval()
    tensors, all_tensors = pruned.state_dict(), whole.state_dict()
    for key, tensor in tensors.items():
        if key not in all_tensors or tensor.shape != all_tensors[key].shape:
            yield "names", f"pruned to {name}: {key} {tuple(tensor.shape)} is not a tensor of the whole"
            return
    if pixels.device.type != "meta":
        pruned.load_state_dict({key: all_tensors[key] for key in tensors})
    (level,) = pruned(pixels).feature_maps
    if level.shape != expected.shape:
        yield "maps", f"pruned to {name}: {tuple(level.shape)} comes out instead of {tuple(expected.shape)}"
    elif pixels.device.type != "meta":
        error = (level - expected).abs().max() / expected.abs().max()
        if not error <= TOLERANCE:
            yield "values", f"pruned to {name}: values differ from the whole by {error:.2g} of the largest"
    if level.requires_grad:  # a stage may be the input itself
        level.sum().backward()
    idle = [key for key, parameter in pruned.named_parameters() if parameter.requires_grad and parameter.grad is None]
    if idle:
        yield "gradients", f"pruned to {name}: {len(idle)} parameters without a gradient: {listing(idle, 5)}"
