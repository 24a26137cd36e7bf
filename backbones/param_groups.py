"""Parameter groups for an optimizer: layer-wise learning rates and no weight decay where none belongs, for any model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from itertools import islice
from numbers import Real
from typing import Any

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from vertebra.backbones.base import Backbone
from vertebra.backbones.layer_numbers import number_layers
from vertebra.backbones.timm_module import TimmModule
from vertebra.errors import did_you_mean, listing

PROJECTIONS = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd)
"""Modules whose weights decay even where they are a single row."""
UNDECAYED = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase, nn.Embedding)
"""Modules whose weights never decay: norms, and tables of positions or queries."""
Trunk = Backbone | TimmModule
HEADER = ("group", "layer", "lr", "weight decay", "tensors", "parameters")


class ParamGroups(list[dict[str, Any]]):
    """What an optimizer of `torch.optim` takes as its first argument. Prints as a table.

    Each group has `params`, `param_names`, `lr`, `weight_decay`, `name` and `layer` (a number, or None for what no layer
    belongs to). The order is the same for every model of the same architecture.
    """

    def __str__(self) -> str:
        rows = [HEADER, *map(_row, self), ("all", "", "", "", *_counts(self))]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.rjust, row[1:], widths[1:])) for row in rows]
        return "\n".join(f"{row[0]:<{widths[0]}}  {line}".rstrip() for row, line in zip(rows, lines, strict=True))

    __repr__ = __str__


def _row(group: dict[str, Any]) -> tuple[str, ...]:
    layer = "" if group["layer"] is None else str(group["layer"])
    return group["name"], layer, f"{group['lr']:.4g}", f"{group['weight_decay']:.4g}", *_counts([group])


def _counts(groups: Iterable[dict[str, Any]]) -> tuple[str, str]:
    tensors = [tensor for group in groups for tensor in group["params"]]
    return f"{len(tensors):,}", f"{sum(tensor.numel() for tensor in tensors):,}"


def param_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float = 0.05,
    layer_decay: float | None = None,
    *,
    no_decay: Iterable[str] = (),
    head_lr_scale: float = 1.0,
) -> ParamGroups:
    """Sort the trainable parameters of a model into groups for an optimizer: `AdamW(param_groups(model, 1e-4))`.

    The model is a backbone, a neck, a model with one or more backbones anywhere inside, or any of these inside
    `DistributedDataParallel`, `torch.compile` or a module of one's own. Every trainable parameter is in exactly one group, a
    shared one too; frozen ones are in none.

    **Learning rates.** With `layer_decay`, layer `i` of a backbone learns at `lr * layer_decay ** (n - i)`: layer 0 is the stem,
    every block is one more, and `n` is one beyond the last block, as in BEiT and MAE, whose heads are layer `n`. Layers are
    counted over the whole architecture: a backbone pruned to an early stage has the numbers and rates it has unpruned, so
    that a rate found for one selection holds for another. What lies outside the backbones (neck, head) learns at
    `lr * head_lr_scale`.

    **Weight decay.** Weights of linear layers, convolutions and the like decay. Norms, biases, scales, class and register
    tokens, position tables and embeddings do not: parameters of at most one dimension above 1 (but for weights of linear
    layers and convolutions), those that stand in a module under a name of their own rather than as a weight, those of norms
    and embeddings, what a module's `no_weight_decay()` lists (timm's models have one), and what `no_decay` matches.

    Args:
        model: Where the parameters are.
        lr: Learning rate of the top layer, above 0.
        weight_decay: Weight decay of the weights that decay, from 0.
        layer_decay: Factor from a layer to the one below it, above 0 and at most 1; None for the same rate in all layers.
        no_decay: More parameters that do not decay: shell patterns of names or of their ends (`"logit_scale"`,
            `"*.head.*"`).
        head_lr_scale: Factor on the rate of what lies outside the backbones, above 0.

    Returns:
        The groups, which print as a table: backbones first, layer by layer, then the rest.

    Raises:
        ValueError: a number out of its range, a pattern that matches nothing, a model with nothing to train, or layer-wise
            rates for a model in which there is no backbone.
        TypeError: `model` is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"param_groups takes a module, got {type(model).__name__}. Call param_groups(model, lr=1e-4).")
    _check("lr", lr, "above 0, such as 1e-4", above=0)
    _check("weight_decay", weight_decay, "0 or above, such as 0.05")
    _check("head_lr_scale", head_lr_scale, "above 0, such as 10", above=0)
    if layer_decay is not None:
        _check("layer_decay", layer_decay, "above 0 and at most 1, such as 0.75, or None", above=0, most=1)
    parameters = dict(model.named_parameters())
    _check_trainable(model, parameters)
    trunks = list(_trunks(model))
    if not trunks and (layer_decay is not None or head_lr_scale != 1):
        given = f"layer_decay={layer_decay}" if layer_decay is not None else f"head_lr_scale={head_lr_scale}"
        raise ValueError(
            f"{given} needs a backbone to tell layers by, and {type(model).__name__} holds none. Build the model on one from "
            f"AutoBackbone.from_pretrained(…), or leave it out."
        )
    undecayed = _undecayed(model, parameters, (no_decay,) if isinstance(no_decay, str) else tuple(no_decay))
    homes = _homes(trunks, layer_decay)
    outside = (len(trunks), None, head_lr_scale)
    groups: dict[tuple[int, int, bool], dict[str, Any]] = {}
    for name, parameter in parameters.items():
        if not parameter.requires_grad:
            continue
        trunk, layer, scale = homes.get(id(parameter), outside)
        bare = name in undecayed
        group = groups.setdefault(
            (trunk, -1 if layer is None else layer, bare),
            {
                "params": [],
                "param_names": [],
                "lr": lr * scale,
                "weight_decay": 0.0 if bare else weight_decay,
                "name": _title(trunks, trunk, layer) + ("_no_decay" if bare else "_decay"),
                "layer": layer,
            },
        )
        group["params"].append(parameter)
        group["param_names"].append(name)
    return ParamGroups(groups[key] for key in sorted(groups))


