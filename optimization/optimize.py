"""`model.optimize()`: hand a model over to an engine, try it, and say what came of it."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from vertebra.model import PreTrainedModel, parse_dtype
from vertebra.optimization.engines import ENGINES, engine_called
from vertebra.optimization.engines.base import Engine
from vertebra.optimization.graphs import Graphs
from vertebra.optimization.optimized import Optimized, optimized_copy, parts_of
from vertebra.optimization.remembered import recall, remember, situation
from vertebra.optimization.report import Optimization

ROUNDS = 5
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-2}
"""How far an engine's outputs may be from the plain model's, of the largest value of each output."""
WRONG = 0.5
"""Further off than rounding in a short dtype goes: something else was computed, or nothing (a difference that is no number)."""
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
    engine = None if backend == "auto" else engine_called(backend)
    shape = _shape(model, image_size, batch_size)
    pixels = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(model.device)
    made = optimized_copy(model, Optimization(EAGER, kind, shape, 0.0))
    trial = _Trial(made, {model.main_input_name: pixels}, verbose)
    made.optimization = trial.choose() if engine is None else trial.take(engine)
    trial.say(str(made.optimization))
    return made


@dataclass(frozen=True)
class _Way:
    """To compute a model: a part of it by an engine, and the rest as it is; all of it where there is no engine."""

    engine: Engine | None
    part: str = "model"

    def __str__(self) -> str:
        if self.engine is None:
            return EAGER
        return self.engine.name if self.part == "model" else f"{self.engine.name} ({self.part})"


class _Trial:
    """Ways to compute one model, tried with one batch of images."""

    def __init__(self, made: Optimized, arguments: Mapping[str, Tensor], verbose: bool) -> None:
        self.made, self.arguments, self.verbose = made, arguments, verbose
        self.report = made.optimization
        self.parts = parts_of(made)
        self.graphs: dict[_Way, Graphs] = {}
        self.errors: dict[_Way, float] = {}
        self.plain = self._leaves()

    def say(self, line: str) -> None:
        if self.verbose:
            print(f"vertebra.optimize: {line}", file=sys.stderr, flush=True)

    def take(self, engine: Engine) -> Optimization:
        """Use this engine; where the model has a backbone, for that alone if this is the faster.

        Raises:
            ImportError: it is not installed.
            ValueError: it does not run on this device, or not in this dtype.
            RuntimeError: it cannot compute the model, or computes something else.
        """
        if reason := engine.hindrance(self.made.device, self.report.dtype):
            kind = ImportError if engine.missing() else ValueError
            raise kind(f"backend={engine.name!r} cannot be used: {reason}. {self._others(engine)}")
        ways = [_Way(engine, part) for part in self.parts]
        return self._recalled(ways) or self._fastest(ways)

    def choose(self) -> Optimization:
        """Use the fastest of all: what an earlier measurement chose, or what a measurement now says."""
        dtype = self.report.dtype
        refused = {name: engine.hindrance(self.made.device, dtype) for name, engine in ENGINES.items()}
        ways = [_Way(engine, part) for name, engine in ENGINES.items() if not refused[name] for part in self.parts]
        if dtype == torch.float32:
            ways.insert(0, _Way(None))
        reasons = {name: reason for name, reason in refused.items() if reason}
        if not ways:
            raise RuntimeError(self._none(ways, reasons))
        return self._recalled(ways) or self._fastest(ways, reasons)

    def _recalled(self, ways: Sequence[_Way]) -> Optimization | None:
        """What was the fastest of these ways before."""
        known = recall(self._facts(ways)) if len(ways) > 1 else None
        for way in ways:
            if str(way) != known:
                continue
            try:
                error = self._start(way)
            except Exception as failure:  # measured anew, where the report has what fails
                self.say(f"{way}: was the fastest before, and fails now: {failure}")
            else:
                if error <= (TOLERANCE[torch.float32] if self.report.dtype == torch.float32 else WRONG):
                    return self._done(way, remembered=True)
            self.graphs.pop(way, None)
            self.errors.pop(way, None)
        return None

    def _fastest(self, ways: Sequence[_Way], refused: Mapping[str, str] | None = None) -> Optimization:
        """The fastest of these ways that computes the model right.

        Raises:
            RuntimeError: none does; or, if there is but one engine, what it raised.
        """
        reasons, failures = dict(refused or {}), []
        for way in ways:
            if way.engine is not None:
                self.say(f"{way}: compiling")
            try:
                self._start(way)
            except Exception as error:  # a way that fails is one that cannot be chosen, which the report says
                failures.append(error)
                first_line, *_ = str(error).split("\n")
                reasons[str(way)] = f"{type(error).__name__}: {first_line}"
        usual = TOLERANCE[self.report.dtype]
        # in a short dtype there is nothing exact to fall back to: what the best can do is allowed
        best_error = min(min(self.errors.values(), default=0.0), WRONG)
        allowed = usual if self.report.dtype == torch.float32 else max(usual, best_error)
        for way, apart in self.errors.items():
            if not apart <= allowed:
                reasons[str(way)] = f"its outputs differ by {apart:.1e} of the largest value; {allowed:.0e} is allowed"
        for name, reason in reasons.items():
            self.say(f"{name}: not used, {reason}")
        right = [way for way, error in self.errors.items() if error <= allowed]
        if not right:
            self._use(None)
            if failures and len({way.engine for way in ways}) == 1:
                raise failures[0]
            raise RuntimeError(self._none(ways, reasons))
        seconds = self._measure(right) if len(right) > 1 else {}
        best = min(right, key=lambda way: seconds.get(str(way), 0.0))
        if len(ways) > 1:
            remember(self._facts(ways), str(best), seconds)
        return self._done(best, seconds=seconds, refused=reasons)

    def _done(self, way: _Way, **told: Any) -> Optimization:
        self._use(way)
        return replace(
            self.report, backend=way.engine.name if way.engine else EAGER, part=way.part, error=self.errors[way], **told
        )

    def _facts(self, ways: Sequence[_Way]) -> Mapping[str, Any]:
        return {**situation(self.made, self.report.shape, self.report.dtype), "among": [str(way) for way in ways]}

    def _start(self, way: _Way) -> float:
        """Compute the model this way from now on; returns how far its outputs are from the plain ones."""
        if way.engine is not None:
            self.graphs[way] = Graphs(way.engine, self.report.dtype)
        self._use(way)
        error = max(_apart(here, there) for here, there in zip(self._leaves(), self.plain, strict=True))
        self.errors[way] = error
        return error

    def _use(self, way: _Way | None) -> None:
        for part in self.parts.values():
            part._graphs = None
        if way is not None:
            self.parts[way.part]._graphs = self.graphs.get(way)

    def _leaves(self) -> list[Tensor]:
        with torch.no_grad():
            leaves = pytree.tree_leaves(self.made(**self.arguments))
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    def _measure(self, ways: Sequence[_Way]) -> dict[str, float]:
        """Median seconds of a forward by each, measured in turns."""
        times: dict[str, list[float]] = {str(way): [] for way in ways}
        for _ in range(ROUNDS):
            for way in ways:
                self._use(way)
                start = time.perf_counter()
                leaves = self._leaves()
                if leaves[0].is_cuda:
                    torch.cuda.synchronize()
                times[str(way)].append(time.perf_counter() - start)
        return {name: statistics.median(taken) for name, taken in times.items()}

    def _none(self, ways: Sequence[_Way], reasons: Mapping[str, str]) -> str:
        engines = {way.engine for way in ways}
        if len(engines) == 1 and (engine := engines.pop()):
            return f"backend={engine.name!r}: {'; '.join(reasons.values())}. {self._others(engine)}"
        return f"No engine computes {type(self.made).__name__} in {self.report.dtype}: {reasons}."

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
    return float("inf") if apart.isnan() else float(apart)
