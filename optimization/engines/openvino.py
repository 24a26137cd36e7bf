"""OpenVINO: an engine for CPUs, of Intel and of others."""

from __future__ import annotations

from functools import cache
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from vertebra.optimization.capture import Graph
from vertebra.optimization.engines.base import Engine, Run

PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}


class OpenVino(Engine):
    """OpenVINO on the CPU. It would choose bfloat16 by itself where the processor has it; here it computes in what is asked."""

    name = "openvino"
    packages = ("openvino",)
    dtypes = (torch.float32, torch.bfloat16)
    any_batch = True

    def compile(self, graph: Graph, dtype: torch.dtype) -> Run:
        """Convert and compile; calls from several threads take turns."""
        import openvino

        model = openvino.convert_model(graph.program)
        model.reshape(dict(zip(model.inputs, map(_shape, graph.inputs()), strict=True)))
        settings = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[dtype],
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        request = _core().compile_model(model, "CPU", settings).create_infer_request()
        lock = Lock()

        def run(inputs: list[Tensor]) -> list[Tensor]:
            arrays = [tensor.detach().contiguous().numpy() for tensor in inputs]
            with lock:
                request.infer(arrays, share_inputs=True, share_outputs=True)
                return [torch.from_numpy(output.data).clone() for output in request.output_tensors]

        return run


def _shape(tensor: Tensor) -> list[int]:
    return [size if isinstance(size, int) else -1 for size in tensor.shape]


@cache
def _core() -> Any:
    """One for the process: it holds the plugin."""
    import openvino

    return openvino.Core()
