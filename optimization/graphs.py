"""The compiled graphs of an optimized model: one for every kind of call, the least used one dropped when there are many."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vertebra.optimization.capture import ALONE, capture
from vertebra.optimization.engines.base import Engine

LIMIT = 16
"""How many graphs are kept: each holds the weights again."""
Compiled = Callable[[Mapping[str, Tensor]], Any]


class Graphs:
    """Compiles calls of a model as they come and keeps what it compiled.

    A copy, and what pickle makes of it, is empty.

    Args:
        engine: Computes the graphs.
        dtype: What it computes in.
    """

    def __init__(self, engine: Engine, dtype: torch.dtype) -> None:
        self.engine, self.dtype = engine, dtype
        self._kept: OrderedDict[tuple[Hashable, int | None], Compiled] = OrderedDict()
        self._weights: tuple[list[Tensor], int] | None = None

    def run(self, model: nn.Module, tensors: Mapping[str, Tensor], rest: Mapping[str, Any], state: Hashable) -> Any:
        """The output of `model(**tensors, **rest)`.

        Args:
            model: The model; where its weights have changed since the last call, all is compiled anew.
            tensors: Its arguments that are tensors, the batch in front.
            rest: Its other arguments.
            state: What the output depends on beside these and the weights.
        """
        call = (
            tuple((name, tensor.shape[1:], tensor.dtype) for name, tensor in tensors.items()),
            _hashable(rest),
            state,
        )
        batch = next(iter(tensors.values())).shape[0]
        with ALONE:
            self._check_weights(model)
            compiled = self._find((call, batch), (call, None))
            if compiled is None:
                key, compiled = self._compile(model, tensors, rest, call, batch)
                self._kept[key] = compiled
                if len(self._kept) > LIMIT:
                    self._kept.popitem(last=False)
                return compiled(tensors)  # an engine may compile in its first run
        return compiled(tensors)

    def clear(self) -> None:
        """Drop everything that was compiled."""
        with ALONE:
            self._kept.clear()
            self._weights = None

    def __len__(self) -> int:
        return len(self._kept)

    def _find(self, *keys: tuple[Hashable, int | None]) -> Compiled | None:
        for key in keys:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        return None

    def _compile(
        self, model: nn.Module, tensors: Mapping[str, Tensor], rest: Mapping[str, Any], call: Hashable, batch: int
    ) -> tuple[tuple[Hashable, int | None], Compiled]:
        """A graph for the number of images that a call first comes with, which runs faster; then one for any number."""
        any_batch = self.engine.any_batch and any(known == call for known, _ in self._kept)
        graph = capture(model, tensors, rest, any_batch=any_batch)
        if any_batch and not graph.any_batch and batch != 2:
            graph = capture(model, tensors, rest, any_batch=False)  # it holds for the number it was captured with
        run = self.engine.compile(graph, self.dtype)

        def compiled(given: Mapping[str, Tensor]) -> Any:
            return graph.output(run([*given.values()]))

        return (call, None if graph.any_batch else batch), compiled

    def _check_weights(self, model: nn.Module) -> None:
        """Compiled graphs hold the weights as constants; changing these in place counts their versions up."""
        if self._weights is None:
            tensors = [*model.parameters(), *model.buffers()]
            self._weights = tensors, _versions(tensors)
        tensors, versions = self._weights
        if _versions(tensors) != versions:
            self._kept.clear()
            self._weights = tensors, _versions(tensors)

    def __deepcopy__(self, memo: Any) -> Graphs:
        return Graphs(self.engine, self.dtype)

    def __reduce__(self) -> Any:
        return _empty, (self.engine.name, self.dtype)


def _empty(engine: str, dtype: torch.dtype) -> Graphs:
    from vertebra.optimization.engines import ENGINES

    return Graphs(ENGINES[engine], dtype)


def _versions(tensors: list[Tensor]) -> int:
    return sum(tensor._version for tensor in tensors if not tensor.is_inference())


def _hashable(rest: Mapping[str, Any]) -> Hashable:
    return tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in sorted(rest.items()))
