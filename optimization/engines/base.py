"""What an engine is: something that turns a captured graph into a function that runs fast."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor

from vertebra.optimization.capture import Graph

Run = Callable[[list[Tensor]], list[Tensor]]
"""Inputs of a graph to its outputs, which belong to the caller: a later run does not write into them."""


class Engine(ABC):
    """An engine; it keeps nothing between calls."""

    name: str
    packages: tuple[str, ...] = ()
    """What has to be installed beside vertebra."""
    devices: tuple[str, ...] = ("cpu",)
    """Types of devices that it runs on."""
    dtypes: tuple[torch.dtype, ...] = (torch.float32,)
    """What it can compute in."""
    any_batch: bool = False
    """Whether one compilation can serve all sizes of a batch."""

    @abstractmethod
    def compile(self, graph: Graph, dtype: torch.dtype) -> Run:
        """Make a function of `graph` that computes in `dtype`; inputs and outputs keep the dtype they have in the graph."""

    def hindrance(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """Why it cannot be used on a device in a dtype, as an end of a sentence; None where it can."""
        if missing := self.missing():
            return f"it needs {', '.join(missing)} (pip install 'vertebra[optimize]')"
        if device.type not in self.devices:
            return f"it runs on {', '.join(self.devices)} here, and the model is on {device.type}"
        if dtype not in self.dtypes:
            return f"it computes in {', '.join(str(kind).removeprefix('torch.') for kind in self.dtypes)} here"
        return None

    def missing(self) -> list[str]:
        """Packages that it needs and that are not installed."""
        return [package for package in self.packages if find_spec(package) is None]
