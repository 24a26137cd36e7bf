"""Facts about a backbone by inspection: it is built and run without weights, and nothing is read off its name."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import nn

from vertebra.backbones.base import Backbone, Size
from vertebra.inspection.dataflow import Observed, Product, observe
from vertebra.inspection.facts import OTHER_SIZES, REAL_RUN, NoDraws
from vertebra.inspection.table import Traits
from vertebra.stages import plain_stride

NORMS: dict[type[nn.Module], str] = {
    nn.modules.batchnorm._BatchNorm: "batch",
    nn.modules.instancenorm._InstanceNorm: "instance",
    nn.GroupNorm: "group",
    nn.LayerNorm: "layer",
    nn.RMSNorm: "rms",
}
OWN_NORMS = {"rmsnorm": "rms", "globalresponsenorm": "response", "layernorm": "layer", "batchnorm": "batch"}
"""Norms that libraries write themselves, by how the name of their class begins."""
SIZE_ARGUMENTS = ("dynamic_img_size", "strict_img_size", "img_size")
"""Arguments of timm's constructors that make a network run at other sizes, the least intrusive first."""
DILATIONS = (8, 16)


def traits(backbone: Backbone) -> Traits:
    """Find out what a backbone is, from its architecture alone; takes about a second, on the meta device.

    What is said holds for all stages, whatever the selection of `backbone`.

    Args:
        backbone: Any backbone, with or without weights.
    """
    config: Any = backbone.config
    kind: type = type(getattr(backbone, "timm_model", backbone))
    every = range(backbone.first_map, len(backbone.stages))
    real = kind.__name__ in REAL_RUN
    whole = _twin(backbone, "cpu" if real else "meta", out_indices=every, prune=True, size_policy=None)
    size, device = (REAL_RUN[kind.__name__][0], "cpu") if real else (whole.native_size, "meta")
    if not real and not whole.accepts(*size):
        size = whole.nearest_size(*size)
    double = (2 * size[0], 2 * size[1])
    seen = observe(whole, *size, config.num_channels, device)
    sizes = None if real else _sizes(whole, double)
    argument, resized = _resizable(whole, double) if sizes in ("fixed", "restricted") else (None, None)
    if not seen.products and not seen.softmaxes:
        attention: tuple[str, ...] | None = ()
    elif sizes != "fixed":
        attention = attention_kinds(seen, observe(whole, *double, config.num_channels, device))
    elif resized is not None:
        attention = attention_kinds(seen, observe(resized, *double, config.num_channels, device), resized=True)
    else:
        attention = ("global",) if reads_all(seen) else None
    stages = [whole.stages[index] for index in every]
    patch = seen.patch_size
    return Traits(
        name=str(getattr(config, "backbone", None) or config.model_type),
        library="timm" if hasattr(backbone, "timm_model") else "vertebra",
        class_name=kind.__name__,
        family=kind.__module__.rpartition(".")[2],
        stages=tuple(stage.name for stage in stages),
        channels=tuple(stage.channels for stage in stages),
        strides=tuple(plain_stride(stage.stride) for stage in stages),
        parameters=whole.num_parameters(),
        flops=None if real else seen.flops,
        native_size=whole.native_size,
        sizes=sizes,
        size_divisor=whole.size_divisor,
        size_argument=argument,
        norms=norm_kinds(whole),
        attention=attention,
        positions=tuple(sorted(seen.positions)),
        prefix_tokens=seen.prefix_tokens,
        patch_size=patch[0] if patch is not None and patch[0] == patch[1] else None,
        dilation=_dilations(whole),
    )


def _twin(backbone: Backbone, device: str = "meta", **changes: Any) -> Backbone:
    with NoDraws():
        return backbone.twin(device, **changes).eval()


def norm_kinds(model: nn.Module) -> tuple[str, ...]:
    """Kinds of the norm layers of a network, sorted; those of no known kind are `"other"`."""
    return tuple(sorted({kind for module in model.modules() for kind in _norm_kind(type(module))}))


