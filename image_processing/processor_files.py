"""The files that hold an image processor's settings, and what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vertebra.config import CONFIG_NAME
from vertebra.hub import CheckpointFiles, read_json
from vertebra.image_processing.backends import split_type

PART = "image_processor"
TYPE_KEYS = ("image_processor_type", "feature_extractor_type")


def find_timm_config(files: CheckpointFiles) -> dict[str, Any] | None:
    """Return `config.json` where it is that of a timm checkpoint (it has `pretrained_cfg`), else None."""
    path = files.find(CONFIG_NAME)
    config = read_json(path) if path is not None else {}
    return config if isinstance(config.get("pretrained_cfg"), Mapping) else None


def processor_type(settings: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return `(class name, backend)` of stored settings, in today's spelling; None for what they do not say."""
    for key in TYPE_KEYS:
        if isinstance(settings.get(key), str):
            return split_type(settings[key])
    return None, None
