"""The base of what prepares a model's inputs: settings that are attributes, and the file they are stored in."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, overload

import numpy as np

from vertebra.change import changing
from vertebra.errors import did_you_mean, listing
from vertebra.files import write_text
from vertebra.hub import CheckpointFiles, HubOptions
from vertebra.preprocessor_files import (
    PREPROCESSOR_FILE,
    PROCESSOR_FILE,
    find_settings,
    open_settings,
    replaced_in_processor,
)
from vertebra.push import PushToHubMixin

Self = TypeVar("Self", bound="Preprocessor")
_Path = str | os.PathLike[str]


class Preprocessor(PushToHubMixin):
    """Settings that are attributes, print as JSON, and are loaded from and saved to a checkpoint's files.

    Keys of a file that the class does not know are kept: they are readable as attributes and written again.
    """

    _part: ClassVar[str] = ""
    """Its key in `processor_config.json`; the class name stands under this key with `_type` appended."""
    _type_keys: ClassVar[Sequence[str]] = ()
    """Keys of files that hold a class name."""
    _derived: ClassVar[Sequence[str]] = ()
    """Keys of files that follow from other settings: ignored when read, and written where they are properties."""
    _example: ClassVar[str] = "…"
    """Arguments of a constructor's call, for errors."""

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
                `subfolder`), settings that override the file's, and `return_unused_kwargs`. For an image processor, `use_fast`
                is transformers 4's name for a backend: True is `backend="torchvision"`, False `backend="pil"`.

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
        settings = find_settings(files, cls._part)
        if settings is None:
            raise FileNotFoundError(
                f"{files} has neither {PREPROCESSOR_FILE!r} nor {PROCESSOR_FILE!r} with {cls._part!r}. Build one in code, "
                f"{cls.__name__}({cls._example}), and save_pretrained() it there.{cls._elsewhere()}"
            )
        return settings

    @classmethod
    def _elsewhere(cls) -> str:
        """Where else settings could be, for an error."""
        return ""

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
        stored, overrides = cls._read_stored(settings, overrides, known)
        unused = {name: value for name, value in overrides.items() if name not in known}
        if not return_unused:
            refuse_unknown(f"{cls.__name__}.from_pretrained() or from_dict()", unused, known)
        values = {**stored, **{name: value for name, value in overrides.items() if name in known}}
        processor = cls(**{name: value for name, value in values.items() if name in accepted})
        for name in values.keys() & set(known) - set(accepted):
            setattr(processor, name, values[name])
        processor.__dict__["_unknown"] = {name: value for name, value in values.items() if name not in known}
        return (processor, unused) if return_unused else processor

    @classmethod
    def _read_stored(
        cls, settings: Mapping[str, Any], overrides: dict[str, Any], known: Sequence[str]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """What a file says and what overrides it, in today's spelling."""
        dropped = (*cls._type_keys, *cls._derived)
        return {key: value for key, value in settings.items() if key not in dropped}, overrides

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON-ready values, with the class name under its key.

        A None is left out unless the class's default is something else.
        """
        public = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        unset = [name for name, value in public.items() if value is None and getattr(type(self), name, None) is None]
        derived = {name: getattr(self, name) for name in self._derived if hasattr(type(self), name)}
        stored = {**self.__dict__.get("_unknown", {}), **public, **derived, f"{self._part}_type": self._type_name()}
        return {name: _plain(value) for name, value in stored.items() if name not in unset}

    def _type_name(self) -> str:
        return type(self).__name__

    def to_json_string(self) -> str:
        """Return `to_dict` as JSON text with sorted keys."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def to_json_file(self, path: _Path) -> None:
        """Write `to_json_string` to a file, atomically."""
        write_text(path, self.to_json_string())

    def save_pretrained(self, save_directory: _Path, *, push_to_hub: bool = False, **hub: Any) -> list[str]:
        """Write `preprocessor_config.json` into a folder, which is made if need be, and return the paths written.

        Where the folder's `processor_config.json` holds settings of this part, which readers take first, these are replaced too.

        Args:
            save_directory: The folder.
            push_to_hub: Push as well, to `repo_id` or to the name of the folder.
            **hub: Arguments of `push_to_hub`.

        Raises:
            NotADirectoryError: it is a file.
            ValueError: the folder has a `processor_config.json` that is no JSON object.
        """
        self._check_saving(push_to_hub, hub)
        folder = Path(save_directory)
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"save_pretrained({str(folder)!r}): this is a file; give a folder.")
        folder.mkdir(parents=True, exist_ok=True)
        with changing(folder) as change:
            texts = {PREPROCESSOR_FILE: self.to_json_string()}
            texts |= replaced_in_processor(folder, self._part, self.to_dict())
            for name, text in texts.items():
                change.write_text(name, text)
        if push_to_hub:
            self._push_saved(folder, hub)
        return [str(folder / name) for name in texts]

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"


def setting_names(cls: type) -> tuple[str, ...]:
    """Return the names of all settings of a class, base class first.

    A setting is a public annotated name or a public plain value in the body of the class or of a base class, or an
    annotation of its `valid_kwargs`. `ClassVar`s and methods are none.
    """
    return _setting_names(cls)


@lru_cache(maxsize=256)
def _setting_names(cls: type) -> tuple[str, ...]:
    names: dict[str, None] = {}
    constants = set()
    for klass in reversed(cls.__mro__[:-1]):
        annotations = inspect.get_annotations(klass)
        constants |= {name for name, annotation in annotations.items() if "ClassVar" in str(annotation)}
        plain = [name for name, value in vars(klass).items() if not callable(value) and not hasattr(value, "__get__")]
        extra = inspect.get_annotations(vars(klass).get("valid_kwargs", object))
        names.update(dict.fromkeys([*annotations, *plain, *extra]))
    return tuple(name for name in names if not name.startswith("_") and name not in constants)


def constructor_names(cls: type) -> tuple[str, ...]:
    """Return what the constructor takes by name: its own arguments, and all settings where it takes `**kwargs`."""
    parameters = inspect.signature(cls).parameters.values()
    own = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    rest = setting_names(cls) if any(p.kind == p.VAR_KEYWORD for p in parameters) else ()
    return tuple(dict.fromkeys([*own, *rest]))


def refuse_unknown(call: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise TypeError for the first of `given` that is not `known`, with the nearest name."""
    for name in given:
        if name not in known:
            raise TypeError(
                f"{call} got an unknown setting {name!r}.{did_you_mean(name, known)} The settings are {listing(known)}."
            )


def _plain(value: Any) -> Any:
    """A value as JSON holds it: arrays and tuples as lists, NumPy's numbers as Python's."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(entry) for entry in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else value
