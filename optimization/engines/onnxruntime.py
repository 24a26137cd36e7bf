"""ONNX Runtime: an engine for CPUs that reads ONNX graphs."""

from __future__ import annotations

import logging
import warnings

import torch
from torch import Tensor

from vertebra.optimization.capture import Graph
from vertebra.optimization.engines.base import Engine, Run


class OnnxRuntime(Engine):
    """ONNX Runtime on the CPU."""

    name = "onnxruntime"
    packages = ("onnxruntime", "onnx", "onnxscript")
    any_batch = True

    def compile(self, graph: Graph, dtype: torch.dtype) -> Run:
        """Write the graph as ONNX, in memory, and open it."""
        import onnxruntime

        logger = logging.getLogger("torch.onnx")
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what the exporter says of its own internals
                written = torch.onnx.export(graph.program, dynamo=True, verbose=False)
        finally:
            logger.setLevel(level)
        assert written is not None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            written.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        names = [value.name for value in session.get_inputs()]

        def run(inputs: list[Tensor]) -> list[Tensor]:
            arrays = (tensor.detach().contiguous().numpy() for tensor in inputs)
            return [torch.from_numpy(array) for array in session.run(None, dict(zip(names, arrays, strict=True)))]

        return run
