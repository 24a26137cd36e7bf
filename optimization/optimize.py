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

from vertebra.errors import did_you_mean, listing
from vertebra.model import PreTrainedModel, parse_dtype
from vertebra.optimization.engines import ENGINES
from vertebra.optimization.engines.base import Engine
from vertebra.optimization.graphs import Graphs
from vertebra.optimization.optimized import Optimized, optimized_copy, parts_of
from vertebra.optimization.remembered import recall, remember, situation
from vertebra.optimization.report import Optimization

AUTO, EAGER = "auto", "eager"
ROUNDS, ENOUGH = 5, 8.0
"""How often each way is measured; twice is enough once it has taken so many seconds."""
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-2}
"""How far an engine's outputs may be from the plain model's, of the largest value of each output."""
WRONG = 0.5
"""Further off than rounding in a short dtype goes: something else was computed, or nothing (a difference that is no number)."""


def optimize(
    model: PreTrainedModel,
    backend: str | Sequence[str] = AUTO,
    *,
    dtype: torch.dtype | str | None = None,
    image_size: int | tuple[int, int] | None = None,
    batch_size: int = 1,
    verbose: bool = True,
) -> Any:
    """As `PreTrainedModel.optimize` says, which calls this."""
    kind = torch.float32 if dtype is None else parse_dtype(dtype)
    _check(model, kind, batch_size)
    names = _names(backend)
    shape = _shape(model, image_size, batch_size)
    pixels = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(model.device)
    made = optimized_copy(model, Optimization(EAGER, kind, shape, 0.0))
    trial = _Trial(made, {model.main_input_name: pixels}, verbose)
    made.optimization = trial.choose(names)
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

    def choose(self, names: Sequence[str]) -> Optimization:
        """Use the fastest of these: what an earlier measurement chose, or what a measurement now says.

        Args:
            names: Engines and `"eager"`, all of which must be usable; where none is named, all that are. Of a model with a
                backbone an engine computes that alone if this is faster.

        Raises:
            ImportError: an engine that was named is not installed.
            ValueError: it does not run on this device, or not in this dtype.
            RuntimeError: none can compute the model, or each computes something else.
        """
        reasons = {name: reason for name in names or (EAGER, *ENGINES) if (reason := self._hindrance(name))}
        if names and reasons:
            name, reason = next(iter(reasons.items()))
            kind = ImportError if name in ENGINES and ENGINES[name].missing() else ValueError
            raise kind(f"backend={name!r} cannot be used: {reason}. {self._others(name)}")
        usable = [name for name in names or (EAGER, *ENGINES) if name not in reasons]
        ways = [way for name in usable for way in self._ways(name)]
        reasons.pop(EAGER, None)
        if not ways:
            raise RuntimeError(self._none(ways, reasons))
        return self._recalled(ways) or self._fastest(ways, reasons)

    def _hindrance(self, name: str) -> str | None:
        if name == EAGER:
            return None if self.report.dtype == torch.float32 else "the model itself computes in float32"
        return ENGINES[name].hindrance(self.made.device, self.report.dtype)

    def _ways(self, name: str) -> list[_Way]:
        return [_Way(None)] if name == EAGER else [_Way(ENGINES[name], part) for part in self.parts]

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

    def _fastest(self, ways: Sequence[_Way], refused: Mapping[str, str]) -> Optimization:
        """The fastest of these ways that computes the model right.

        Raises:
            RuntimeError: none does; or, if there is but one engine, what it raised.
        """
        reasons, failures = dict(refused), []
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
        begin = time.perf_counter()
        for number in range(ROUNDS):
            if number > 1 and time.perf_counter() - begin > ENOUGH:
                break
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
            return f"backend={engine.name!r}: {'; '.join(reasons.values())}. {self._others(engine.name)}"
        return f"No engine computes {type(self.made).__name__} in {self.report.dtype}: {reasons}."

    def _others(self, name: str) -> str:
        usable = [other for other in ENGINES if other != name and not self._hindrance(other)]
        return f"Here work: {', '.join(usable)}." if usable else "None of the others works here either."


def _names(backend: str | Sequence[str]) -> tuple[str, ...]:
    """The names that `backend` gives; none of `"auto"`."""
    several = isinstance(backend, Sequence) and not isinstance(backend, str)
    names: tuple[str, ...] = tuple(dict.fromkeys(backend)) if several else (str(backend),)
    known = (EAGER, *ENGINES)
    if names == (AUTO,):
        return ()
    for name in names or ("",):
        if name not in known:
            raise ValueError(
                f"backend={backend!r}: {name!r} is not known.{did_you_mean(name, known)} It is 'auto' by itself, or one or several "
                f"of {listing(known)}, of which the fastest is taken."
            )
    return names


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