def _check(argument: str, value: Any, allowed: str, above: float | None = None, most: float = math.inf) -> None:
    real = isinstance(value, Real) and not isinstance(value, bool)
    if not real or not math.isfinite(value) or not 0 <= value <= most or value == above:
        raise ValueError(f"{argument}={value!r} must be a number {allowed}.")


def _check_trainable(model: nn.Module, parameters: dict[str, nn.Parameter]) -> None:
    if not parameters:
        raise ValueError(
            f"{type(model).__name__} has no parameters to group. A backbone with an empty selection has none: select a stage, e.g. "
            f"out_indices=(-1,)."
        )
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise ValueError(
            f"All {len(parameters)} parameters of {type(model).__name__} are frozen, so there is nothing to train. Call "
            f"backbone.unfreeze(), or freeze less: backbone.freeze(upto=…)."
        )


def _trunks(model: nn.Module) -> Iterator[tuple[str, Trunk]]:
    """Path and module of every backbone that is not made of another one (as a neck is), in the order of the modules."""
    for path, module in model.named_modules():
        if isinstance(module, Trunk) and not any(
            isinstance(below, Trunk) for below in islice(module.modules(), 1, None)
        ):
            yield path, module


def _homes(trunks: list[tuple[str, Trunk]], layer_decay: float | None) -> dict[int, tuple[int, int | None, float]]:
    """Identity of each parameter of the backbones to `(index of the backbone, layer, scale of its learning rate)`."""
    homes: dict[int, tuple[int, int | None, float]] = {}
    for index, (_, trunk) in enumerate(trunks):
        numbers = None if layer_decay is None else number_layers(trunk)
        for name, parameter in trunk.named_parameters():
            layer = None if numbers is None else numbers.layer(name)
            scale = 1.0 if numbers is None or layer is None else float(layer_decay or 1) ** (numbers.top - layer)
            homes.setdefault(id(parameter), (index, layer, scale))
    return homes


def _title(trunks: list[tuple[str, Trunk]], trunk: int, layer: int | None) -> str:
    if trunk == len(trunks):
        return "head"
    title = "backbone" if layer is None else f"layer_{layer}"
    return title if len(trunks) == 1 else f"{trunks[trunk][0]}.{title}"


def _undecayed(model: nn.Module, parameters: dict[str, nn.Parameter], patterns: tuple[str, ...]) -> set[str]:
    """Names of the parameters that have no weight decay."""
    names = {id(parameter): name for name, parameter in parameters.items()}
    undecayed, exempt = set(), []
    for path, module in model.named_modules():
        start = f"{path}." if path else ""
        for leaf, parameter in module._parameters.items():
            if parameter is not None and not _decays(path, leaf, module, parameter):
                undecayed.add(names[id(parameter)])
        own = getattr(module.timm_model if isinstance(module, TimmModule) else module, "no_weight_decay", None)
        exempt += [start + name for name in own()] if callable(own) else []
    for pattern in patterns:
        if not any(_matches(name, pattern) for name in parameters):
            ends = {end for name in parameters for end in (name, name.rpartition(".")[2], *name.split("."))}
            raise ValueError(
                f"no_decay holds {pattern!r}, which matches no parameter of {type(model).__name__}."
                f"{did_you_mean(pattern, sorted(ends))} A pattern is a name or its end, with * for anything; the names are "
                f"{listing(parameters, 8)}."
            )
    listed = {name for name in parameters if any(fnmatchcase(name, pattern) for pattern in exempt)}
    return undecayed | listed | {name for name in parameters if any(_matches(name, pattern) for pattern in patterns)}


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")


def _decays(path: str, leaf: str, owner: nn.Module, parameter: nn.Parameter) -> bool:
    """Whether a parameter, called `leaf` in the module `owner` at `path`, is a weight that decays."""
    if isinstance(owner, ParametrizationList):
        leaf = path.rpartition(".")[2]
    wide = sum(size > 1 for size in parameter.shape) > 1 or (isinstance(owner, PROJECTIONS) and parameter.ndim > 1)
    return wide and "weight" in leaf and not isinstance(owner, UNDECAYED)
