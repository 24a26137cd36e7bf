"""The files that hold the settings of what prepares a model's inputs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vertebra.change import current
from vertebra.hub import CheckpointFiles, HubOptions, read_json

PREPROCESSOR_FILE = "preprocessor_config.json"
PROCESSOR_FILE = "processor_config.json"


def find_settings(files: CheckpointFiles, part: str) -> dict[str, Any] | None:
    """Return the settings that a checkpoint stores, or None where it stores none.

    What `processor_config.json` holds under the key `part` goes first, as transformers 5.x has it; then
    `preprocessor_config.json`.

    Args:
        files: The checkpoint.
        part: `"image_processor"` or `"feature_extractor"`.

    Raises:
        ValueError: a file is not a JSON object.
        OSError: the hub cannot be read.
    """
    path = files.find(PROCESSOR_FILE)
    nested = read_json(path).get(part) if path is not None else None
    if isinstance(nested, Mapping):
        return dict(nested)
    path = files.find(PREPROCESSOR_FILE)
    return read_json(path) if path is not None else None


def replaced_in_processor(folder: Path, part: str, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return `processor_config.json` of a folder with other settings of a part, as name to text; nothing where it holds none.

    Raises:
        ValueError: the file is not a JSON object.
    """
    path = current(folder, PROCESSOR_FILE)
    content = read_json(path) if path is not None else {}
    if not isinstance(content.get(part), Mapping):
        return {}
    return {PROCESSOR_FILE: json.dumps({**content, part: settings}, indent=2, sort_keys=True) + "\n"}


def open_settings(source: str | os.PathLike[str], options: HubOptions) -> CheckpointFiles | dict[str, Any]:
    """Open a folder or hub repository; a path to a JSON file gives its content at once."""
    if Path(source).expanduser().is_file():
        return read_json(Path(source).expanduser())
    return CheckpointFiles.open(source, options)
