"""Which engine was the fastest for a model on this machine: a small file in the user's cache."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from vertebra.files import write_text

logger = logging.getLogger("vertebra")
PACKAGES = ("torch", "vertebra", "openvino", "onnxruntime")
LARGEST = 2**20
"""Bytes of such a file; a larger one is none of ours."""


def cache_folder() -> Path:
    """Where measurements are kept: `VERTEBRA_CACHE`, else `vertebra` in the user's cache."""
    if given := os.environ.get("VERTEBRA_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vertebra"


def situation(model: Any, shape: tuple[int, ...], dtype: torch.dtype) -> Mapping[str, Any]:
    """All that the choice depends on: the model, the images, the machine, the versions."""
    config = hashlib.sha256(model.config.to_json_string().encode()).hexdigest()
    return {
        "model": f"{type(model).__name__} {config[:16]}",
        "shape": list(shape),
        "dtype": str(dtype),
        "device": _device(model.device),
        "threads": torch.get_num_threads(),
        **{package: _version(package) for package in PACKAGES},
    }


def recall(facts: Mapping[str, Any]) -> str | None:
    """The engine that was chosen in this situation before; None where there was none, or its file cannot be read."""
    path = _path(facts)
    try:
        if path.stat().st_size > LARGEST:
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    chosen = content.get("backend") if isinstance(content, dict) else None
    return chosen if isinstance(chosen, str) else None


def remember(facts: Mapping[str, Any], backend: str, seconds: Mapping[str, float]) -> None:
    """Keep the choice; where nothing can be written it is measured again next time, and the log says why."""
    path = _path(facts)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"backend": backend, "seconds": dict(seconds), **facts}, indent=1) + "\n")
    except OSError as error:
        logger.warning("The fastest engine is not remembered: %s cannot be written (%s).", path, error)


def _path(facts: Mapping[str, Any]) -> Path:
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return cache_folder() / "engines" / f"{name[:32]}.json"


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
