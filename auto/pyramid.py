"""pyramid: any backbone to the strides a head needs, with a neck chosen by rule."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from vertebra.auto.backbone import AutoBackbone
from vertebra.auto.registry import FAMILIES, config_class, model_class
from vertebra.config import PreTrainedConfig, Source
from vertebra.errors import did_you_mean, listing
from vertebra.hub import CheckpointFiles
from vertebra.stages import Stage, exact_strides, select_by_stride, stride_text

PREFIX = "vertebra_"
SELECTION = ("out_features", "out_indices", "out_strides")


def pyramid(
    backbone: Any,
    strides: Sequence[Any] = (4, 8, 16, 32),
    channels: int | None = 256,
    neck: str | type[Any] | None = "auto",
    *,
    neck_options: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """Build a backbone with one map of `channels` channels for each of `strides`.

    With `neck="auto"` the strides of the backbone's stages decide:

    | the backbone has | neck |
    | --- | --- |
    | every stride asked for, or all but coarser ones that double its last | `"fpn"` |
    | one stride alone (flat transformers, any patch size) | `"simple_feature_pyramid"` |
    | other strides | `"fpn"` over those it has, doubled up to the coarsest asked for, then `"interpolate"` |

    Args:
        backbone: A built backbone (of which the neck may use what is selected, or everything with `prune=False`), a
            configuration (built as by `AutoBackbone.from_config`), or a name or folder as in `AutoBackbone.from_pretrained`.
        strides: Strides in pixels of the image, ascending.
        channels: Channels of every map; None keeps the backbone's, for necks that allow it (`neck=None` always does).
        neck: `"auto"`; `"fpn"`, `"pafpn"`, `"simple_feature_pyramid"`, `"reassemble"`, `"interpolate"`, `"projection"`; a class
            of one's own that derives from `Neck`; None for the backbone alone, whose strides must be those asked for.
        neck_options: Further keys of the neck's configuration, such as `{"norm": "batch"}`.
        **kwargs: With a name or a configuration, what `AutoBackbone.from_pretrained` or `from_config` takes
            (`use_pretrained_backbone=False`, `size_policy="pad"`, `freeze="stage1"`, …).

    Returns:
        A `Backbone` that gives the maps in the order of `strides`, each a stage called `stride4`, `stride8`, …; with `neck=None`
        the backbone itself.

    Raises:
        ValueError: a stride that the neck cannot make of this backbone; names what exists and what would make it.
        TypeError: what is no backbone or no neck, or an argument that changes nothing here.
    """
    asked = exact_strides(strides)
    check_neck(neck, neck_options)
    plan = _plan(backbone, kwargs)
    if neck is None:
        return plan.build(_names_of(plan.stages, asked))
    return add_neck(plan, asked, neck, {"channels": channels, **(neck_options or {})})


def add_neck(plan: Plan, asked: Sequence[Any], neck: str | type[Any], options: Mapping[str, Any]) -> Any:
    """Build what `plan` describes and put a neck over it; `asked` are exact strides, the rest is as in `pyramid`."""
    if neck != "auto":
        kind = neck_class(neck) if isinstance(neck, str) else neck
        return _over(plan, kind, asked, options)
    deepest = sorted({stage.stride for stage in plan.stages})
    if len(deepest) <= 1:
        return _over(plan, neck_class("simple_feature_pyramid"), asked, options)
    fpn = neck_class("fpn")
    if _covers(deepest, asked):
        return _over(plan, fpn, asked, options)
    while all(2 * hop <= most for hop, most in zip(deepest[-1], asked[-1], strict=True)):
        deepest.append((2 * deepest[-1][0], 2 * deepest[-1][1]))
    interpolate = neck_class("interpolate")
    levels = [Stage(f"stride{stride_text(stride)}", index, 0, stride) for index, stride in enumerate(deepest)]
    read = set(interpolate.wire(levels, asked)[1])
    needed = [level.stride for level in levels if level.name in read]
    below = _over(plan, fpn, deepest[deepest.index(needed[0]) :], {**options, "out_strides": needed})
    return interpolate(below, strides=asked)


def neck_class(name: str) -> type[Any]:
    """The class of a neck by its name, `"fpn"` for `model_type` `"vertebra_fpn"`.

    Raises:
        ValueError: there is none; names the nearest.
    """
    check_neck(name)
    return model_class(config_class(PREFIX + name), "backbone", "pyramid")


def check_neck(neck: Any, options: Mapping[str, Any] | None = None) -> None:
    """Raise a TypeError for what cannot name a neck, or options that no neck would get; a ValueError for a name that none has."""
    if neck is None and options:
        raise TypeError(f"neck_options={dict(options)} are keys of a neck, and neck=None builds none; leave one out.")
    if neck is not None and not isinstance(neck, str) and not (isinstance(neck, type) and hasattr(neck, "wire")):
        raise TypeError(f"neck={neck!r} is not a neck: a name such as 'fpn', or a class that derives from Neck.")
    known = [name.removeprefix(PREFIX) for name, row in FAMILIES.items() if name.startswith(PREFIX) and row.backbone]
    if isinstance(neck, str) and neck not in ("auto", *known):
        raise ValueError(
            f"neck={neck!r} is not known.{did_you_mean(neck, known)} It is 'auto', one of {listing(known)}, None, or a class that "
            f"derives from Neck."
        )


def _covers(have: Sequence[Any], asked: Sequence[Any]) -> bool:
    """Whether all strides asked for exist, or double the coarsest that does."""
    base = [stride for stride in asked if stride in have]
    ladder = base[-1:]
    while ladder and len(base) + len(ladder) - 1 < len(asked):
        ladder.append((2 * ladder[-1][0], 2 * ladder[-1][1]))
    return bool(base) and list(asked) == base + ladder[1:]


def _names_of(stages: Sequence[Stage], asked: Sequence[Any]) -> list[str]:
    """Name of the deepest stage of each stride."""
    moved = [dataclasses.replace(stage, index=position) for position, stage in enumerate(stages)]
    try:
        return [stages[position].name for position in select_by_stride(moved, asked)]
    except ValueError as error:
        raise ValueError(f"{error} A neck makes the others: neck='auto' chooses one.") from error


def _over(plan: Plan, kind: type[Any], asked: Sequence[Any], options: Mapping[str, Any]) -> Any:
    """A neck over the backbone, which is built with just the stages that the neck reads."""
    wanted = set(kind.plan(plan.stages, asked)[1])
    backbone = plan.build([stage.name for stage in plan.stages if stage.name in wanted])
    return kind(backbone, strides=asked, **options)


class Plan(NamedTuple):
    """The stages that may be used, and what builds the backbone with those of the names it is given."""

    stages: Sequence[Stage]
    build: Callable[[list[str]], Any]


def _plan(backbone: Any, kwargs: dict[str, Any]) -> Plan:
    if isinstance(backbone, PreTrainedConfig):
        return _of_config(backbone, kwargs)
    if isinstance(backbone, (str, os.PathLike, CheckpointFiles)):
        return _of_name(backbone, kwargs)
    if not hasattr(backbone, "output_stages"):
        raise TypeError(
            f"pyramid takes a built backbone of vertebra, a configuration, or a name or folder; got {type(backbone).__name__}. "
            f"AutoBackbone.from_pretrained(name) builds a backbone, AutoConfig.from_pretrained(name) a configuration."
        )
    if kwargs:
        raise TypeError(
            f"{listing(sorted(kwargs))} cannot change a backbone that is built; pass its name or configuration instead."
        )

    def narrow(names: list[str]) -> Any:
        backbone.out_features = names
        return backbone

    return Plan(backbone.output_stages if backbone.config.prune else selectable(backbone), narrow)


def _of_name(name: Source, kwargs: dict[str, Any]) -> Plan:
    if kwargs.pop("output_loading_info", False):
        raise TypeError(
            "output_loading_info=True is not for pyramid, which returns the backbone alone: pass it to "
            "AutoBackbone.from_pretrained, and the backbone to pyramid."
        )
    with torch.device("meta"):
        sketch = AutoBackbone.from_pretrained(name, **{**kwargs, "use_pretrained_backbone": False})
    rest = {key: value for key, value in kwargs.items() if key not in SELECTION}
    chosen = len(rest) < len(kwargs)
    return Plan(
        sketch.output_stages if chosen else selectable(sketch),
        lambda names: AutoBackbone.from_pretrained(name, out_features=names, **rest),
    )


def _of_config(config: Any, kwargs: dict[str, Any]) -> Plan:
    config = copy.deepcopy(config)
    keys = config._settable() - {"dtype"}  # from_config converts to it; as a key it would only be noted
    config._settle({key: kwargs.pop(key) for key in list(kwargs) if key in keys})
    with torch.device("meta"):
        sketch = AutoBackbone.from_config(config, **kwargs)

    def build(names: list[str]) -> Any:
        config.out_features = names
        return AutoBackbone.from_config(config, **kwargs)

    return Plan(sketch.output_stages if config.selection_is_chosen else selectable(sketch), build)


def selectable(backbone: Any) -> Sequence[Stage]:
    """All stages that a backbone of this architecture can select."""
    stages: Sequence[Stage] = backbone.stages[backbone.first_map :]
    return stages
