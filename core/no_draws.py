"""Building on the meta device without drawing initial values, which nothing would come of."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode
from torch.utils._device import DeviceContext, _device_constructors

DRAWN = {torch.Tensor.uniform_, torch.Tensor.normal_, torch.Tensor.erfinv_, torch.Tensor.clamp_}
"""What initial weights are drawn with; on the meta device it takes most of the time of a build."""
STARTS = {getattr(nn.init, name) for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")}
"""torch's own ways to give a tensor its initial values."""
WATCHED = {*DRAWN, *STARTS, *_device_constructors()}  # type: ignore[no-untyped-call]
"""What does not run as ever inside `OnMeta`."""
LAYERS: tuple[Any, ...] = (nn.Linear, nn.Embedding, nn.LayerNorm, nn.GroupNorm, _ConvNd, _NormBase)
"""torch's layers whose `reset_parameters` does nothing but give their tensors initial values."""


class NoDraws(TorchFunctionMode):
    """Skips drawing initial values for tensors of the meta device, which hold none."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return the tensor as it is where it would be filled in place; run everything else."""
        if func in DRAWN and _holds_nothing(args[0]):
            return args[0]
        return func(*args, **(kwargs or {}))


def _holds_nothing(tensor: Tensor) -> bool:
    """Whether filling a tensor changes nothing, and is no error."""
    return tensor.is_meta and not (tensor.requires_grad and torch.is_grad_enabled())


class OnMeta(DeviceContext):
    """`with torch.device("meta")`, for models whose values come from elsewhere: nothing draws initial ones.

    Like that context it belongs to the thread that entered it; tensors of other devices get their values as ever. While any thread
    is inside, torch's layers ask whether theirs is before they draw, since for them to draw on the meta device takes as long
    as everything else of a build.
    """

    def __init__(self) -> None:
        super().__init__("meta")  # type: ignore[no-untyped-call]

    def __enter__(self) -> None:
        _enter()
        super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        _leave()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return a tensor as it is where it would get its initial values; run everything else on the meta device."""
        if func not in WATCHED:
            return func(*args, **(kwargs or {}))
        if func in STARTS and (tensor := args[0] if args else kwargs["tensor"]).is_meta:
            return tensor
        if func in DRAWN and _holds_nothing(args[0]):
            return args[0]
        return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]


def values_come_later() -> bool:
    """Whether this thread builds inside `OnMeta`."""
    return bool(getattr(_here, "depth", 0))


_here = threading.local()
_lock = threading.Lock()
_inside = 0
_own: dict[type[nn.Module], Callable[[Any], None]] = {}


def _enter() -> None:
    global _inside
    _here.depth = getattr(_here, "depth", 0) + 1
    with _lock:
        _inside += 1
        if _inside == 1:
            for kind in LAYERS:
                _own[kind] = kind.reset_parameters  # type: ignore[assignment]
                kind.reset_parameters = _unless_on_meta(_own[kind])  # type: ignore[assignment, method-assign]


def _leave() -> None:
    global _inside
    _here.depth -= 1
    with _lock:
        _inside -= 1
        if not _inside:
            for kind in LAYERS:
                kind.reset_parameters = _own[kind]  # type: ignore[assignment, method-assign]


def _is_on_meta(layer: nn.Module) -> bool:
    """Whether a layer's tensors, which a constructor makes on one device, hold nothing."""
    for tensors in (layer._parameters, layer._buffers):
        for tensor in tensors.values():
            if tensor is not None:
                return tensor.is_meta
    return True


def _unless_on_meta(reset: Callable[[Any], None]) -> Callable[[Any], None]:
    @functools.wraps(reset)
    def reset_parameters(layer: Any) -> None:
        if not values_come_later() or not _is_on_meta(layer):
            reset(layer)

    return reset_parameters
