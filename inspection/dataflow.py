"""What a network does with an image, read off one run: operations, products of activations, what enters as position.

Every tensor of the run is marked by where it comes from: from pixels, from parameters, or from neither. What a layer is
called plays no part.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from vertebra.inspection.trace import operation_flops

PIXELS, PARAMETERS, SCORES, BIASED, UNIFORM = 1, 2, 4, 8, 16
"""Marks: computed from the image; from parameters; a product of two activations; such a product with something added to
it; the same at all positions."""
MATRIX = {"mm": (0, 1), "bmm": (0, 1), "addmm": (1, 2), "baddbmm": (1, 2)}
"""Matrix products, and which of their arguments are multiplied."""
KEEP = {
    "mul",
    "mul_",
    "div",
    "div_",
    "add",
    "add_",
    "sub",
    "sub_",
    "clone",
    "_to_copy",
    "constant_pad_nd",
    "copy_",
    "_unsafe_view",
}
"""What leaves scores scores, beside views; everything else but these makes something new of them."""
FILLED = {"zeros", "ones", "full", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full"}
SOFTMAX = {"_softmax", "_safe_softmax", "softmax"}


@dataclass
class Product:
    """A product of two activations.

    Args:
        extent: `(batch, rows, summed, columns)`.
        tokens: Tokens that the next layer finds in the result, over all batches; None where no layer follows at once.
    """

    extent: tuple[int, int, int, int]
    tokens: int | None = None

    @property
    def reads_all(self) -> bool | None:
        """Whether its rows are all tokens there are, and not those of one window; None where that is not known."""
        _, rows, _, columns = self.extent
        if self.tokens in (None, rows * columns):  # a layer over heads, which mixes scores, tells nothing
            return None
        return self.tokens in (rows, columns)

    @property
    def size(self) -> int:
        """Elements of the result."""
        return self.extent[0] * self.extent[1] * self.extent[3]


@dataclass
class Observed:
    """What one run showed.

    Args:
        flops: Floating point operations of products and convolutions, a multiply-add counted as two.
        products: Products of two activations, in order.
        softmaxes: `(rows, columns)` of each softmax over activations, in order.
        positions: Kinds of what tells positions apart: `"absolute"`, `"relative"`, `"rotary"`.
        prefix_tokens: The most tokens that stand before those of the image.
        patch_size: Side of the patches that the first layer cuts the image into; None where its windows overlap.
    """

    flops: int = 0
    products: list[Product] = field(default_factory=list)
    softmaxes: list[tuple[int, int]] = field(default_factory=list)
    positions: set[str] = field(default_factory=set)
    prefix_tokens: int = 0
    patch_size: tuple[int, int] | None = None


class Dataflow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches the run of a network; `observed` holds what it saw.

    Args:
        model: The network, whose parameters are told apart from what is computed.
        pixels: Its input, `(1, c, h, w)`.
    """

    def __init__(self, model: nn.Module, pixels: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.observed = Observed()
        self._image = pixels.shape
        self._kept: list[Tensor] = []
        self._marks: dict[int, int] = {}
        self._prefixes: dict[int, int] = {}
        self._first_layer_seen = False
        self._last_product: Product | None = None
        self._mark(pixels, PIXELS)
        for parameter in model.parameters():
            self._mark(parameter, PARAMETERS)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and note what it did."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.observed.flops += operation_flops(func, args, kwargs, out)
        self._follow(func._schema.name.removeprefix("aten::"), func.is_view, args, out)
        return out

    def _mark(self, tensor: Tensor, marks: int) -> None:
        self._kept.append(tensor)  # an identity may not be given to another tensor
        self._marks[tensor.untyped_storage()._cdata] = marks

    def marks(self, value: Any) -> int:
        """Where a tensor, or any of a list, comes from; 0 for anything else."""
        if isinstance(value, Tensor):
            return self._marks.get(value.untyped_storage()._cdata, 0)
        if isinstance(value, (list, tuple)):
            marks = 0
            for part in value:
                marks |= self.marks(part)
            return marks
        return 0

    def _follow(self, name: str, is_view: bool, args: Any, out: Any) -> None:
        if is_view:
            return
        marks = self.marks(args)
        origin = marks & (PIXELS | PARAMETERS) if not marks & PIXELS else PIXELS
        scores = marks & (SCORES | BIASED) if name in KEEP and marks & PIXELS else 0
        if name in FILLED:
            origin = UNIFORM
        if name in MATRIX:
            left, right = (args[index] for index in MATRIX[name])
            if self.marks(left) & self.marks(right) & PIXELS:
                batch = left.shape[0] if left.ndim == 3 else 1
                self._last_product = Product((batch, left.shape[-2], left.shape[-1], right.shape[-1]))
                self.observed.products.append(self._last_product)
                scores = SCORES
            elif marks & PIXELS:
                self._layer(left, left.shape[-2])
                self._first_layer(left)
            elif (self.marks(left) | self.marks(right)) & UNIFORM:
                origin |= UNIFORM
        elif name in SOFTMAX:
            self._softmax(args[0], args[1], marks)
        elif name == "convolution":
            self._layer(args[0], math.prod(args[0].shape[2:]))
            self._first_convolution(args)
        elif name in ("add", "add_", "mul", "mul_") and isinstance(args[1], Tensor):
            scores |= self._combined(name.rstrip("_"), args[0], args[1])
        elif name == "cat":
            self._joined(args[0], args[1] if len(args) > 1 else 0)
        for tensor in _tensors(out):
            self._mark(tensor, origin | scores)

    def _softmax(self, tensor: Tensor, dim: int, marks: int) -> None:
        columns = tensor.shape[dim]
        if marks & PIXELS:
            self.observed.softmaxes.append((tensor.numel() // max(columns, 1), columns))
        if marks & BIASED or (marks == PARAMETERS and _varies(tensor)):
            self.observed.positions.add("relative")

    def _combined(self, name: str, first: Tensor, second: Tensor) -> int:
        """What a sum or product of two tensors says of positions; returns marks for the result."""
        marks, others = self.marks(first), self.marks(second)
        if not marks & PIXELS or (not marks & SCORES and others & SCORES):
            first, second, marks, others = second, first, others, marks
        if name == "add" and marks & SCORES:
            if others & PIXELS:
                return 0 if others & SCORES else BIASED
            if others & PARAMETERS and _varies(second) and second.shape[-2:] == first.shape[-2:]:
                self.observed.positions.add("relative")
        elif not marks & PIXELS or others & (PIXELS | UNIFORM):
            return 0
        elif name == "add" and _varies(second) and second.numel() == first.numel():
            self.observed.positions.add("absolute")
        elif name == "mul" and _varies(second) and second.shape[-1] == first.shape[-1]:
            self.observed.positions.add("rotary")
        return 0

    def _joined(self, parts: Any, dim: int) -> None:
        """Tokens of parameters alone that are put before the image's."""
        if parts[0].ndim != 3 or dim % 3 != 1:
            return
        image = sum(part.shape[1] for part in parts if self.marks(part) & PIXELS)
        added = sum(part.shape[1] for part in parts if self.marks(part) == PARAMETERS)
        if image and added:
            total = added + self._prefixes.get(image, 0)
            self._prefixes[image + added] = total
            self.observed.prefix_tokens = max(total, self.observed.prefix_tokens)

    def _layer(self, given: Tensor, tokens: int) -> None:
        """A layer with weights: the first one after a product, if it takes the result, tells how many tokens there are."""
        last, self._last_product = self._last_product, None
        if last is not None and last.size == given.numel():
            last.tokens = tokens

    def _first_convolution(self, args: Any) -> None:
        if not self._first_layer_seen and self.marks(args[0]) & PIXELS:
            kernel, stride, padding = tuple(args[1].shape[2:]), tuple(args[3]), tuple(args[4])
            if kernel == stride and len(kernel) == 2 and not any(padding) and kernel != (1, 1):
                self.observed.patch_size = (int(kernel[0]), int(kernel[1]))
            self._first_layer_seen = True

    def _first_layer(self, left: Tensor) -> None:
        """A linear layer on pixels that were cut into squares before: one row a patch."""
        if not self._first_layer_seen and left.ndim == 2:
            _, channels, height, width = self._image
            side = math.isqrt(left.shape[1] // channels)
            if side * side * channels == left.shape[1] and left.shape[0] * side * side == height * width:
                self.observed.patch_size = (side, side)
            self._first_layer_seen = True


def _varies(tensor: Tensor) -> bool:
    """Whether values differ along more than one axis: over positions, and not over channels or heads alone."""
    return sum(size > 1 for size in tensor.shape) > 1


def _tensors(out: Any) -> Iterator[Tensor]:
    if isinstance(out, Tensor):
        yield out
    elif isinstance(out, Iterable) and not isinstance(out, str):
        for part in out:
            yield from _tensors(part)


def observe(model: nn.Module, height: int, width: int, channels: int = 3, device: str = "meta") -> Observed:
    """Run a network on one image of `height` and `width`, and return what it did.

    Raises:
        ValueError: it does not run at this size.
    """
    pixels = torch.zeros(1, channels, height, width, device=device)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), Dataflow(model, pixels) as flow:
        model(pixels)
    return flow.observed
