"""What a table of timm's names is: how timm's checkpoints of a network become those of a native family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

ACTS = {"GELU": "gelu", "GELUTanh": "gelu_pytorch_tanh", "QuickGELU": "quick_gelu", "ReLU": "relu", "SiLU": "silu"}
"""Classes of activations to their names here; both sides compute the same."""


class UnfitError(ValueError):
    """A network of timm that a family cannot be, with the reason."""


def need(holds: bool, reason: str) -> None:
    """Raise `UnfitError` with the reason unless it holds."""
    if not holds:
        raise UnfitError(reason)


class Joint(NamedTuple):
    """Tensors that are divided otherwise on both sides.

    Args:
        timm: What their names contain at timm, after the renames.
        native: What they contain instead here.
        apart: From timm's tensors to ours.
        together: Back.
    """

    timm: tuple[str, ...]
    native: tuple[str, ...]
    apart: Callable[..., Sequence[Tensor]]
    together: Callable[..., Sequence[Tensor]]


def split(joint: str, *parts: str) -> Joint:
    """Rows that stand in one tensor at timm and in as many tensors as there are `parts` here."""
    return Joint((joint,), parts, lambda x: x.chunk(len(parts)), lambda *x: (torch.cat(x),))


@dataclass(frozen=True)
class Table:
    """What timm calls a family's networks.

    Args:
        kinds: timm's classes.
        configure: From a timm model (on the meta device) to the keys of the family's configuration; raises `UnfitError` for
            networks that the family cannot be although their tensors have the same names.
        renames: Regular expressions and replacements, one after the other, from timm's names to those of the family's files.
        joints: Tensors that are divided otherwise.
        places: Further renames, the first of all, that depend on the timm model.
    """

    kinds: tuple[str, ...]
    configure: Callable[[Any], dict[str, Any]]
    renames: Sequence[tuple[str, str]]
    joints: Sequence[Joint] = ()
    places: Callable[[Any], Sequence[tuple[str, str]]] | None = None

    def names(self, model: Any) -> list[tuple[str, str]]:
        """All renames for a timm model."""
        return [*(self.places(model) if self.places is not None else ()), *self.renames]

    def keys(self, model: Any) -> dict[str, Any]:
        """The keys of the configuration of a timm model. Raises `UnfitError`."""
        kind = type(model).__name__
        need(kind in self.kinds, f"it is timm's {kind}, and the table of this family knows {' and '.join(self.kinds)}")
        return {"num_channels": first_convolution(model).in_channels, **self.configure(model)}


def first_convolution(model: nn.Module) -> nn.Conv2d:
    """The convolution that reads the image."""
    return next(module for module in model.modules() if isinstance(module, nn.Conv2d))


def act(module: nn.Module) -> str:
    """The name here of an activation of timm. Raises `UnfitError`."""
    kind = type(module).__name__
    if isinstance(module, nn.GELU) and module.approximate == "tanh":
        kind = "GELUTanh"
    need(kind in ACTS, f"its activation is {kind}")
    return ACTS[kind]


def alike(values: Sequence[Any], what: str) -> Any:
    """The value that all of `values` are. Raises `UnfitError` where they differ."""
    need(len(set(values)) == 1, f"its {what} differ: {sorted(set(values))}")
    return values[0]


QKV = split(".qkv.", ".query.", ".key.", ".value.")
"""Of most transformers: one projection to queries, keys and values."""
BIASES = (
    (r"\.q_bias$", ".query.bias"),
    (r"\.v_bias$", ".value.bias"),
)
"""Of queries and values, where keys have none."""
