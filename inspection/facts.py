"""What a backbone is, without its weights: stages, parameters, sizes, and what the headers of its weight files say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from vertebra.auto.backbone import AutoBackbone
from vertebra.backbones.base import Backbone, Size
from vertebra.headers import TensorFact
from vertebra.hub import HubOptions
from vertebra.inspection.weight_facts import WeightFacts, weight_facts
from vertebra.loading import match_keys
from vertebra.no_draws import NoDraws as NoDraws
from vertebra.resolve import Located, locate
from vertebra.stages import Stage

OTHER_SIZES: tuple[Size, ...] = ((320, 512), (333, 517))
"""What is tried beside the native size: a multiple of 32 that is no square, and a multiple of nothing."""
REAL_RUN = {
    "Gemma4VitClassifier": ((96, 144), "its forward reads values, which the meta device has not"),
    "Gemma4VitEncoder": ((96, 144), "its forward reads values, which the meta device has not"),
}
"""timm's classes that cannot run on the meta device: a small size at which they run for real, and why."""


@dataclass(frozen=True)
class StageFacts:
    """One stage, and what a backbone pruned there would be.

    Args:
        stage: Name, channels, stride and offset.
        selected: Whether its map is returned.
        shape: `(channels, height, width)` of its map; None where it has none, or does not run at the size.
        parameters: Parameters of a backbone that ends with this stage; None where it cannot be selected.
    """

    stage: Stage
    selected: bool
    shape: tuple[int, int, int] | None
    parameters: int | None


@dataclass(frozen=True)
class Facts:
    """What `describe` finds out.

    Args:
        name: What was asked for.
        kind: `"folder"`, `"hub"` or `"timm"`.
        class_name: Class of the backbone.
        model_type: Family, as in `config.json`; the architecture's name for timm's.
        commit: Commit of the repository on the hub.
        size: `(height, width)` for which the maps are given.
        stages: One row per stage.
        parameters: Of the whole network, unpruned.
        selected_parameters: Of the backbone with this selection.
        native_size: The size the architecture is made for.
        size_divisor: Multiples of it are divided by every computed stage without a remainder.
        size_policy: `"floor"`, `"pad"`, or None for the architecture's own rule.
        runs: Size to whether it runs; None where only a run on real tensors tells.
        exceptions: Claims of the contract that this architecture is known not to keep, with the reasons.
        weights: What is known of its weights.
    """

    name: str
    kind: str
    class_name: str
    model_type: str
    commit: str | None
    size: Size
    stages: tuple[StageFacts, ...]
    parameters: int
    selected_parameters: int
    native_size: Size
    size_divisor: int
    size_policy: str | None
    runs: Mapping[Size, bool | None]
    exceptions: Mapping[str, str]
    weights: WeightFacts


def describe(source: str, size: Size | None = None, options: HubOptions | None = None, **selection: Any) -> Facts:
    """Describe a backbone that is built on the meta device; no weights are read or downloaded.

    Of a hub repository `config.json` is fetched and the headers of the safetensors are read by ranges; of a folder the
    header is read; a timm architecture is built without any network.

    Args:
        source: A local folder, a hub id, or a timm architecture.
        size: `(height, width)` of the images whose maps are asked for; the native size when None.
        options: How the hub is asked.
        **selection: `out_features`, `out_indices` or `out_strides`; the checkpoint's own when none is given.

    Raises:
        OSError: there is no such checkpoint, or its files are damaged.
        ValueError: no backbone is known for it, the selection does not exist, or images of `size` do not run.
    """
    return describe_found(locate(source, options or HubOptions()), size, **selection)


def describe_found(found: Located, size: Size | None = None, **selection: Any) -> Facts:
    """Describe the backbone of a checkpoint that was found; as `describe`."""
    with NoDraws():
        return _describe(found, size, selection)


def _describe(found: Located, size: Size | None, selection: Mapping[str, Any]) -> Facts:
    with torch.device("meta"):
        backbone: Backbone = AutoBackbone.from_pretrained(
            found.files or str(found.architecture), use_pretrained_backbone=False, **selection
        )
    size = size or backbone.native_size
    backbone.output_shapes(*size)  # says what is wrong with a size that does not run
    whole = backbone.twin(out_indices=range(backbone.first_map, len(backbone.stages)), prune=False)
    shapes = whole.output_shapes(*size) if whole.accepts(*size) else backbone.output_shapes(*size)
    tried = dict.fromkeys((backbone.native_size, size, *OTHER_SIZES))
    told = type(getattr(backbone, "timm_model", backbone)).__name__ not in REAL_RUN
    return Facts(
        name=found.name,
        kind=kind_of(found),
        class_name=type(backbone).__name__,
        model_type=str(getattr(backbone.config, "backbone", None) or backbone.config.model_type),
        commit=found.files.commit if found.files else None,
        size=size,
        stages=tuple(_stage(backbone, whole, stage, shapes.get(stage.name)) for stage in backbone.stages),
        parameters=whole.num_parameters(),
        selected_parameters=backbone.num_parameters(),
        native_size=backbone.native_size,
        size_divisor=backbone.size_divisor,
        size_policy=backbone.config.size_policy,
        runs={each: backbone.accepts(*each) if told else None for each in tried},
        exceptions=dict(backbone.exceptions),
        weights=_weights(found, backbone),
    )


def kind_of(found: Located) -> str:
    """`"folder"`, `"hub"` or `"timm"`."""
    return "timm" if found.files is None else "hub" if found.files.folder is None else "folder"


def _stage(backbone: Backbone, whole: Backbone, stage: Stage, shape: tuple[int, int, int] | None) -> StageFacts:
    if stage.index < backbone.first_map:
        return StageFacts(stage, False, None, None)
    return StageFacts(stage, stage.index in backbone.selected, shape, whole.pruned_size(stage.index))


def _weights(found: Located, backbone: Backbone) -> WeightFacts:
    if found.files is None:
        cfg = getattr(getattr(backbone, "timm_model", None), "pretrained_cfg", None) or {}
        where = cfg.get("hf_hub_id") or cfg.get("url")
        if not where:
            return WeightFacts("none", note="timm has no pretrained weights for it")
        return WeightFacts(
            str(where), note=f"not looked at; `vertebra info {where}` does" if "://" not in where else ""
        )
    weights, tensors = weight_facts(found.files)
    if tensors is None:
        return weights
    if (read := _read_bytes(tensors, backbone)) is not None:
        return replace(weights, read_bytes=read)
    return replace(weights, note="names or shapes differ from the selection's and are converted when loaded")


def _read_bytes(facts: Mapping[str, TensorFact], backbone: Backbone) -> int | None:
    """Bytes of the tensors that the backbone takes, or None where it needs one that is not there in its shape."""
    wanted = {name: tuple(tensor.shape) for name, tensor in backbone.state_dict().items()}
    matched = match_keys(facts, wanted, backbone.base_model_prefix, backbone.key_renames)
    source = {target: name for name, target in matched.items() if target in wanted}
    absent = [name for name in wanted if name not in source]
    if any(not any(re.search(pattern, name) for pattern in backbone.explained_missing) for name in absent):
        return None
    if any(facts[name].shape != wanted[target] for target, name in source.items()):
        return None
    return sum(facts[name].size_bytes for name in source.values())
