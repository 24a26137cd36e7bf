"""How the weights of a module start, where it is not torch's way: said where the module is made, drawn when the model asks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from torch import Tensor, nn

Draw = Callable[[Tensor], Any]
Module = TypeVar("Module", bound=nn.Module)


def normal(std: float) -> Draw:
    """Normal weights around 0."""
    return partial(nn.init.normal_, std=std)


def xavier(gain: float) -> Draw:
    """Uniform weights that keep the variance from layer to layer (Glorot and Bengio 2010), times `gain`."""
    return partial(nn.init.xavier_uniform_, gain=gain)


def starting(module: Module, draw: Draw) -> Module:
    """Let `module.weight` start by `draw`, and its bias at zero; the same for all layers inside where it has no weight."""
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Conv2d, nn.Embedding)):
            part.__dict__["draw"] = draw
    return module


def draw_weights(module: nn.Module) -> bool:
    """Give `module` the weights that `starting` has said; False where nothing was said."""
    draw: Draw | None = module.__dict__.get("draw")
    if draw is not None:
        draw(module.weight)  # type: ignore[arg-type]
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    return draw is not None
