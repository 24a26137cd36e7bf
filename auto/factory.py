"""What the Auto classes for models have in common, and the one for models without a head."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any, ClassVar

from vertebra.auto.config import AutoConfig, as_config, check_config, refuse_remote_code
from vertebra.auto.registry import check_backed, model_class, register_model
from vertebra.config import PreTrainedConfig, Source
from vertebra.hub import HubOptions
from vertebra.resolve import Located, locate


def refuse_native(found: Located) -> None:
    """Raise a ValueError where a checkpoint that is to be timm's is not."""
    model_type = found.content().get("model_type", "timm_wrapper")
    if not str(model_type).startswith("timm_"):
        raise ValueError(
            f"{found.name!r} holds a {model_type!r} checkpoint, not one of timm's; leave use_timm_backbone out, and the class "
            f"that reads it is chosen."
        )


def named_in(content: Mapping[str, Any], model: type[Any]) -> type[Any]:
    """The class that a checkpoint was saved from, where it is a special form of `model` (two heads instead of one)."""
    names = content.get("architectures") or []
    forms = (getattr(sys.modules[model.__module__], name, None) for name in names)
    return next((form for form in forms if isinstance(form, type) and issubclass(form, model)), model)


class AutoModelFactory:
    """Chooses a model class by the class of the configuration. Subclasses name a column of the registry."""

    task: ClassVar[str]

    def __init__(self) -> None:
        name = type(self).__name__
        raise OSError(
            f"{name} is not constructed itself: call {name}.from_pretrained(name) or {name}.from_config(config)."
        )

    @classmethod
    def from_config(cls, config: PreTrainedConfig, **kwargs: Any) -> Any:
        """Build with random weights (a timm configuration with `use_pretrained_backbone=True` loads timm's).

        Args:
            config: Its class decides which model is built.
            **kwargs: `dtype`, and arguments of the model's constructor.

        Raises:
            ValueError: there is no class for this configuration; lists those that have one.
            TypeError: it is no configuration.
        """
        refuse_remote_code(kwargs)
        check_backed(cls.task, cls.__name__)
        check_config(config)
        return model_class(type(config), cls.task, cls.__name__).from_config(config, **kwargs)

    @classmethod
    def from_pretrained(
        cls,
        source: Source,
        *args: Any,
        config: PreTrainedConfig | str | os.PathLike[str] | None = None,
        use_timm: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Load a checkpoint with the class that fits it.

        Args:
            source: A local folder (the network is never asked), a hub id, or the name of a timm architecture.
            *args: Further positional arguments of the model's constructor.
            config: Use this configuration (or the one found there) instead of the checkpoint's own.
            use_timm: A bare name means a timm architecture and nothing else.
            **kwargs: As in `PreTrainedModel.from_pretrained`: hub options, keys of the configuration, loading options.

        Raises:
            OSError: there is no such checkpoint, or its files are damaged.
            ValueError: no class is known for it.
            TypeError: `config` is neither a configuration nor a path.
        """
        refuse_remote_code(kwargs)
        check_backed(cls.task, cls.__name__)
        options = HubOptions.pop(kwargs)
        config = as_config(config)
        found = locate(source, options, use_timm)
        if use_timm and config is None:
            refuse_native(found)
        content = found.content()
        chosen = AutoConfig.class_of(content, found.name) if config is None else type(config)
        model = named_in(content, model_class(chosen, cls.task, cls.__name__))
        # an architecture has no files of its own: its class asks timm where the weights are
        where = {"source": found.files} if found.files else {"source": found.architecture, **vars(options)}
        return model.from_pretrained(where.pop("source"), *args, config=config, **where, **kwargs)

    @classmethod
    def register(cls, config_class: type[PreTrainedConfig], model_class: type[Any], exist_ok: bool = False) -> None:
        """Make a model class of one's own known for a configuration class.

        Raises:
            ValueError: `model_class.config_class` differs, or the configuration has a class here and `exist_ok` is False.
        """
        register_model(config_class, model_class, cls.task, exist_ok)


class AutoModel(AutoModelFactory):
    """Chooses the class without a head. Not constructed itself."""

    task = "model"
