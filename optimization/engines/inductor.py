"""Inductor, torch's own compiler: for CPUs with a C++ compiler beside them, and for GPUs."""

from __future__ import annotations

import os
import shutil
from typing import Any

import torch
from torch import Tensor

from vertebra.optimization.capture import Graph
from vertebra.optimization.engines.base import Engine, Run
from vertebra.optimization.mixed import in_mixed_precision


class Inductor(Engine):
    """torch.compile with weights frozen into the graph; on GPUs replayed as a CUDA graph."""

    name = "inductor"
    devices = ("cpu", "cuda")
    dtypes = (torch.float32, torch.bfloat16)

    def hindrance(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """As for all; on a CPU a C++ compiler has to be there as well."""
        if device.type == "cpu" and not _compiler():
            return "it needs a C++ compiler, and there is neither g++ nor clang++ (CXX names another)"
        return super().hindrance(device, dtype)

    def compile(self, graph: Graph, dtype: torch.dtype) -> Run:
        """Compile for the batch the graph was captured with; the first run does the work."""
        module = graph.program.module()
        if dtype != torch.float32:
            in_mixed_precision(module, dtype)
        on_gpu = graph.inputs()[0].device.type == "cuda"
        options: dict[str, Any] = {"freezing": True, "triton.cudagraphs": on_gpu}
        compiled = torch.compile(module, fullgraph=True, dynamic=False, options=options)

        def run(inputs: list[Tensor]) -> list[Tensor]:
            with torch.no_grad():
                outputs = compiled(*inputs)
            # a CUDA graph writes into the same memory each time
            return [output.clone() for output in outputs] if on_gpu else list(outputs)

        return run


def _compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++") or shutil.which("cl")
