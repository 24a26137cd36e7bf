"""Processors as files: load, save and print the settings."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import numpy as np

from vertebra.errors import did_you_mean
from vertebra.files import write_text
from vertebra.hub import CheckpointFiles, HubOptions
from vertebra.image_processing.processor_files import (
    PREPROCESSOR_FILE,
    PROCESSOR_FILE,
    TYPE_KEYS,
    find_settings,
    open_settings,
    processor_type,
)
from vertebra.image_processing.settings import constructor_names, read_use_fast, refuse_unknown, setting_names
from vertebra.push import PushToHubMixin

Self = TypeVar("Self", bound="ImageProcessingMixin")
_Path = str | os.PathLike[str]


class ImageProcessingMixin(PushToHubMixin):
    """Settings that are attributes, print as JSON, and are loaded from and saved to a checkpoint's files.

    Keys of a file that the class does not know are kept: they are readable as attributes and written again.
    """

    def __init__(self, **settings: Any) -> None:
        for name, value in settings.items():
            setattr(self, name, value)

    def __getattr__(self, name: str) -> Any:
        unknown = self.__dict__.get("_unknown", {})
        if name in unknown:
            return unknown[name]
        near = did_you_mean(name, [known for known in (*vars(self), *unknown) if not known.startswith("_")])
        raise AttributeError(f"{type(self).__name__} has no {name!r}.{near}")

    @overload
    @classmethod
    def from_pretrained(
        cls: type[Self], source: _Path, *, return_unused_kwargs: Literal[True], **kwargs: Any
    ) -> tuple[Self, dict[str, Any]]: ...
    @overload
    @classmethod
    def from_pretrained(
        cls: type[Self], source: _Path, *, return_unused_kwargs: Literal[False] = False, **kwargs: Any
    ) -> Self: ...
    @classmethod
    def from_pretrained(cls, source: _Path, **kwargs: Any) -> Any:
        """Load the settings of a checkpoint.

        Args:
            source: A local folder, a hub repository `org/name`, or the path of the JSON file itself.
            **kwargs: How the hub is asked (`revision`, `cache_dir`, `token`, `local_files_only`, `force_download`,
                `subfolder`), settings that override the file's, and `return_unused_kwargs`. `use_fast` is
                transformers 4's name for a backend: True is `backend="torchvision"`, False `backend="pil"`.

        Returns:
            The processor; with `return_unused_kwargs=True` the tuple `(processor, unused)`, where `unused` holds the
            arguments that are no setting.

        Raises:
            OSError: the source does not exist or holds no settings.
            ValueError: the file is not a JSON object or holds a value that is not allowed.
            TypeError: an override is not a setting (without `return_unused_kwargs`).
        """
        opened = open_settings(source, HubOptions.pop(kwargs))
        settings = cls._read_files(opened) if isinstance(opened, CheckpointFiles) else opened
        return cls.from_dict(settings, **kwargs)

    @classmethod
    def _read_files(cls, files: CheckpointFiles) -> dict[str, Any]:
        settings = find_settings(files)
        if settings is None:
            raise FileNotFoundError(
                f"{files} has neither {PREPROCESSOR_FILE!r} nor {PROCESSOR_FILE!r} with an 'image_processor'. "
                f"Build the processor in code, {cls.__name__}(size=…), and save_pretrained() it there; a timm "
                f"checkpoint is read by TimmWrapperImageProcessor.from_pretrained."
            )
        return settings

    @overload
    @classmethod
    def from_dict(
        cls: type[Self], settings: Mapping[str, Any], *, return_unused_kwargs: Literal[True], **overrides: Any
    ) -> tuple[Self, dict[str, Any]]: ...
    @overload
    @classmethod
    def from_dict(
        cls: type[Self], settings: Mapping[str, Any], *, return_unused_kwargs: Literal[False] = False, **overrides: Any
    ) -> Self: ...
    @classmethod
    def from_dict(cls, settings: Mapping[str, Any], **overrides: Any) -> Any:
        """Build a processor from stored settings; arguments, result and errors are those of `from_pretrained`."""
        return_unused = overrides.pop("return_unused_kwargs", False)
        accepted = constructor_names(cls)
        known = tuple(dict.fromkeys([*setting_names(cls), *accepted]))
        overrides = read_use_fast(overrides) if "backend" in known else overrides
        unused = {name: value for name, value in overrides.items() if name not in known}
        if not return_unused:
            refuse_unknown(f"{cls.__name__}.from_pretrained() or from_dict()", unused, known)
        stored = {key: value for key, value in settings.items() if key not in TYPE_KEYS}
        backend = processor_type(settings)[1]
        if backend is not None and "backend" in known:
            stored.setdefault("backend", backend)
        values = {**stored, **{name: value for name, value in overrides.items() if name in known}}
        processor = cls(**{name: value for name, value in values.items() if name in accepted})
        for name in values.keys() & set(known) - set(accepted):
            setattr(processor, name, values[name])
        processor.__dict__["_unknown"] = {name: value for name, value in values.items() if name not in known}
        return (processor, unused) if return_unused else processor

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON-ready values, with the class name as `image_processor_type`.

        A None is left out unless the class's default is something else.
        """
        public = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        unset = [name for name, value in public.items() if value is None and getattr(type(self), name, None) is None]
        settings = {**self.__dict__.get("_unknown", {}), **public, "image_processor_type": self._type_name()}
        return {name: _plain(value) for name, value in settings.items() if name not in unset}

    def _type_name(self) -> str:
        return type(self).__name__

    def to_json_string(self) -> str:
        """Return `to_dict` as JSON text with sorted keys."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def to_json_file(self, path: _Path) -> None:
        """Write `to_json_string` to a file, atomically."""
        write_text(path, self.to_json_string())

    def save_pretrained(self, folder: _Path, *, push_to_hub: bool = False, **hub: Any) -> list[str]:
        """Write `preprocessor_config.json` into `folder`, which is made if need be, and return the path written.

        Args:
            folder: Where to.
            push_to_hub: Push as well, to `repo_id` or to the name of the folder.
            **hub: Arguments of `push_to_hub`.

        Raises:
            NotADirectoryError: `folder` is a file.
        """
        self._check_saving(push_to_hub, hub)
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"save_pretrained({str(folder)!r}): this is a file; give a folder.")
        folder.mkdir(parents=True, exist_ok=True)
        self.to_json_file(folder / PREPROCESSOR_FILE)
        if push_to_hub:
            self._push_saved(folder, hub)
        return [str(folder / PREPROCESSOR_FILE)]

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"


def _plain(value: Any) -> Any:
    """A value as JSON holds it: arrays and tuples as lists, NumPy's numbers as Python's."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(entry) for entry in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else value
