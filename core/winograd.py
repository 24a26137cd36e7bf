"""3x3 convolutions with a quarter of the multiplications (Winograd 1980; Lavin and Gray 2016), where that is faster.

A tile of 4x4 results depends on 6x6 inputs. Tile and filter are taken for polynomials: evaluated at 6 points a direction they are
multiplied point by point, 36 products a channel instead of 144, and brought back. Over many channels the products are matrix
products, and evaluating and bringing back are cheap. Rounding errors are some 2e-6 of the largest value, five times those of the
plain sum; what is not finite spreads over its tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vertebra.linear import runs_plainly

TILE = 4
POINTS = (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))
"""With infinity as the sixth; of the simple choices the one that rounds least, five times less than whole numbers."""
SIDE = len(POINTS) + 1
LEAST_CHANNELS, LEAST_CELLS = 192, 2048
"""Below these, evaluating tiles or filters takes what is saved."""
PIECE = 16 * 2**20
"""Bytes of evaluated tiles at a time: enough for matrix products, and less than memory that the system hands out anew."""


class SameConv2d(nn.Conv2d):
    """A convolution of stride 1 that keeps the size.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the result.
        kernel: Side of the kernel, odd.
        bias: Whether there is one.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, bias: bool = True) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, inputs, h, w)` to `(b, outputs, h, w)`."""
        return convolve(x, self.weight, self.bias)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A convolution of stride 1 that keeps the size, its square kernel of odd side.

    Args:
        x: `(b, inputs, h, w)`.
        weight: `(outputs, inputs, k, k)`.
        bias: `(outputs,)`.

    Returns:
        `(b, outputs, h, w)`, in the memory format channels-last where Winograd's way is taken.
    """
    if _pays(x, weight) and runs_plainly(x, weight, bias):
        return winograd(x, weight, bias)
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)


def winograd(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`convolve` with a 3x3 kernel by Winograd's way, without gradients."""
    outputs, inputs = weight.shape[:2]
    batch, _, height, width = x.shape
    evaluate, evaluate_filters, interpolate = _matrices()
    parts = min(outputs, -(-SIDE * SIDE * outputs * inputs * x.element_size() // PIECE))
    filters = [
        (evaluate_filters @ part.reshape(-1, 9).T).view(-1, len(part), inputs).mT for part in weight.tensor_split(parts)
    ]
    down, right = -(-height // TILE), -(-width // TILE)
    out = x.new_empty(batch, down, TILE, right, TILE, outputs)
    widest = max(inputs, filters[0].shape[-1])
    rows = min(down, max(1, PIECE // (SIDE * SIDE * right * widest * x.element_size())))
    some = x.new_empty(SIDE * SIDE * rows * right * widest)
    more = torch.empty_like(some)
    results = x.new_empty(TILE * TILE * rows * right * widest)
    for image, place in zip(x.permute(0, 2, 3, 1), out, strict=True):
        for first in range(0, down, rows):
            strip = place[first : first + rows]
            tiles = _tiles(image, first, len(strip), right)
            count = len(strip) * right
            cells = _fill(some, tiles.shape).copy_(tiles).view(SIDE * SIDE, -1)
            values = torch.mm(evaluate, cells, out=_fill(more, cells.shape)).view(-1, count, inputs)
            channels = 0
            for part in filters:
                wide = part.shape[-1]
                products = torch.bmm(values, part, out=_fill(some, (SIDE * SIDE, count, wide))).flatten(1)
                result = torch.mm(interpolate, products, out=_fill(results, (TILE * TILE, count * wide)))
                if bias is not None:
                    result.view(-1, wide).add_(bias[channels : channels + wide])
                by_row = result.view(TILE, TILE, len(strip), right, wide).permute(2, 0, 3, 1, 4)
                strip[..., channels : channels + wide] = by_row
                channels += wide
    whole = out.view(batch, down * TILE, right * TILE, outputs)[:, :height, :width]
    return whole.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def _pays(x: Tensor, weight: Tensor) -> bool:
    return (
        weight.shape[-1] == 3
        and min(weight.shape[:2]) >= LEAST_CHANNELS
        and x.ndim == 4
        and x.shape[2] * x.shape[3] >= LEAST_CELLS
    )


def _tiles(image: Tensor, first: int, rows: int, right: int) -> Tensor:
    """Some rows of tiles of an image `(h, w, c)`, which overlap and reach beyond its edges: `(6, 6, rows, right, c)`."""
    height, width, _ = image.shape
    top, bottom = first * TILE - 1, (first + rows) * TILE + 1
    inside = image[max(top, 0) : bottom]
    edges = (0, 0, 1, right * TILE + 1 - width, max(-top, 0), max(bottom - height, 0))
    return F.pad(inside, edges).unfold(0, SIDE, TILE).unfold(1, SIDE, TILE).permute(3, 4, 0, 1, 2)


def _fill(memory: Tensor, shape: Sequence[int]) -> Tensor:
    """The beginning of a flat tensor in another shape."""
    return memory[: torch.Size(shape).numel()].view(shape)


@cache
def _matrices() -> tuple[Tensor, Tensor, Tensor]:
    """How tiles are evaluated at all points `(36, 36)`, filters `(36, 9)`, and how products become results `(16, 36)`."""
    data, filters, results = [], [], []
    for point in POINTS:
        others = [other for other in POINTS if other != point]
        scale = torch.tensor([point - other for other in others], dtype=torch.float64).prod().item()
        data.append([*_polynomial(others), 0.0])
        filters.append([point**power / scale for power in range(3)])
        results.append([point**power for power in range(TILE)])
    data.append(_polynomial(POINTS))  # at infinity the highest coefficient is all there is
    filters.append([0.0, 0.0, 1.0])
    results.append([0.0] * (TILE - 1) + [1.0])
    with torch.inference_mode(False):
        one = [torch.tensor(matrix, dtype=torch.float64, device="cpu") for matrix in (data, filters, results)]
        two = [torch.kron(matrix, matrix).float() for matrix in (one[0], one[1], one[2].T.contiguous())]
    return two[0], two[1], two[2]


def _polynomial(roots: Sequence[float]) -> list[float]:
    """Coefficients of the polynomial with these roots, the constant first."""
    coefficients = [1.0]
    for root in roots:
        coefficients = [low - root * high for low, high in zip([0.0, *coefficients], [*coefficients, 0.0], strict=True)]
    return coefficients