def _norm_kind(kind: type[nn.Module]) -> Iterable[str]:
    for base, name in NORMS.items():
        if issubclass(kind, base):
            return (name,)
    if issubclass(kind, nn.Sequential):
        return ()
    return [
        name
        for begin, name in OWN_NORMS.items()
        if any(base.__name__.lower().startswith(begin) for base in kind.__mro__)
    ][:1]


def attention_kinds(small: Observed, large: Observed, resized: bool = False) -> tuple[str, ...] | None:
    """How the products of activations grow from one run to another at twice the height and width.

    Args:
        small: The run at the native size.
        large: The run at twice the height and width.
        resized: Whether the network was built anew for the larger size: its windows may have grown with it, so a product
            is global only where each query stands among all tokens.

    Returns:
        `"global"`, `"linear"` and `"windowed"` as they occur, sorted; None where the runs are no twins of each other.
    """
    if len(small.products) != len(large.products) or len(small.softmaxes) != len(large.softmaxes):
        return None
    kinds = set()
    for few, many in zip(small.products, large.products, strict=True):
        kind = _growth(few, many)
        if resized and kind == "global":
            kind = {None: "", True: "global", False: "windowed"}[few.reads_all]
        kinds.add(kind)
    for few_soft, many_soft in zip(small.softmaxes, large.softmaxes, strict=True):
        rows, columns = (_exponent(a, b) for a, b in zip(few_soft, many_soft, strict=True))
        if columns > 0.25 and not small.products:  # summed over positions without a product
            kinds.add("global" if rows + columns > 1.25 else "linear")
    return tuple(sorted(kinds - {""}))


def reads_all(seen: Observed) -> bool:
    """Whether every attention of one run is over all tokens; at a single size this is all that can be told."""
    told = [product.reads_all for product in seen.products if product.reads_all is not None]
    return bool(told) and all(told)


def _growth(few: Product, many: Product) -> str:
    batch, rows, summed, columns = (_exponent(a, b) for a, b in zip(few.extent, many.extent, strict=True))
    total = batch + rows + summed + columns
    if total > 1.25:
        return "global"
    if total < 0.25:
        return ""
    return "windowed" if batch > 0.25 else "linear"


def _exponent(few: int, many: int) -> float:
    """The power of the number of pixels (four times as many) that an extent grows with."""
    return math.log(many / few, 4)


def _sizes(whole: Backbone, double: Size) -> str:
    odd = OTHER_SIZES[1]
    if whole.accepts(*odd):
        return "any"
    if not whole.accepts(*double):
        return "fixed"
    divisor = whole.size_divisor
    multiple = (math.ceil(side / divisor) * divisor for side in odd)
    return "multiple" if whole.accepts(*multiple) else "restricted"


def _resizable(whole: Backbone, double: Size) -> tuple[str | None, Backbone | None]:
    """The argument that makes a timm network run at another size, and the network built with it."""
    given = getattr(whole.config, "model_args", None) or {}
    if not hasattr(whole, "timm_model"):
        return None, None
    for name in SIZE_ARGUMENTS:
        value: Any = {"img_size": double, "strict_img_size": False}.get(name, True)
        try:
            twin = _twin(whole, model_args={**given, name: value})
        except ValueError:
            continue
        if twin.accepts(*double):
            return name, twin
    return None, None


def _dilations(whole: Backbone) -> tuple[int, ...]:
    """The largest strides that the stages can be held to, where they go beyond."""
    if not hasattr(whole.config, "output_stride"):
        return ()
    return tuple(stride for stride in DILATIONS if _deepest(whole) > stride and _dilates(whole, stride))


def _dilates(whole: Backbone, stride: int) -> bool:
    try:
        return _deepest(_twin(whole, output_stride=stride)) <= stride
    except ValueError:
        return False


def _deepest(backbone: Backbone) -> float:
    return float(max(max(stage.stride) for stage in backbone.stages))
