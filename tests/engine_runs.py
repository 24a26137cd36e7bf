"""Every backbone through an engine, for `make test-optimized`: the same tests, the engine's answers."""

from typing import Any
from weakref import WeakKeyDictionary

import pytest
import torch

from vertebra.backbones.base import Backbone
from vertebra.optimization.engines import ENGINES
from vertebra.optimization.graphs import Graphs
from vertebra.optimization.optimized import Optimized, optimized_copy
from vertebra.optimization.report import Optimization


def through(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the forward of every plain float32 backbone be that of its optimized copy, made anew when its weights change."""
    plain, made = Backbone.forward, WeakKeyDictionary[Backbone, tuple[Any, Any]]()

    def forward(self: Backbone, *args: Any, **kwargs: Any) -> Any:
        learns = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.parameters())
        captured = torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack()
        if isinstance(self, Optimized) or self.training or learns or captured or self.dtype != torch.float32:
            return plain(self, *args, **kwargs)
        if self.device.type != "cpu":
            return plain(self, *args, **kwargs)
        state = [*self.config.out_indices, *((id(p), p._version) for p in (*self.parameters(), *self.buffers()))]
        if made.get(self, (None,))[0] != state:
            copy = optimized_copy(self, Optimization(engine, torch.float32, (), 0.0))
            copy._graphs = Graphs(ENGINES[engine], torch.float32)
            made[self] = state, copy
        return made[self][1](*args, **kwargs)

    monkeypatch.setattr(Backbone, "forward", forward)
