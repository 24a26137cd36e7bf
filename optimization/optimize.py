"""`model.optimize()`: hand a model over to an engine, try it, and say what came of it."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from vertebra.model import PreTrainedModel, parse_dtype
from vertebra.optimization.engines import ENGINES, engine_called
from vertebra.optimization.engines.base import Engine
from vertebra.optimization.graphs import Graphs
from vertebra.optimization.optimized import Optimized, optimized_copy
from vertebra.optimization.remembered import recall, remember, situation
from vertebra.optimization.report import Optimization

ROUNDS = 5
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-2}
"""How far an engine's outputs may be from the plain model's, of the largest value of each output."""
EAGER = "eager"


def optimize(
    model: PreTrainedModel,
    backend: str = "auto",
    *,
    dtype: torch.dtype | str | None = None,
    image_size: int | tuple[int, int] | None = None,
    batch_size: int = 1,
    verbose: bool = True,
) -> Any:
    """As `PreTrainedModel.optimize` says, which calls this."""
    kind = torch.float32 if dtype is None else parse_dtype(dtype)
    _check(model, kind, batch_size)
    shape = _shape(model, image_size, batch_size)
    pixels = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(model.device)
    made = optimized_copy(model, None, Optimization(EAGER, kind, shape, 0.0))
    trial = _Trial(made, {model.main_input_name: pixels}, verbose)
    if backend == "auto":
        made.optimization = trial.choose(situation(model, shape, kind))
    else:
        made.optimization = trial.take(engine_called(backend))
    trial.say(str(made.optimization))
    return made


class _Trial:
    """Engines tried on one model with one batch of images."""

    def __init__(self, made: Optimized, arguments: Mapping[str, Tensor], verbose: bool) -> None:
        self.made, self.arguments, self.verbose = made, arguments, verbose
        self.report = made.optimization
        self.plain = self._leaves()

    def say(self, line: str) -> None:
        if self.verbose:
            print(f"vertebra.optimize: {line}", file=sys.stderr, flush=True)

    def take(self, engine: Engine) -> Optimization:
        """Use this engine.

        Raises:
            ImportError: it is not installed.
            ValueError: it does not run on this device, or not in this dtype.
            RuntimeError: it cannot compute the model, or computes something else.
        """
        dtype = self.report.dtype
        if reason := engine.hindrance(self.made.device, dtype):
            kind = ImportError if engine.missing() else ValueError
            raise kind(f"backend={engine.name!r} cannot be used: {reason}. {self._others(engine)}")
        error = self._start(engine)
        if dtype == torch.float32 and not error <= TOLERANCE[dtype]:
            self.made._graphs = None
            raise RuntimeError(
                f"backend={engine.name!r}: outputs differ from the plain model's by {error:.1e} of the largest value; "
                f"{TOLERANCE[dtype]:.0e} is allowed. {self._others(engine)}"
            )
        return replace(self.report, backend=engine.name, error=error)

    def choose(self, facts: Mapping[str, Any]) -> Optimization:
        """Use the fastest engine: the one an earlier measurement chose, or what a measurement now says."""
        dtype = self.report.dtype
        refused = {name: engine.hindrance(self.made.device, dtype) for name, engine in ENGINES.items()}
        usable = [engine for name, engine in ENGINES.items() if not refused[name]]
        known = recall(facts)
        if known in {engine.name for engine in usable}:
            return replace(self.take(ENGINES[known]), remembered=True)
        if known == EAGER:
            return replace(self.report, remembered=True)
        graphs: dict[str, Graphs | None] = {EAGER: None} if dtype == torch.float32 else {}
        errors: dict[str, float] = {EAGER: 0.0}
        for engine in usable:
            self.say(f"{engine.name}: compiling")
            try:
                errors[engine.name] = self._start(engine)
            except Exception as error:  # an engine that fails is one that cannot be chosen, which the report says
                refused[engine.name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            else:
                graphs[engine.name] = self.made._graphs
        allowed = max(TOLERANCE.get(dtype, 0.0), min((errors[name] for name in graphs), default=0.0))
        for name in [name for name in graphs if not errors[name] <= allowed]:
            refused[name] = f"its outputs differ by {errors[name]:.1e} of the largest value; {allowed:.0e} is allowed"
            del graphs[name]
        reasons = {name: reason for name, reason in refused.items() if reason}
        for name, reason in reasons.items():
            self.say(f"{name}: not used, {reason}")
        if not graphs:
            raise RuntimeError(f"No engine computes {type(self.made).__name__} in {dtype}: {reasons}.")
        seconds = self._measure(graphs)
        best = min(seconds, key=lambda name: seconds[name])
        self.made._graphs = graphs[best]
        remember(facts, best, seconds)
        return replace(self.report, backend=best, error=errors[best], seconds=seconds, refused=reasons)

    def _start(self, engine: Engine) -> float:
        """Let the engine compute the model from now on; returns how far its outputs are from the plain ones."""
        self.made._graphs = Graphs(engine, self.report.dtype)
        return max(_apart(here, there) for here, there in zip(self._leaves(), self.plain, strict=True))

    def _leaves(self) -> list[Tensor]:
        with torch.no_grad():
            leaves = pytree.tree_leaves(self.made(**self.arguments))
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    def _measure(self, graphs: Mapping[str, Graphs | None]) -> dict[str, float]:
        """Median seconds of a forward by each, measured in turns."""
        times: dict[str, list[float]] = {name: [] for name in graphs}
        for _ in range(ROUNDS) if len(graphs) > 1 else ():
            for name, compiled in graphs.items():
                self.made._graphs = compiled
                start = time.perf_counter()
                leaves = self._leaves()
                if leaves[0].is_cuda:
                    torch.cuda.synchronize()
                times[name].append(time.perf_counter() - start)
        return {name: statistics.median(taken) if taken else 0.0 for name, taken in times.items()}

    def _others(self, engine: Engine) -> str:
        device, dtype = self.made.device, self.report.dtype
        usable = [name for name, other in ENGINES.items() if other is not engine and not other.hindrance(device, dtype)]
        return f"Here work: {', '.join(usable)}." if usable else "None of the others works here either."


def _check(model: PreTrainedModel, dtype: torch.dtype, batch_size: int) -> None:
    name = type(model).__name__
    if model.training:
        raise ValueError(f"optimize() is for inference, and this {name} is in training mode: call model.eval() before.")
    if model.main_input_name != "pixel_values":
        raise ValueError(f"optimize() takes models of images; {name} takes {model.main_input_name}.")
    if model.dtype != torch.float32:
        raise ValueError(
            f"optimize() starts from weights in float32, and those of this {name} are {model.dtype}: load them with "
            f"dtype='float32' and say optimize(dtype='bfloat16') to compute in a shorter dtype."
        )
    if dtype not in TOLERANCE:
        raise ValueError(f"dtype={dtype} must be torch.float32 or torch.bfloat16.")
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r} must be a whole number of images, at least 1.")


def _shape(model: PreTrainedModel, image_size: int | tuple[int, int] | None, batch_size: int) -> tuple[int, ...]:
    channels, *native = model.card_facts().pixels
    sides = native if image_size is None else [image_size] * 2 if isinstance(image_size, int) else [*image_size]
    return batch_size, channels, *sides


def _apart(mine: Tensor, plain: Tensor) -> float:
    if mine.shape != plain.shape:
        return float("inf")
    if not plain.is_floating_point():
        return 0.0 if torch.equal(mine, plain) else float("inf")
    scale = plain.abs().max().clamp_min(1e-12) if plain.numel() else torch.ones(())
    apart = (mine - plain).abs().max() / scale if plain.numel() else torch.zeros(())
    return float(apart)
