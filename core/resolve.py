"""What a name means: a local folder, a timm architecture, or a hub repository."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vertebra.config import CONFIG_NAME, Source
from vertebra.environment import import_timm
from vertebra.errors import did_you_mean
from vertebra.hub import CheckpointFiles, HubOptions, read_json

HUB_PREFIXES = ("hf-hub:", "hf_hub:")
FOLDER_PREFIX = "local-dir:"


@dataclass(frozen=True)
class Located:
    """A checkpoint that was found.

    Args:
        name: What the user wrote.
        files: Its files; None for a timm architecture, whose weights timm's own table places.
        architecture: Name of the timm architecture (with or without a tag), or None.
    """

    name: str
    files: CheckpointFiles | None = None
    architecture: str | None = None

    def content(self) -> dict[str, Any]:
        """The content of its `config.json`, or what stands for it with a timm architecture."""
        if self.files is None:
            return {"architecture": self.architecture}
        return read_json(self.files.require(CONFIG_NAME))


def is_timm_file(content: Mapping[str, Any]) -> bool:
    """Whether the content of a `config.json` is timm's own format (an architecture, and no `model_type`)."""
    return "architecture" in content and "model_type" not in content


def locate(source: Source, options: HubOptions, use_timm: bool = False) -> Located:
    """Find what `source` names.

    A local folder wins; `hf-hub:org/name` is a hub repository, `local-dir:path` a folder, and `org/name` always the hub. A bare
    name is a timm architecture where timm has one, else a hub repository without an organisation. With `use_timm` a bare
    name is a timm architecture or an error.

    Raises:
        ValueError: `use_timm` and timm has no such architecture; names the nearest.
        OSError: a path that does not exist.
    """
    if isinstance(source, CheckpointFiles):
        return Located(source.source, files=source)
    name = os.fspath(source)
    for prefix in HUB_PREFIXES:
        if name.startswith(prefix):
            repository, _, revision = name.removeprefix(prefix).partition("@")
            options = options if not revision else HubOptions(**{**vars(options), "revision": revision})
            return Located(name, files=CheckpointFiles.open(repository, options))
    if name.startswith(FOLDER_PREFIX):
        return Located(name, files=CheckpointFiles.open(Path(name.removeprefix(FOLDER_PREFIX)).absolute(), options))
    bare = "/" not in name and not name.startswith((".", "~"))
    if bare and not Path(name).is_dir():
        if has_architecture(name):
            return Located(name, architecture=name)
        if use_timm:
            raise unknown_architecture(name)
        files = CheckpointFiles.open(source, options)
        files.hint = did_you_mean(split_tag(name)[0], import_timm().list_models())
        return Located(name, files=files)
    return Located(name, files=CheckpointFiles.open(source, options))


def split_tag(name: str) -> tuple[str, str]:
    """Return architecture and tag of a timm name such as `resnet50.a1_in1k`; the tag may be empty."""
    architecture, _, tag = name.partition(".")
    return architecture, tag


def has_architecture(name: str) -> bool:
    """Whether timm has an architecture of this name, the tag aside."""
    timm = import_timm()

    return bool(timm.is_model(split_tag(name)[0]))


def unknown_architecture(name: str) -> ValueError:
    """The error for a name that timm does not have."""
    timm = import_timm()

    names = timm.list_models()
    return ValueError(
        f"timm has no architecture {name!r}.{did_you_mean(split_tag(name)[0], names)} timm.list_models('*part*') lists its "
        f"{len(names)} names by a part of them."
    )
