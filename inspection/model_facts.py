"""What any checkpoint is, without its weights: a backbone's facts, or those that every model has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vertebra.auto.config import AutoConfig
from vertebra.auto.registry import auto_name, classes_of
from vertebra.backbones.base import Size
from vertebra.hub import HubOptions
from vertebra.inspection.facts import Facts, describe_found, kind_of
from vertebra.inspection.weight_facts import WeightFacts, weight_facts
from vertebra.resolve import locate


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model that is no backbone.

    Args:
        name: What was asked for.
        kind: `"folder"` or `"hub"`.
        class_name: The class that saved it, as `config.json` says; that of its configuration where it does not.
        model_type: Family, as in `config.json`.
        commit: Commit of the repository on the hub.
        tasks: Name of an Auto class to the name of the class that it chooses.
        weights: What is known of its weights.
    """

    name: str
    kind: str
    class_name: str
    model_type: str
    commit: str | None
    tasks: Mapping[str, str]
    weights: WeightFacts


def describe_any(
    source: str,
    size: Size | None = None,
    options: HubOptions | None = None,
    only_backbones: str = "",
    **selection: Any,
) -> Facts | ModelFacts:
    """Describe a backbone as `facts.describe` does, and of any other model what its configuration and headers say.

    Args:
        source: As in `describe`.
        size: As in `describe`.
        options: As in `describe`.
        only_backbones: What was asked beside that only backbones have, for the error; empty where nothing was.
        **selection: As in `describe`.

    Raises:
        OSError: there is no such checkpoint, or its files are damaged.
        ValueError: as `describe`; its family is not known; or it is no backbone and something was asked that only these have.
    """
    found = locate(source, options or HubOptions())
    content = found.content()
    config = AutoConfig.class_of(content, found.name)
    tasks = classes_of(config)
    if found.files is None or "backbone" in tasks:
        return describe_found(found, size, **selection)
    if only_backbones:
        raise ValueError(
            f"{source!r} is a {config.model_type!r} model, which is no backbone, and only backbones have stages and sizes of "
            f"images: leave {only_backbones} out. What is known of it is printed then."
        )
    architectures = content.get("architectures") or [config.__name__]
    weights, _ = weight_facts(found.files)
    return ModelFacts(
        name=source,
        kind=kind_of(found),
        class_name=str(architectures[0]),
        model_type=config.model_type,
        commit=found.files.commit,
        tasks={auto_name(task): name for task, name in tasks.items()},
        weights=weights,
    )
