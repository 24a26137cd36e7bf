"""The files that hold a processor's settings: where they are and what they mean."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vertebra.hub import CheckpointFiles, HubOptions, read_json
from vertebra.image_processing.backends import split_type

PREPROCESSOR_FILE = "preprocessor_config.json"
PROCESSOR_FILE = "processor_config.json"
CONFIG_FILE = "config.json"
TYPE_KEYS = ("image_processor_type", "feature_extractor_type")


def find_settings(files: CheckpointFiles) -> dict[str, Any] | None:
    """Return the settings that a checkpoint stores, or None where it stores none.

    `processor_config.json`'s `image_processor` goes first, as transformers 5.x has it; then `preprocessor_config.json`.

    Raises:
        ValueError: a file is not a JSON object.
        OSError: the hub cannot be read.
    """
    path = files.find(PROCESSOR_FILE)
    nested = read_json(path).get("image_processor") if path is not None else None
    if isinstance(nested, Mapping):
        return dict(nested)
    path = files.find(PREPROCESSOR_FILE)
    return read_json(path) if path is not None else None


def find_timm_config(files: CheckpointFiles) -> dict[str, Any] | None:
    """Return `config.json` where it is that of a timm checkpoint (it has `pretrained_cfg`), else None."""
    path = files.find(CONFIG_FILE)
    config = read_json(path) if path is not None else {}
    return config if isinstance(config.get("pretrained_cfg"), Mapping) else None


def open_settings(source: str | os.PathLike[str], options: HubOptions) -> CheckpointFiles | dict[str, Any]:
    """Open a folder or hub repository; a path to a JSON file gives its content at once."""
    if Path(source).expanduser().is_file():
        return read_json(Path(source).expanduser())
    return CheckpointFiles.open(source, options)


def processor_type(settings: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return `(class name, backend)` of stored settings, in today's spelling; None for what they do not say."""
    for key in TYPE_KEYS:
        if isinstance(settings.get(key), str):
            return split_type(settings[key])
    return None, None
