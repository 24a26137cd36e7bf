"""The one builder of backbones for models that compose one, and the rule by which their maps are chosen."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from vertebra.auto.backbone import AutoBackbone, backbone_config
from vertebra.auto.config import AutoConfig
from vertebra.auto.pyramid import Plan, add_neck, check_neck, selectable
from vertebra.auto.registry import config_class
from vertebra.config import PreTrainedConfig
from vertebra.errors import listing
from vertebra.hub import HubOptions
from vertebra.loading import match_model
from vertebra.stages import exact_strides, select_by_stride, stride_text

SELECTION = ("out_features", "out_indices", "out_strides")
KEYS = ("backbone", "use_pretrained_backbone", "use_timm_backbone", "backbone_kwargs")
"""The keys that name a backbone; once it is built, its whole configuration stands in their place."""


def build_backbone(
    config: Any,
    *,
    strides: Sequence[Any] | None = None,
    least: int = 1,
    neck: str | type[Any] | None = "auto",
    channels: int = 256,
    needed_by: str = "this model",
) -> Any:
    """Build the backbone that a configuration holds, with the maps that the model over it needs.

    A selection counts as chosen when it stands in `backbone_kwargs`, was given to the `backbone_config` (its constructor,
    a setter, or keys of a dictionary), or is inside a saved composed configuration. What a backbone's own file says (always the
    last stage), and a configuration nobody touched, do not count. Then:

    | chosen | the backbone has the strides | what is built |
    | --- | --- | --- |
    | no | yes | the deepest stage of each stride |
    | yes | yes | the selection, if its strides are the ones needed; refused otherwise |
    | either | no | a neck over what may be used; refused where there is none that can, or with `neck=None` too few maps |

    Args:
        config: Configuration of a backbone or its dictionary (built with random weights: theirs come with the composed
            model's); or one with the keys `backbone_config`, or `backbone` with `use_pretrained_backbone`,
            `use_timm_backbone` and `backbone_kwargs`, whose weights are loaded where it says so.
        strides: Strides needed, ascending, one map each; None leaves the selection as it is.
        least: Maps needed at least with `neck=None`, which takes maps of any stride.
        neck: As in `pyramid`.
        channels: Channels of the neck's maps.
        needed_by: Who needs the maps, for errors.

    Raises:
        ValueError: no backbone, keys that exclude each other, or maps that cannot be had; says what would work.
        OSError: there is no such checkpoint.
    """
    check_neck(neck)
    chosen, build = _reader(config)
    if strides is None:
        return build(chosen)
    asked = exact_strides(strides)
    if chosen.selection_is_chosen:
        return fit_backbone(build(chosen), asked, least=least, neck=neck, channels=channels, needed_by=needed_by)
    with torch.device("meta"):
        sketch = AutoBackbone.from_config(without_weights(chosen))
    stages = selectable(sketch)

    def build_with(names: list[str]) -> Any:
        selected = copy.deepcopy(chosen)
        selected.out_features = names
        return build(selected)

    if {stage.stride for stage in stages} >= set(asked):
        return build_with([sketch.stages[index].name for index in select_by_stride(sketch.stages, asked)])
    if neck is None:
        return _enough(build(chosen), asked, least, needed_by)
    return add_neck(Plan(stages, build_with), asked, neck, {"channels": channels})


def fit_backbone(backbone: Any, strides: Sequence[Any], *, least: int, neck: Any, channels: int, needed_by: str) -> Any:
    """A built backbone whose selection is taken as chosen, with a neck where it lacks the strides; see `build_backbone`."""
    asked = exact_strides(strides)
    if [stage.stride for stage in backbone.output_stages] == asked:
        return backbone
    if neck is None:
        return _enough(backbone, asked, least, needed_by)
    own = selectable(backbone)
    if {stage.stride for stage in own} >= set(asked):
        fitting = [backbone.stages[index].name for index in select_by_stride(backbone.stages, asked)]
        raise ValueError(
            f"The selection {backbone.out_features} was chosen, and has the strides {_texts(backbone.output_stages)}; {needed_by} "
            f"needs one map for each of the strides {_strides(asked)}. Leave the selection out, and these stages are taken: "
            f"{fitting}. Or select them, or pass neck=None to take the maps as they are."
        )
    return add_neck(Plan(backbone.output_stages, _narrow(backbone)), asked, neck, {"channels": channels})


def without_weights(config: Any) -> Any:
    """A copy of a backbone's configuration that asks for random weights."""
    config = copy.deepcopy(config)
    if getattr(config, "use_pretrained_backbone", False):
        config.use_pretrained_backbone = False
    return config


def read_backbone(below: Any, holder: str, spelling: Mapping[str, str] | None = None) -> Any:
    """The configuration of a backbone from itself or from its dictionary, whose selection counts as chosen.

    Args:
        below: Configuration or dictionary.
        holder: Whose it is, for errors.
        spelling: `model_type` to the one that stands for it in `holder`. Files of these always name the last stage or none of
            it, so what their dictionaries select does not count.
    """
    if isinstance(below, Mapping):
        config = _class_of(below, holder).from_dict(below)
        if hasattr(config, "selection_is_chosen"):
            config.selection_is_chosen = any(below.get(name) is not None for name in SELECTION)
    else:
        config = below
    if not hasattr(config, "selection_is_chosen"):
        raise ValueError(
            f"backbone_config={_short(below)} of {holder} is not the configuration of a backbone, such as ResNetConfig() or its "
            f"dictionary (of a configuration of transformers, what its to_dict() returns). A checkpoint is named by "
            f"backbone='microsoft/resnet-50', and a backbone that is built goes to the model: Model(config, backbone=backbone)."
        )
    other = (spelling or {}).get(config.model_type)
    if other is None:
        return config
    chosen = config.selection_is_chosen and not isinstance(below, Mapping)
    content = {**config.to_dict(), "model_type": other}
    content = content if chosen else {name: value for name, value in content.items() if name not in SELECTION}
    respelt = config_class(other).from_dict(content)
    respelt.selection_is_chosen = chosen
    return respelt


def _class_of(content: Mapping[str, Any], holder: str) -> Any:
    if "model_type" not in content:
        raise ValueError(
            f"backbone_config of {holder} is a dictionary without 'model_type', so whose keys {listing(sorted(content))} are is "
            f"not known; {{'model_type': 'resnet', …}} says it."
        )
    try:
        return AutoConfig.class_of(content, holder)
    except ValueError as error:
        raise ValueError(
            f"backbone_config of {holder} is of a family that vertebra has no backbone for: {error} timm may have the architecture "
            f"(vertebra find), which goes by name: {holder}(backbone='convnext_tiny', use_timm_backbone=True)."
        ) from error


def _short(value: Any) -> str:
    """A value for an error: configurations and models by their class alone."""
    kind = type(value)
    return f"{kind.__module__}.{kind.__name__}(…)" if hasattr(value, "__dict__") else repr(value)


def respell_backbone(backbone: Any, spelling: Mapping[str, str]) -> Any:
    """A built backbone of the family under which the files of a model spell it (see `read_backbone`), with the same parameters."""
    if backbone.config.model_type not in spelling:
        return backbone
    config = copy.deepcopy(backbone.config)
    config.out_features = backbone.out_features
    with torch.device(backbone.device):
        twin = AutoBackbone.from_config(read_backbone(config, "the model", spelling)).train(backbone.training)
    tensors = backbone.state_dict(keep_vars=True)
    names = match_model(twin, tensors, twin.state_dict())
    twin.load_state_dict({names[name]: tensor for name, tensor in tensors.items()}, assign=True)
    twin.hub_id = backbone.hub_id
    return twin


def resolve_backbone(config: Any, options: HubOptions | None = None) -> Any:
    """The configuration of the backbone that a composed configuration describes; what it names is looked up, weights are not."""
    check_keys(config)
    holder, spelling = type(config).__name__, getattr(config, "backbone_spelling", None)
    if config.backbone is None:
        return read_backbone(config.backbone_config, holder, spelling)
    found, rest = backbone_config(
        config.backbone, options or HubOptions(), config.use_timm_backbone, **(config.backbone_kwargs or {})
    )
    if rest:
        raise TypeError(
            f"backbone_kwargs of {holder} has {listing(sorted(rest))}, which {type(found).__name__} does not take."
        )
    return read_backbone(found, holder, spelling)


def check_keys(config: Any) -> None:
    """Refuse keys of a composed configuration that name nothing or exclude each other. Raises ValueError or TypeError."""
    if config.backbone is not None and not (isinstance(config.backbone, (str, os.PathLike)) and str(config.backbone)):
        raise TypeError(
            f"backbone={_short(config.backbone)} must be a name: a folder, a hub id, or a timm architecture. A backbone that is "
            f"built goes to the model, Model(config, backbone=backbone), and a configuration into backbone_config."
        )
    if not isinstance(config.backbone_kwargs, Mapping | None):
        raise TypeError(
            f"backbone_kwargs={config.backbone_kwargs!r} must be a dictionary, e.g. {{'out_indices': (1, 2, 3, 4)}}."
        )
    if config.backbone is not None and config.backbone_config is not None:
        raise ValueError(
            f"backbone={config.backbone!r} and backbone_config exclude each other: the name stands for a checkpoint or an "
            f"architecture with its own configuration. backbone_kwargs={{…}} changes keys of it."
        )
    if config.backbone is None:
        if config.use_timm_backbone:
            raise ValueError(
                "use_timm_backbone=True goes with backbone='name', not with backbone_config; a configuration of timm is "
                "backbone_config=TimmBackboneConfig('resnet50')."
            )
        if config.backbone_kwargs:
            raise ValueError(
                f"backbone_kwargs={config.backbone_kwargs!r} goes with backbone='name', not with backbone_config; give the "
                f"keys to that configuration."
            )
        if config.use_pretrained_backbone:
            raise ValueError(
                "use_pretrained_backbone=True needs to know which weights: write backbone='microsoft/resnet-50' in place of "
                "backbone_config, or load them yourself: Model(config, backbone=AutoBackbone.from_pretrained(…))."
            )


def _reader(config: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The configuration of the backbone, and what builds one of it."""
    if isinstance(config, Mapping) or hasattr(config, "selection_is_chosen"):
        own = without_weights(read_backbone(config, "the model"))
        return own, AutoBackbone.from_config
    resolved = resolve_backbone(config)
    if config.backbone is None or not config.use_pretrained_backbone:
        return resolved, AutoBackbone.from_config

    def load(chosen: PreTrainedConfig) -> Any:
        backbone = AutoBackbone.from_pretrained(
            config.backbone,
            config=chosen,
            use_timm_backbone=config.use_timm_backbone,
            dtype=torch.get_default_dtype(),
        )
        return backbone.to(torch.get_default_device()).train()  # the head is built there

    return resolved, load


def _enough(backbone: Any, asked: Sequence[Any], least: int, needed_by: str) -> Any:
    if len(backbone.output_stages) < least:
        raise ValueError(
            f"{needed_by} needs {least} maps at least (strides {_strides(asked)} when it may choose), and with neck=None gets "
            f"the {len(backbone.output_stages)} of the selection {backbone.out_features}. Select more stages, or leave neck out "
            f"and one is chosen."
        )
    return backbone


def _narrow(backbone: Any) -> Callable[[list[str]], Any]:
    def build(names: list[str]) -> Any:
        backbone.out_features = names
        return backbone

    return build


def _texts(stages: Sequence[Any]) -> str:
    return _strides([stage.stride for stage in stages]) or "none"


def _strides(strides: Sequence[Any]) -> str:
    return ", ".join(map(stride_text, strides))
