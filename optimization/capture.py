"""A call of a model as a graph that engines read: tensors in, tensors out, and how the outputs are put together again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from threading import RLock, get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.node import Node, map_arg
from torch.utils import _pytree as pytree

ALONE = RLock()
"""Held while a model is captured: torch replaces `nn.Module.__call__` for all threads then, and says that it compiles to all."""
_captured_by: list[int] = []


@dataclass(frozen=True)
class Graph:
    """A captured call.

    Args:
        program: From the tensors among the arguments, in order, to those of the output.
        structure: What the output was made of.
        others: Place and value of everything in the output that is no tensor.
    """

    program: ExportedProgram
    structure: pytree.TreeSpec
    others: Mapping[int, Any]

    def inputs(self) -> list[Tensor]:
        """The inputs as the graph describes them: their sizes are numbers, or symbols where any will do."""
        names = set(self.program.graph_signature.user_inputs)
        return [
            node.meta["val"] for node in self.program.graph.nodes if node.op == "placeholder" and node.name in names
        ]

    @property
    def any_batch(self) -> bool:
        """Whether it holds for every number of images."""
        return not any(isinstance(tensor.shape[0], int) for tensor in self.inputs())

    def output(self, tensors: list[Tensor]) -> Any:
        """The model's output, made of what an engine returned."""
        leaves, given = [], iter(tensors)
        for place in range(self.structure.num_leaves):
            leaves.append(self.others[place] if place in self.others else next(given))
        return pytree.tree_unflatten(leaves, self.structure)


def _without_resized_weights(program: ExportedProgram) -> nn.Module | None:
    """The graph with resized weights in place of their resizing, a table of positions for images of this size; None without such.

    Engines resize otherwise than torch, or not at all (OpenVINO: bicubic, and with antialiasing).
    """
    module: Any = program.module()
    graph = module.graph
    fixed: set[Node] = set()
    for node in graph.nodes:
        if node.op in ("get_attr", "call_function") and fixed.issuperset(node.all_input_nodes):
            fixed.add(node)
    resizing = [node for node in graph.nodes if node in fixed and "upsample" in str(node.target)]
    for index, node in enumerate(resizing):
        module.register_buffer(f"resized_{index}", _value(node, module))
        with graph.inserting_before(node):
            node.replace_all_uses_with(graph.get_attr(f"resized_{index}"))
        graph.erase_node(node)
    graph.eliminate_dead_code()
    module.recompile()
    return module if resizing else None


def _value(node: Node, module: nn.Module) -> Any:
    if node.op == "get_attr":
        return attrgetter(str(node.target))(module)
    args, kwargs = map_arg((node.args, node.kwargs), lambda source: _value(source, module))
    return node.target(*args, **kwargs)  # type: ignore[operator]


def being_captured() -> bool:
    """Whether this thread is capturing or compiling; torch answers that for all threads together."""
    if torch.compiler.is_dynamo_compiling():
        return True
    elsewhere = any(thread != get_ident() for thread in _captured_by)
    return (torch.compiler.is_compiling() and not elsewhere) or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


@contextmanager
def _announced() -> Iterator[None]:
    with ALONE:
        _captured_by.append(get_ident())
        try:
            yield
        finally:
            _captured_by.pop()


class _Call(nn.Module):
    """A call with everything but its tensors fixed; `found` is told what its output is made of."""

    def __init__(
        self,
        model: nn.Module,
        names: list[str],
        rest: Mapping[str, Any],
        found: Callable[[Mapping[int, Any], Any], None],
    ) -> None:
        super().__init__()
        self.model, self.names, self.rest, self.found = model, names, dict(rest), found

    def forward(self, *tensors: Tensor) -> list[Tensor]:
        output = self.model(**dict(zip(self.names, tensors, strict=True)), **self.rest)
        leaves, structure = pytree.tree_flatten(output)
        self.found({place: leaf for place, leaf in enumerate(leaves) if not isinstance(leaf, Tensor)}, structure)
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def capture(model: nn.Module, tensors: Mapping[str, Tensor], rest: Mapping[str, Any], any_batch: bool) -> Graph:
    """Capture `model(**tensors, **rest)`.

    Args:
        model: A model in evaluation mode.
        tensors: Its arguments that are tensors, the batch in front.
        rest: Its other arguments.
        any_batch: Let the graph hold for every number of images, where the model allows it.

    Raises:
        RuntimeError: the model cannot be captured.
        ValueError: the model refuses these inputs.
    """
    made_of: list[Any] = []  # not an attribute of the module: those are put back after a capture

    def found(others: Mapping[int, Any], structure: Any) -> None:
        made_of[:] = others, structure

    call = _Call(model, [*tensors], rest, found).eval()
    example, shapes = tuple(tensors.values()), None
    if any_batch:
        # one image alone would be taken for a constant
        example = tuple(torch.cat([tensor[:1]] * 2) for tensor in example)
        shapes = ({0: Dim.AUTO},) * len(example)
    try:
        with _announced(), torch.no_grad():
            program = torch.export.export(call, example, dynamic_shapes=(shapes,) if shapes else None)
            if folded := _without_resized_weights(program):
                program = torch.export.export(folded, example, dynamic_shapes=shapes)
    except (ValueError, TypeError):  # the model's own word on what it was given
        raise
    except Exception as error:
        raise RuntimeError(
            f"{type(model).__name__} cannot be captured as a graph for images of {[*example[0].shape]}, so no engine can run it; "
            f"use it without optimize(). {type(error).__name__}: {error}"
        ) from error
    others, structure = made_of
    return Graph(program, structure, others)
