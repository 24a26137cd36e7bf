"""The engines that compute a captured graph, one file each."""

from __future__ import annotations

from vertebra.errors import did_you_mean, listing
from vertebra.optimization.engines.base import Engine
from vertebra.optimization.engines.inductor import Inductor
from vertebra.optimization.engines.onnxruntime import OnnxRuntime
from vertebra.optimization.engines.openvino import OpenVino

ENGINES: dict[str, Engine] = {engine.name: engine for engine in (Inductor(), OpenVino(), OnnxRuntime())}


def engine_called(name: str) -> Engine:
    """Return the engine of this name.

    Raises:
        ValueError: there is none.
    """
    if name not in ENGINES:
        raise ValueError(
            f"backend={name!r} is not known.{did_you_mean(name, ENGINES)} It is 'auto' or one of {listing(ENGINES)}."
        )
    return ENGINES[name]
