"""Layers one after the other, each of which may be left out while training (Fan et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from vertebra.outputs import Tensors


def run_layers(
    layers: Iterable[Any], x: Tensor, layerdrop: float, keep_states: bool, weights: bool, **inputs: Any
) -> tuple[Tensor, Tensors | None, Tensors | None]:
    """Run layers that return `(state, attention weights)`.

    Args:
        layers: They are called `layer(x, weights=…, **inputs)`.
        x: State before the first.
        layerdrop: Probability with which each is left out; 0 outside training.
        keep_states: Whether to return all states.
        weights: Whether to return attention weights.
        **inputs: What every layer gets beside.

    Returns:
        The last state; on request all states, from `x` on; on request the attention weights of all layers.
    """
    states, attentions = [x] if keep_states else [], []
    for layer in layers:
        x, attention = run_layer(layer, x, layerdrop, weights=weights, **inputs)
        states += [x] if keep_states else []
        attentions.append(attention)
    return x, tuple(states) if keep_states else None, tuple(attentions) if weights else None


def run_layer(layer: Any, x: Tensor, layerdrop: float, *inputs: Any, **more: Any) -> Any:
    """Run a layer that returns its state and more, and return the same; what is left out leaves the state as it was.

    Args:
        layer: It is called `layer(x, *inputs, **more)`.
        x: State before.
        layerdrop: Probability with which it is left out; 0 outside training.
        *inputs: What it gets beside.
        **more: What it gets by name.
    """
    # chosen by a tensor: one graph, and every parameter has a gradient
    dropped = torch.rand((), device=x.device) < layerdrop if layerdrop else None
    after, *rest = layer(x, *inputs, **more)
    return (after if dropped is None else torch.where(dropped, x, after), *rest)
