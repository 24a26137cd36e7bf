"""Modules whose parts stand where a checkpoint's files have them: parts and parameters put at paths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

Draw = Callable[[Tensor], Any]
"""Gives a tensor its initial values, in place; of `torch.nn.init`, or `functools.partial` of one of these."""


class Node(nn.Module):
    """A step on the path to a part, which may hold tensors of its own (see `place_tensor`)."""

    def __init__(self) -> None:
        super().__init__()
        self.draws: dict[str, Draw] = {}

    def reset_parameters(self) -> None:
        """Give the tensors that were placed here their initial values."""
        for name, draw in self.draws.items():
            draw(getattr(self, name))


def place(root: nn.Module, path: str, part: nn.Module) -> None:
    """Make `part` the module at `path` below `root`, and the steps on the way where they are missing."""
    *steps, name = path.split(".")
    step(root, steps).add_module(name, part)


def place_tensor(root: nn.Module, path: str, tensor: Tensor, draw: Draw) -> None:
    """Make `tensor` the parameter (or, if it is none, the buffer) at `path` below `root`; it starts as `draw` says.

    Raises:
        TypeError: the module it would belong to exists and is no `Node`, so that nothing would draw it.
    """
    *steps, name = path.split(".")
    owner = step(root, steps)
    if not isinstance(owner, Node):
        raise TypeError(f"{path!r} belongs to a {type(owner).__name__}; only a Node draws the tensors placed in it.")
    if isinstance(tensor, nn.Parameter):
        owner.register_parameter(name, tensor)
    else:
        owner.register_buffer(name, tensor)
    owner.draws[name] = draw


def step(root: nn.Module, names: list[str]) -> nn.Module:
    """The module below `root` that the names lead to, made where it is missing."""
    for name in names:
        if name not in root._modules:
            root.add_module(name, Node())
        root = root.get_submodule(name)
    return root
