"""The engines that compute a captured graph, one file each."""

from __future__ import annotations

from vertebra.optimization.engines.base import Engine
from vertebra.optimization.engines.inductor import Inductor
from vertebra.optimization.engines.onnxruntime import OnnxRuntime
from vertebra.optimization.engines.openvino import OpenVino

ENGINES: dict[str, Engine] = {engine.name: engine for engine in (Inductor(), OpenVino(), OnnxRuntime())}
