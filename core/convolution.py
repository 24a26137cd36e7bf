"""Convolutions with what follows them as one operation, in the order of memory that the processor is quickest with.

As for linear layers (`vertebra.linear`), torch's own way is taken while gradients are kept, in other dtypes, on other devices, in a
captured graph, and where somebody listens to the modules.
"""

from __future__ import annotations

from functools import cache
from typing import cast

import torch
from torch import Tensor, nn

from vertebra.linear import kind, runs_plainly, unwatched

FEW = 512
"""Cells of a batch of maps: oneDNN takes fewer sooner with channels apart, and more sooner with those of a cell together."""
WORTH = 2
"""A norm is multiplied into the filters at every call where a map has so many times more cells than a filter has weights."""


def convolve(
    x: Tensor, conv: nn.Conv2d, norm: nn.Module | None = None, act: nn.Module | None = None, onto: Tensor | None = None
) -> Tensor:
    """A convolution, a norm, an addition and an activation: `act(norm(conv(x)) + onto)`; what is None is left out.

    Args:
        x: `(b, c, h, w)`.
        conv: The convolution.
        norm: After it.
        act: After all.
        onto: Of the output's shape.

    Returns:
        `(b, outputs, rows, columns)`, in either memory format.
    """
    if not (runs_plainly(x, onto) and _is_plain(conv, norm, act) and runs_plainly(*_tensors(conv), *_tensors(norm))):
        y = conv(x) if norm is None else norm(conv(x))
        y = y if onto is None else y + onto
        return y if act is None else act(y)
    cells = x.shape[0] * _cells(x, conv)
    layout = torch.channels_last if cells >= FEW else torch.contiguous_format
    x, rectifies = x.contiguous(memory_format=layout), kind(act) is nn.ReLU
    if fuses() and (norm is None or cells >= WORTH * conv.weight[0].numel()):
        # its rectifier makes 0 of NaN, which torch's lets through
        within = act if onto is None and kind(act) is nn.GELU else None
        y = _fused(x, conv, norm, within, None if onto is None else onto.contiguous(memory_format=layout))
        act = None if act is within else act
    else:
        y = conv(x) if norm is None else norm(conv(x))
        y = y if onto is None else y.add_(onto)
    if rectifies:
        return y.relu_()
    return y if act is None else act(y)


def channels_last(x: Tensor, *weights: Tensor | None) -> Tensor:
    """A map `(b, c, h, w)` with the channels of a cell side by side in memory, if convolutions by `weights` are sooner so."""
    if runs_plainly(x, *weights) and x.shape[0] * x.shape[2] * x.shape[3] >= FEW:
        return x.contiguous(memory_format=torch.channels_last)
    return x


def rectified(x: Tensor, act: nn.Module) -> Tensor:
    """An activation of values that nobody else needs: a rectifier writes over them where nobody differentiates or listens."""
    if kind(act) is nn.ReLU and runs_plainly(x) and unwatched(act):
        return x.relu_()
    return act(x)


@cache
def fuses() -> bool:
    """Whether this build of torch has convolutions with an activation and an addition in one."""
    built: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return built and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


def _is_plain(conv: nn.Conv2d, norm: nn.Module | None, act: nn.Module | None) -> bool:
    if kind(conv) is not nn.Conv2d or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return False
    if norm is not None and (kind(norm) is not nn.BatchNorm2d or norm.training or norm.running_var is None):
        return False
    return unwatched(*(part for part in (conv, norm, act) if part is not None))


def _tensors(part: nn.Module | None) -> list[Tensor | None]:
    if part is None:
        return []
    buffers = (part._buffers[name] for name in part._buffers if name != "num_batches_tracked")
    return [*part._parameters.values(), *buffers]


def _cells(x: Tensor, conv: nn.Conv2d) -> int:
    """How many cells the map of an image has after a convolution."""
    cells = 1
    for side, kernel, step, padding, hole in zip(
        x.shape[2:], conv.kernel_size, conv.stride, cast(tuple[int, int], conv.padding), conv.dilation, strict=True
    ):
        cells *= (side + 2 * padding - hole * (kernel - 1) - 1) // step + 1
    return cells


def _fused(x: Tensor, conv: nn.Conv2d, norm: nn.Module | None, act: nn.Module | None, onto: Tensor | None) -> Tensor:
    weight, bias = conv.weight, conv.bias
    if norm is not None:
        factor, shift = affine(norm)
        weight = weight * factor.view(-1, 1, 1, 1)
        bias = shift if bias is None else torch.addcmul(shift, bias, factor)
    shape = (conv.padding, conv.stride, conv.dilation, conv.groups)
    operation = torch.ops.mkldnn._convolution_pointwise
    if onto is not None:
        return operation.binary(x, onto, weight, bias, *shape, "add", None, None, [], "")
    if isinstance(act, nn.GELU):
        return operation(x, weight, bias, *shape, "gelu", [], act.approximate)
    return operation(x, weight, bias, *shape, "none", [], "")


def affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """A batch norm in evaluation as a factor and a shift per channel."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None
    assert norm.running_mean is not None
    factor = torch.rsqrt(norm.running_var + norm.eps)
    factor = factor if norm.weight is None else factor * norm.weight
    shift = -norm.running_mean * factor
    return factor, shift if norm.bias is None else shift + norm.bias
