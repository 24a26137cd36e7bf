"""Linear layers that run as fast as the processor multiplies: the library that is quickest on it, in pieces that stay in its cache.

torch multiplies single-precision matrices on x86 with MKL, which on processors of AMD runs below what oneDNN, part of the same
build of torch, reaches; and what a layer gives above 32 MB is memory that the system hands out anew, page by page, at every call.
Neither matters while gradients are kept, in other dtypes, on other devices, or in a captured graph: torch's own way is taken there.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PIECE = 16 * 2**20
"""Bytes between two layers of an MLP at a time: what caches hold, and less than memory that is handed out anew."""


class Linear(nn.Linear):
    """`torch.nn.Linear`, computed by oneDNN where that is faster."""

    def forward(self, x: Tensor) -> Tensor:
        """`(…, in_features)` to `(…, out_features)`."""
        return _onednn(x, self) if _suits_onednn(x, self) else F.linear(x, self.weight, self.bias)


def feed_forward(
    x: Tensor, first: nn.Linear, act: nn.Module, second: nn.Linear, dropout: nn.Module | None = None
) -> Tensor:
    """Two linear layers with an activation between: `second(dropout(act(first(x))))`, the wide middle in pieces.

    Args:
        x: `(…, c)`.
        first: From `c` to the width of the middle.
        act: Works on every value by itself.
        second: From there on.
        dropout: After the activation.

    Returns:
        `(…, second.out_features)`.
    """

    def run(rows: Tensor) -> Tensor:
        middle = with_activation(rows, first, act)
        return second(middle if dropout is None else dropout(middle))

    parts = (first, act, second) if dropout is None else (first, act, second, dropout)
    if not (runs_plainly(x, first.weight, first.bias, second.weight, second.bias) and unwatched(*parts)):
        return second(act(first(x)) if dropout is None else dropout(act(first(x))))
    rows = x.reshape(-1, x.shape[-1])
    pieces = -(-rows.shape[0] * first.out_features * x.element_size() // PIECE)
    if pieces <= 1:
        return run(x)
    out = x.new_empty(rows.shape[0], second.out_features)
    for piece, place in zip(rows.tensor_split(pieces), out.tensor_split(pieces), strict=True):
        place.copy_(run(piece))
    return out.view(*x.shape[:-1], -1)


def in_pieces(run: Callable[[Tensor], Tensor], x: Tensor, values: int) -> Tensor:
    """What `run` makes of a batch, computed for so many of its entries at a time that what lies between stays small.

    Args:
        run: Works on every entry of the batch by itself; nobody may differentiate or trace it (`runs_plainly`).
        x: `(b, …)`.
        values: How many there are of one entry where they are most.
    """
    pieces = min(x.shape[0], -(-x.shape[0] * values * x.element_size() // PIECE))
    if pieces <= 1:
        return run(x)
    out, start = None, 0
    for piece in x.tensor_split(pieces):
        part = run(piece)
        if out is None:
            out = part.new_empty(x.shape[0], *part.shape[1:])
        out[start : start + len(part)] = part
        start += len(part)
    assert out is not None
    return out


def unwatched(*modules: nn.Module) -> bool:
    """Whether nobody listens to calls of these modules, so that they need not be called one after the other."""
    everywhere = nn.modules.module
    if everywhere._global_forward_hooks or everywhere._global_forward_pre_hooks:
        return False
    return not any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def kind(module: nn.Module | None) -> type[nn.Module] | None:
    """The class of a module, whether or not a backbone has frozen it, which makes another of it that computes the same."""
    return None if module is None else getattr(module, "unfrozen_class", type(module))


def runs_plainly(*tensors: Tensor | None) -> bool:
    """Whether these are ordinary single-precision tensors on the CPU that nobody differentiates, traces or watches."""
    if (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        or torch.is_autocast_enabled("cpu")
    ):
        return False
    learns = torch.is_grad_enabled()
    return all(
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.dtype is torch.float32
        and tensor.is_cpu
        and not (learns and tensor.requires_grad)
        for tensor in tensors
        if tensor is not None
    )


@cache
def onednn_is_faster() -> bool:
    """Whether oneDNN multiplies faster than MKL here: on processors of AMD, for which MKL does not choose its best code."""
    built = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    built = bool(built) and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return built and "AuthenticAMD" in _vendor()


def _vendor() -> str:
    """What the processor says of its maker; nothing where the system does not tell."""
    if platform.system() == "Windows":
        return os.environ.get("PROCESSOR_IDENTIFIER", "")
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as facts:
            return next((line for line in facts if line.startswith("vendor_id")), "")
    except OSError:
        return ""


def with_activation(x: Tensor, layer: nn.Linear, act: nn.Module) -> Tensor:
    """`act(layer(x))`, as one operation where there is one."""
    if kind(layer) is Linear and _suits_onednn(x, layer):
        if kind(act) is nn.GELU:
            return _onednn(x, layer, "gelu", str(act.approximate))
        if kind(act) is nn.ReLU:  # oneDNN's own makes 0 of NaN
            return _onednn(x, layer).relu_()
    return act(layer(x))


def _suits_onednn(x: Tensor, layer: nn.Linear) -> bool:
    # captured graphs must not meet the look at the processor, so this comes first
    plain = runs_plainly(x, layer.weight, layer.bias)
    return plain and onednn_is_faster() and x.shape[-1:] == (layer.in_features,)


def _onednn(x: Tensor, layer: nn.Linear, then: str = "none", kind: str = "") -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, then, [], kind)
