"""What one run costs, read off the operations it calls: FLOPs, and the most bytes that tensors hold at once."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry


@dataclass
class Held:
    """A storage that was seen.

    Args:
        size: Its bytes; 0 for weights, which are not counted as live.
        sources: Bits of the weights and of the operations that its values come from.
        born: Index of the operation that made it, or that read it first.
        died: Index of the operation before which it was freed; None where it never was.
        reads: Indices of the operations that read it.
    """

    size: int
    sources: int
    born: int
    died: int | None = None
    reads: list[int] = field(default_factory=list)


class Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations called inside `with`, on the meta device or any other.

    FLOPs are those of torch's own `flop_counter`: two for every multiply-add of convolutions, matrix products and attention;
    nothing else is counted. A storage lives from the operation that makes it until no tensor holds it, and views share
    theirs. What a kernel takes and gives back inside one operation is not seen; of it, only the copies that convolutions make on
    the CPU are known (`copied_bytes`).

    Args:
        weights: Tensors that are not counted as live: parameters and buffers.
    """

    def __init__(self, weights: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.weights = tuple(weights)
        self.flops: list[int] = []
        """FLOPs of each operation."""
        self.copied: list[int] = []
        """Bytes that the CPU copies inside each operation."""
        self._seen: list[Held] = []
        self._held: dict[int, Held] = {}
        self._references: list[Any] = []
        for index, tensor in enumerate(self.weights):
            weight = self._held.setdefault(tensor.untyped_storage()._cdata, Held(0, 0, 0))
            weight.sources |= 1 << index

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count it."""
        kwargs, now = kwargs or {}, len(self.flops)
        result = func(*args, **kwargs)
        sources = 1 << len(self.weights) + now
        for value in tree_iter((args, kwargs)):
            if isinstance(value, Tensor):
                read = self._hold(value.untyped_storage())
                read.reads.append(now)
                sources |= read.sources
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self._hold(value.untyped_storage()).sources = sources
        self.flops.append(operation_flops(func, args, kwargs, result))
        self.copied.append(copied_bytes(func.overloadpacket, args, result))
        return result

    def _hold(self, storage: torch.UntypedStorage) -> Held:
        key = storage._cdata
        if key not in self._held:
            held = self._held[key] = Held(storage.nbytes(), 0, len(self.flops))
            self._seen.append(held)

            def freed(_: object) -> None:
                self._held.pop(key).died = len(self.flops)

            self._references.append(weakref.ref(storage, freed))
        return self._held[key]

    def sources(self, tensor: Tensor) -> int:
        """The weights and operations that a tensor's values come from, as bits: weights first, then operations in order."""
        return self._held[tensor.untyped_storage()._cdata].sources

    def weights_of(self, sources: int) -> list[Tensor]:
        """The weights in such bits."""
        return [tensor for index, tensor in enumerate(self.weights) if sources >> index & 1]

    def flops_of(self, sources: int) -> int:
        """FLOPs of the operations in such bits."""
        return sum(flops for flops, inside in zip(self.flops, self._inside(sources), strict=True) if inside)

    def peak_bytes(self, sources: int | None = None, copies: bool = False) -> int:
        """Most live bytes at any moment.

        Args:
            sources: Count the operations in such bits alone.
            copies: Count the copies that convolutions make on the CPU as well.
        """
        copied = self.copied if copies else [0] * len(self.flops)
        inside = [True] * len(self.flops) if sources is None else self._inside(sources)
        change = [0] * (len(self.flops) + 1)
        for held in self._seen:
            if inside[held.born] or any(inside[index] for index in held.reads):
                change[held.born] += held.size
                change[len(self.flops) if held.died is None else held.died] -= held.size
        moments = zip(accumulate(change), copied, inside, strict=False)
        return max((live + more for live, more, counts in moments if counts), default=0)

    def _inside(self, sources: int) -> list[bool]:
        operations = sources >> len(self.weights)
        return [digit == "1" for digit in reversed(f"{operations:0{len(self.flops)}b}")]


def operation_flops(operation: Any, args: Any, kwargs: Any, result: Any) -> int:
    """FLOPs of one call of an operation by torch's own formula, 0 where it has none.

    But for gradients of convolutions: torch counts those of the weights once for every group.
    """
    if operation.overloadpacket is torch.ops.aten.convolution_backward:
        (gradient, image, weight), transposed, wanted = args[:3], args[7], args[10]
        positions = image if transposed else gradient
        return int(2 * len(positions) * positions.shape[2:].numel() * weight.numel() * sum(wanted[:2]))
    formula = flop_registry.get(operation.overloadpacket)
    return 0 if formula is None else int(formula(*args, **kwargs, out_val=result))


def copied_bytes(func: Any, args: Any, result: Any) -> int:
    """Most bytes of copies that the CPU holds at once inside an operation, beside its arguments and its result.

    oneDNN convolves in layouts of its own: it copies the weights, in the plain layout the image as well (where it has more than
    three channels), and then the result back. A 1x1 convolution of stride 1 in one group is a matrix product and copies nothing.
    Of other operations nothing is known.
    """
    if func is torch.ops.aten.convolution:
        (image, weight, _, stride), groups = args[:4], args[8]
        one, other = image.nbytes * (image.shape[1] > 3) + weight.nbytes, result.nbytes
    elif func is torch.ops.aten.convolution_backward:
        (gradient, image, weight, _, stride), groups = args[:5], args[9]
        one, other = image.nbytes + gradient.nbytes, weight.nbytes
    else:
        return 0
    if weight.ndim != 4 or (groups == 1 and {*weight.shape[2:], *stride} == {1}):
        return 0
    return max(one, other) if image.is_contiguous() else int(weight.nbytes)


class FusedAttention(TorchFunctionMode):
    """Lets attention on the meta device take the fused kernel where the CPU does; by itself it never would."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace attention, run everything else."""
        kwargs = kwargs or {}
        return _attention(*args, **kwargs) if func is F.scaled_dot_product_attention else func(*args, **kwargs)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **options: Any,
) -> Tensor:
    if dropout_p or options.get("enable_gqa") or not is_fused(query, key, value, attn_mask):
        return F.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, **options)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(~attn_mask, -torch.inf)
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    result: Tensor = fused(query, key, value, 0.0, is_causal, attn_mask=attn_mask, scale=options.get("scale"))[0]
    return result


def is_fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> bool:
    """Whether torch's CPU runs attention without dropout on `(b, heads, n, d)` in one kernel, which never holds the scores."""
    tensors = (query, key, value)
    if any(tensor.ndim != 4 or tensor.stride(-1) != 1 or 0 in tensor.shape for tensor in tensors):
        return False
    if len({(*tensor.shape[:2], tensor.shape[-1]) for tensor in tensors}) > 1:
        return False
    if mask is None:
        return True
    scores = (*query.shape[:3], key.shape[2])[-mask.ndim :]
    fits = (
        all(size in (1, full) for size, full in zip(mask.shape, scores, strict=True)) if mask.ndim in (2, 4) else False
    )
    return fits and not mask.requires_grad
