"""What a benchmark's numbers depend on: the processor, the versions, and how fast this machine multiplies matrices."""

from __future__ import annotations

import os
import platform
import re
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
import torch.nn.functional as F

from vertebra.linear import Linear

PACKAGES = ("torch", "torchvision", "transformers", "timm", "openvino", "onnxruntime")
SHAPES = (
    (512, 512, 512),
    (1024, 1024, 1024),
    (2048, 2048, 2048),
    (1024, 4096, 1024),
    (1568, 768, 3072),
    (3072, 768, 768),
)
"""Rows, inner dimension, columns: squares, and layers of transformers; those where little waits for memory are best."""
REPEATS = 3


def facts() -> dict[str, str]:
    """What the numbers were measured with; nothing of where."""
    return {
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "Python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def processor() -> str:
    """The processor's model as the system names it."""
    info = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*: (.*)$", info.read_text() if info.exists() else "", re.MULTILINE)
    return model[1].strip() if model else platform.processor() or platform.machine()


def matrix_peak() -> float:
    """Floating-point operations a second of the fastest fp32 matrix product found: of torch's linear layer and of vertebra's."""
    best = 0.0
    with torch.inference_mode():
        for rows, inner, columns in SHAPES:
            layer, x = Linear(inner, columns), torch.randn(rows, inner)
            for number in range(2 * REPEATS):
                start = time.perf_counter()
                layer(x) if number % 2 else F.linear(x, layer.weight, layer.bias)
                best = max(best, 2 * rows * inner * columns / (time.perf_counter() - start))
    return best


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
