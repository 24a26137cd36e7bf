"""AutoConfig: the configuration class by the file's `model_type`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vertebra.auto.registry import config_class, register_config
from vertebra.config import PreTrainedConfig, Source
from vertebra.hub import HubOptions, read_json
from vertebra.resolve import is_timm_file, locate


class AutoConfig:
    """Chooses the configuration class by the `model_type` in `config.json`. Not constructed itself."""

    def __init__(self) -> None:
        raise OSError("AutoConfig is not constructed itself: call AutoConfig.from_pretrained(name or folder).")

    @classmethod
    def from_pretrained(cls, source: Source, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Load a configuration from a folder, the path of a JSON file, a hub id, or the name of a timm architecture.

        Args:
            source: Where it is. timm's own repositories and architectures give a `TimmWrapperConfig`.
            return_unused_kwargs: Return `(configuration, unused)` instead of refusing what no key is named like.
            **kwargs: Hub options (`revision`, `token`, …) and keys to override.

        Raises:
            ValueError: the file names no `model_type`, or an unknown one.
            OSError: there is no such checkpoint.
        """
        refuse_remote_code(kwargs)
        options = HubOptions.pop(kwargs)
        if isinstance(source, (str, Path)) and Path(source).expanduser().is_file():
            content, name = read_json(Path(source).expanduser()), str(source)
        else:
            found = locate(source, options)
            content, name = found.content(), found.name
        loaded = cls.class_of(content, name).from_dict(content, return_unused_kwargs=return_unused_kwargs, **kwargs)
        config = loaded[0] if return_unused_kwargs else loaded
        config.name_or_path = name
        return loaded

    @staticmethod
    def class_of(content: Mapping[str, Any], name: str) -> type[PreTrainedConfig]:
        """Return the class that reads the content of a `config.json`; `name` is for the error."""
        if is_timm_file(content):
            return config_class("timm_wrapper")
        if "model_type" not in content:
            raise ValueError(
                f"The config.json of {name!r} has no 'model_type', so its class is not known. Load it with the class that reads "
                f"it, e.g. SwinConfig.from_pretrained({name!r}), or add the key."
            )
        return config_class(str(content["model_type"]))

    @staticmethod
    def for_model(model_type: str, *args: Any, **kwargs: Any) -> PreTrainedConfig:
        """Construct the configuration class of a `model_type`."""
        return config_class(model_type)(*args, **kwargs)

    @staticmethod
    def register(model_type: str, config: type[PreTrainedConfig], exist_ok: bool = False) -> None:
        """Make a configuration class of one's own known.

        Raises:
            ValueError: its `model_type` differs, or is taken and `exist_ok` is False.
        """
        register_config(model_type, config, exist_ok)


def as_config(config: PreTrainedConfig | str | os.PathLike[str] | None) -> PreTrainedConfig | None:
    """The configuration given, or the one found at the place given.

    Raises:
        TypeError: it is neither.
    """
    if config is None or isinstance(config, PreTrainedConfig):
        return config
    if isinstance(config, (str, os.PathLike)):
        loaded: PreTrainedConfig = AutoConfig.from_pretrained(config)
        return loaded
    raise _no_config(config)


def check_config(config: Any) -> None:
    """Refuse what is no configuration with a TypeError."""
    if not isinstance(config, PreTrainedConfig):
        raise _no_config(config)


def _no_config(config: Any) -> TypeError:
    return TypeError(
        f"config is {repr(config)[:60]}, a {type(config).__name__} and no configuration of vertebra. "
        f"AutoConfig.from_pretrained(name or folder) loads one, AutoConfig.for_model('bert', hidden_size=…) makes one."
    )


def refuse_remote_code(kwargs: dict[str, Any]) -> None:
    """Take transformers' arguments for remote code out of `kwargs`; asking for it is a ValueError."""
    kwargs.pop("code_revision", None)
    if kwargs.pop("trust_remote_code", False):
        raise ValueError("trust_remote_code=True is refused: vertebra runs no code from a checkpoint.")
