"""Model configurations: plain dataclasses in memory, Hugging Face's `config.json` on disk."""

from __future__ import annotations

import copy
import inspect
import json
import os
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from vertebra.change import changing
from vertebra.errors import did_you_mean, listing
from vertebra.files import write_text
from vertebra.hub import CheckpointFiles, HubOptions, read_json
from vertebra.push import PushToHubMixin

if TYPE_CHECKING:
    from typing_extensions import Self

CONFIG_NAME = "config.json"
Source = str | os.PathLike[str] | CheckpointFiles


@dataclass(init=False, repr=False, eq=False, kw_only=True)
class PreTrainedConfig(PushToHubMixin):
    """Base of all configurations.

    A family declares its keys as annotated class attributes with defaults, in the order of its positional arguments;
    the constructor takes these, the keys below, the family's aliases and nothing else. A subclass in transformers'
    style (`def __init__(self, width=64, **kwargs): …; super().__init__(**kwargs)`) works as well. Keys of a file that
    nothing here is named like are kept, readable as attributes, and written back.

    Args:
        output_hidden_states: Whether forwards return hidden states unless the call says otherwise.
        output_attentions: The same for attention weights.
        return_dict: Whether forwards return an output object (or a plain tuple).
        architectures: Names of the classes a checkpoint was saved from.
        problem_type: `"regression"`, `"single_label_classification"` or `"multi_label_classification"`; None lets the
            labels' dtype decide.
        dtype: Name of the dtype of the weights, e.g. `"float32"`.
        id2label: Class index to label. `LABEL_0` and `LABEL_1` when not given.
        label2id: The reverse of `id2label`, derived when not given.
        num_labels: How many labels; makes new tables when their length differs.

    Raises:
        TypeError: an argument that no key is named like (the nearest is shown), or too many positional arguments.
    """

    model_type: ClassVar[str] = ""
    attribute_map: ClassVar[Mapping[str, str]] = {}
    """Further names of keys, alias to key."""
    derived_keys: ClassVar[tuple[str, ...]] = ()
    """Read-only properties that are written for other readers and ignored when read."""

    output_hidden_states: bool = False
    output_attentions: bool = False
    return_dict: bool = True
    architectures: list[str] | None = None
    problem_type: str | None = None
    dtype: str | None = None
    id2label: Mapping[int, str] | None = None
    label2id: Mapping[str, int] | None = None

    def __init_subclass__(cls, kw_only: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclass(init=False, repr=False, eq=False, kw_only=kw_only)(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        positional = [field.name for field in fields(self) if not field.kw_only]
        if len(args) > len(positional):
            raise TypeError(
                f"{type(self).__name__} takes {len(positional)} positional arguments: {listing(positional)}."
            )
        given = dict(zip(positional, args, strict=False))
        if twice := given.keys() & kwargs.keys():
            raise TypeError(f"{type(self).__name__} got {listing(sorted(twice))} both by position and by name.")
        given |= kwargs
        self._extra: dict[str, Any] = {}
        self.name_or_path = ""
        for field in fields(self):
            default = _default(field)
            value = given.pop(field.name, default)
            if value is MISSING:
                raise TypeError(f"{type(self).__name__} needs {field.name!r}; it has no default.")
            if field.name not in vars(self) or value is not default:  # a subclass may have set it before
                setattr(self, field.name, list(value) if isinstance(value, tuple) else copy.deepcopy(value))
        self._settle(given)
        self._closed = type(self).__init__ is PreTrainedConfig.__init__

    def _settle(self, given: dict[str, Any]) -> None:
        """Apply the arguments that are no fields (aliases and settable properties), then check the whole."""
        for name, value in given.items():
            if name not in (allowed := self._settable()):
                raise TypeError(
                    f"{type(self).__name__} has no key {name!r}.{did_you_mean(name, allowed)} Its keys are "
                    f"{listing(sorted(allowed))}."
                )
            setattr(self, name, value)
        self.validate()

    def validate(self) -> None:
        """Check values that depend on each other; families extend it. Raises ValueError."""

    @classmethod
    def _settable(cls) -> set[str]:
        """Names that may be assigned: fields, aliases, and properties with a setter."""
        properties = {name for name, value in inspect.getmembers(cls) if isinstance(value, property) and value.fset}
        return {field.name for field in fields(cls)} | set(cls.attribute_map) | properties

    @classmethod
    def _accepted(cls) -> set[str]:
        """Names the constructor takes, those of constructors in transformers' style included."""
        written = [vars(base)["__init__"] for base in cls.__mro__ if "__init__" in vars(base) and base is not object]
        named = {
            name
            for init in written
            for name, p in inspect.signature(init).parameters.items()
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        }
        return cls._settable() | named - {"self"}

    def __setattr__(self, name: str, value: Any) -> None:
        name = self.attribute_map.get(name, name)
        if vars(self).get("_closed") and name not in vars(self) and not name.startswith("_"):
            self._refuse_unknown(name)
        if name in ("id2label", "label2id"):
            self._set_labels(name, value)
            return
        if name == "dtype" and value is not None:
            value = str(value).removeprefix("torch.")
        if name in vars(self).get("_extra", ()):
            self._extra[name] = value
        else:
            object.__setattr__(self, name, value)

    def _set_labels(self, name: str, table: Mapping[Any, Any] | None) -> None:
        """Set one table of labels; the other follows, and None for `label2id` means the reverse of `id2label`."""
        id2label = vars(self).get("id2label")
        if name == "id2label":
            id2label = None if table is None else {int(index): label for index, label in table.items()}
            table = None
        elif table is not None and id2label is None:
            id2label = {index: label for label, index in table.items()}
        reverse = None if id2label is None else {label: index for index, label in id2label.items()}
        object.__setattr__(self, "id2label", id2label)
        object.__setattr__(self, "label2id", reverse if table is None else dict(table))

    def _refuse_unknown(self, name: str) -> None:
        known = {*self._settable(), *self._extra}
        if name not in known:
            raise AttributeError(f"{type(self).__name__} has no key {name!r} to assign.{did_you_mean(name, known)}")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_extra":
            raise AttributeError(name)
        if name in self.attribute_map:
            return getattr(self, self.attribute_map[name])
        if name in vars(self).get("_extra", ()):
            return self._extra[name]
        known = {*self._settable(), *self.derived_keys, *vars(self).get("_extra", ())}
        raise AttributeError(f"{type(self).__name__} has no key {name!r}.{did_you_mean(name, known)}")

    @property
    def num_labels(self) -> int:
        """How many labels there are; assigning another number makes new tables `LABEL_0`, `LABEL_1`, …."""
        return 2 if self.id2label is None else len(self.id2label)

    @num_labels.setter
    def num_labels(self, number: int) -> None:
        if number != self.num_labels:
            self.id2label = {index: f"LABEL_{index}" for index in range(number)}

    @property
    def labels(self) -> dict[int, str]:
        """Class index to label, the default names where none were given."""
        return dict(self.id2label) if self.id2label is not None else {0: "LABEL_0", 1: "LABEL_1"}

    @property
    def use_return_dict(self) -> bool:
        """The same as `return_dict`, under transformers' older name."""
        return self.return_dict

    def to_dict(self) -> dict[str, Any]:
        """Return everything as a dictionary that JSON can hold, `model_type` included."""
        public = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        public.pop("name_or_path", None)
        derived = {name: getattr(self, name) for name in self.derived_keys}
        content = {**self._extra, **public, **derived, "model_type": self.model_type}
        return {name: plain(value) for name, value in content.items()}

    def to_diff_dict(self) -> dict[str, Any]:
        """Like `to_dict`, without the common keys that are at their default (the family's own keys always stay)."""
        common = {field.name: _default(field) for field in fields(self) if field.kw_only}
        return {name: value for name, value in self.to_dict().items() if name not in common or value != common[name]}

    def to_json_string(self, use_diff: bool = True) -> str:
        """Return the configuration as JSON with sorted keys; `use_diff=False` writes the common defaults too."""
        content = self.to_diff_dict() if use_diff else self.to_dict()
        return json.dumps(content, indent=2, sort_keys=True) + "\n"

    def to_json_file(self, path: str | os.PathLike[str], use_diff: bool = True) -> None:
        """Write `to_json_string` to `path`, atomically."""
        write_text(path, self.to_json_string(use_diff))

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], use_diff: bool = True, *, push_to_hub: bool = False, **hub: Any
    ) -> None:
        """Write `config.json` into a folder, which is made when it does not exist.

        Args:
            save_directory: The folder.
            use_diff: Leave out the common keys that are at their default.
            push_to_hub: Push as well, to `repo_id` or to the name of the folder.
            **hub: Arguments of `push_to_hub`.
        """
        self._check_saving(push_to_hub, hub)
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        with changing(folder) as change:  # finishes an interrupted save, whose configuration this one replaces
            change.write_text(CONFIG_NAME, self.to_json_string(use_diff))
        if push_to_hub:
            self._push_saved(folder, hub, use_diff=use_diff)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], return_unused_kwargs: bool = False, **overrides: Any) -> Any:
        """Make a configuration from a dictionary such as `to_dict` returns; `overrides` win over it.

        Returns:
            The configuration, or `(configuration, unused)` with `return_unused_kwargs=True`.

        Raises:
            ValueError: the dictionary is of another `model_type`.
            TypeError: an override that no key is named like.
        """
        content = dict(content)
        older_name = content.pop("torch_dtype", None)
        if older_name is not None:
            content.setdefault("dtype", older_name)
        if overrides.get("id2label") is not None and "label2id" not in overrides:
            content.pop("label2id", None)
        if content.get("num_labels", 0) is None:
            del content["num_labels"]
        model_type = content.pop("model_type", cls.model_type)
        if cls.model_type and model_type != cls.model_type:
            raise ValueError(
                f"This configuration has model_type {model_type!r}; {cls.__name__} reads {cls.model_type!r}. "
                f"AutoConfig.from_pretrained chooses the class by model_type."
            )
        accepted = cls._accepted() - {alias for alias, key in cls.attribute_map.items() if key in cls.derived_keys}
        unused = {name: overrides.pop(name) for name in list(overrides) if name not in accepted and name not in content}
        if unused and not return_unused_kwargs:
            name = next(iter(unused))
            raise TypeError(f"{cls.__name__} has no key {name!r}.{did_you_mean(name, accepted)}")
        content = cls._merge(content, overrides)
        config = cls(**{name: value for name, value in content.items() if name in accepted})
        config._extra = {
            k: v for k, v in content.items() if k not in accepted and not isinstance(getattr(cls, k, None), property)
        }
        return (config, unused) if return_unused_kwargs else config

    @classmethod
    def _merge(cls, content: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
        """Lay `overrides` over what a file says."""
        return {**content, **overrides}

    @classmethod
    def from_pretrained(cls, source: Source, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Load from a folder, the path of a JSON file, or a hub id.

        Args:
            source: Where the configuration is.
            return_unused_kwargs: Return `(configuration, unused)` instead of refusing what no key is named like.
            **kwargs: `revision`, `cache_dir`, `token`, `local_files_only`, `force_download`, `subfolder`, and keys to override.
        """
        content, kwargs = cls.get_config_dict(source, **kwargs)
        loaded = cls.from_dict(content, return_unused_kwargs=return_unused_kwargs, **kwargs)
        config = loaded[0] if return_unused_kwargs else loaded
        config.name_or_path = source.source if isinstance(source, CheckpointFiles) else os.fspath(source)
        return loaded

    @classmethod
    def get_config_dict(cls, source: Source, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return `(content of config.json, kwargs without the hub's own)`."""
        options = HubOptions.pop(kwargs)
        if not isinstance(source, CheckpointFiles) and Path(source).expanduser().is_file():
            return read_json(Path(source).expanduser()), kwargs
        return read_json(CheckpointFiles.open(source, options).require(CONFIG_NAME)), kwargs

    @classmethod
    def from_json_file(cls, path: str | os.PathLike[str]) -> Self:
        """Load from the path of a JSON file."""
        return cls.from_dict(read_json(path))  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.to_dict() == other.to_dict()  # type: ignore[attr-defined]

    __hash__ = None  # type: ignore[assignment]


PretrainedConfig = PreTrainedConfig


def _default(field: Field[Any]) -> Any:
    """What a key is when nobody sets it; MISSING for one that has to be given."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def plain(value: Any) -> Any:
    """A value as JSON can hold it; configurations inside become dictionaries."""
    if isinstance(value, PreTrainedConfig):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Fraction):
        return int(value) if value.denominator == 1 else float(value)
    return value
