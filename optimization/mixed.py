"""Mixed precision in a captured graph: products in a short dtype, everything between them as it was."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

aten = torch.ops.aten
PRODUCTS = (
    *(aten.linear.default, aten.conv2d.default, aten.conv2d.padding, aten.matmul.default, aten.mm.default),
    *(aten.addmm.default, aten.bmm.default, aten.baddbmm.default, aten.scaled_dot_product_attention.default),
)
"""Operations that multiply matrices: what processors have faster units for."""


def in_mixed_precision(module: GraphModule, dtype: torch.dtype) -> None:
    """Let the products of an exported graph be computed in `dtype`, in place.

    Sums, norms and softmax stay in single precision, residual streams with them: that is where rounding adds up.

    Args:
        module: From `ExportedProgram.module()`.
        dtype: e.g. `torch.bfloat16`.
    """
    graph = module.graph
    short: dict[Node, Node] = {}
    for node in list(graph.nodes):
        if node.target not in PRODUCTS or not _is_single(node):
            continue

        def shortened(argument: Any, before: Node = node) -> Any:
            if not isinstance(argument, Node) or not _is_single(argument):
                return argument
            if argument not in short:
                with graph.inserting_after(argument):
                    short[argument] = graph.call_function(aten.to.dtype, (argument, dtype))
            return short[argument]

        node.args = torch.fx.map_arg(node.args, shortened)
        node.kwargs = torch.fx.map_arg(node.kwargs, shortened)
        with graph.inserting_after(node):
            whole = graph.call_function(aten.to.dtype, (node, torch.float32))
        node.replace_all_uses_with(whole, delete_user_cb=lambda user, whole=whole: user is not whole)
        whole.meta["val"] = node.meta["val"]
    graph.lint()
    module.recompile()


def _is_single(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dtype == torch.float32
