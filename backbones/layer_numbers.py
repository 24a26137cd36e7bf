"""Which layer a parameter belongs to, counted from the stem: found by structure, so no family keeps a list of names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vertebra.backbones import timm_models
from vertebra.backbones.base import Backbone
from vertebra.backbones.timm_module import TimmModule

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""What `torch.compile` and others put between the parts of a parameter's name."""
UNMATCHED = "vertebra_matches_nothing"
"""Name of a parameter that no matcher of timm knows, so that the layer after all others exists with and without a classifier."""


@dataclass(frozen=True)
class LayerNumbers:
    """The layer of every parameter of an architecture with nothing pruned.

    Args:
        numbers: Parameter name to layer: 0 is the stem, every block after it is one more.
        top: The layer after the last block: heads, norms on the maps, and whatever was added to the architecture.
    """

    numbers: Mapping[str, int]
    top: int

    def layer(self, name: str) -> int:
        """The layer of a parameter; of one that the architecture does not have, `top`."""
        return self.numbers.get(".".join(part for part in name.split(".") if part not in WRAPPERS), self.top)


def number_layers(backbone: Backbone | TimmModule) -> LayerNumbers:
    """Number the layers of a backbone's whole architecture, whatever of it is selected.

    A timm architecture is numbered by timm's own `group_matcher`, any other (and the few of timm without one) by its stages
    and the blocks in them; see `by_structure`.
    """
    if not isinstance(backbone, TimmModule):
        return by_structure(backbone)
    arguments = backbone.timm_arguments()
    with torch.device("meta"):
        model = timm_models.build(arguments["name"], in_chans=arguments["in_chans"], args=arguments["args"])
    if hasattr(model, "group_matcher"):
        return by_matcher(model)
    from vertebra.backbones.timm_backbone import TimmBackbone

    with torch.device("meta"):
        return by_structure(TimmBackbone(TimmBackbone.own_config(backbone.config)))


def by_matcher(model: Any) -> LayerNumbers:
    """Number the layers of a timm model, which is cut in the course of it, by its `group_matcher`.

    Two things are set right: the classifier is always in the top layer, and what the matcher forgets but the first level needs
    (learned rotary frequencies) is in the stem.
    """
    from timm.models import group_parameters

    model.register_parameter(UNMATCHED, nn.Parameter(torch.empty(0, device="meta")))
    numbers = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    top = numbers.pop(UNMATCHED)
    heads = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else heads
    numbers |= {name: top for name in numbers if _below(name, heads)}
    timm_models.prune(model, [0])
    forgotten = [name for name, _ in model.named_parameters() if numbers.get(name) == top]
    return LayerNumbers(numbers | dict.fromkeys(forgotten, 0), top)


def by_structure(backbone: Backbone) -> LayerNumbers:
    """Number the layers of a backbone by what its pruned twins have.

    A parameter belongs to the first stage whose twin has it. The blocks of a stage are the modules in its outermost list
    that are made of modules; a stage without such a list is one block. What else a stage has (merging, norms between) goes with
    the block before it in the stage, or else with its first. Layer 0 is the stem: all of a first stage called `"stem"`, of any
    other first stage what comes before its blocks. The top layer is what comes after everything: parameters that exist only
    where their own map is selected (norms on the maps), and what stands after the last block.
    """
    last = len(backbone.stages) - 1
    whole = backbone.twin(prune=False, out_indices=range(backbone.first_map, last + 1))
    place = {name: index for index, (name, _) in enumerate(whole.named_parameters())}
    stage: dict[str, int] = {}
    for index in range(last + 1):
        for name in _names(backbone, range(backbone.first_map, index + 1)):
            stage.setdefault(name, index)
    stage = {name: stage[name] for name in place if name in stage}  # in the order of the modules
    outputs = _outputs(stage, last, set(_names(backbone, [last])))
    inner = {name: index for name, index in stage.items() if name not in outputs}
    blocks = _blocks(whole, inner, has_stem=backbone.stages[0].name == "stem")
    starts: dict[tuple[int, str], int] = {}
    for name in sorted(blocks, key=place.__getitem__):
        starts.setdefault(blocks[name], place[name])
    number = {
        block: layer for layer, block in enumerate(sorted(starts, key=lambda key: (key[0], starts[key])), start=1)
    }
    top, end = len(starts) + 1, max((place[name] for name in blocks), default=len(place))
    numbers = dict.fromkeys(place, top)
    for name, index in inner.items():
        if name in blocks:
            numbers[name] = number[blocks[name]]
            continue
        of_stage = [block for block in starts if block[0] == index]
        if place[name] < end or (index != last and of_stage):
            before = [number[block] for block in of_stage if starts[block] < place[name]]
            numbers[name] = max(before, default=min(map(number.__getitem__, of_stage)) if index else 0)
    return LayerNumbers(numbers, top)


def _names(backbone: Backbone, selection: Iterable[int]) -> list[str]:
    return [name for name, _ in backbone.twin(prune=True, out_indices=selection).named_parameters()]


def _outputs(stage: Mapping[str, int], last: int, needed: set[str]) -> set[str]:
    """The parameters that only their own map needs, and those of the last stage that stand among them."""
    own = {name for name, index in stage.items() if index < last and name not in needed}
    beside = {name.rsplit(".", 2)[0] for name in own}
    inner = [name for name, index in stage.items() if index < last and name not in own]
    beside = {path for path in beside if not any(_below(name, (path,)) for name in inner)}
    return own | {name for name, index in stage.items() if index == last and _below(name, beside)}


def _blocks(whole: nn.Module, stage: Mapping[str, int], has_stem: bool) -> dict[str, tuple[int, str]]:
    """Name of each parameter inside a block to `(stage, path of the block)`."""
    blocks: dict[str, tuple[int, str]] = {}
    for path, module in whole.named_modules():
        if not isinstance(module, (nn.ModuleList, nn.Sequential)):
            continue
        inside = [name for name in stage if name.startswith(f"{path}.")]
        stages = {stage[name] for name in inside}
        if len(stages) != 1 or (has_stem and stages == {0}) or any(name in blocks for name in inside):
            continue
        for child, block in module.named_children():
            if any(True for _ in block.children()):
                inner = f"{path}.{child}"
                blocks |= {name: (stage[name], inner) for name in inside if _below(name, (inner,))}
    split = {index for index, _ in blocks.values()} | {0}
    return blocks | {name: (index, "") for name, index in stage.items() if index not in split}


def _below(name: str, paths: Iterable[str]) -> bool:
    return any(name.startswith(f"{path}.") for path in paths)
