"""A convolution over maps of several sizes, equal to resizing and concatenating them first, without doing so."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vertebra.heads.resampling import Size
from vertebra.linear import runs_plainly
from vertebra.winograd import convolve


class JoinedConv2d(nn.Conv2d):
    """A square convolution of odd kernel, "same" padding and no bias over maps of several sizes.

    The maps are concatenated along the channels, after all have the size of the first one (bilinear interpolation). Channels
    are mixed before a coarse map is enlarged, which comes to the same since both are linear: a map of half the size costs a quarter
    of the multiplications, and nothing of the size of all channels together is ever in memory.

    Args:
        widths: Channels of each map.
        outputs: Channels of the result.
        kernel: Side of the kernel.
    """

    def __init__(self, widths: Sequence[int], outputs: int, kernel: int) -> None:
        super().__init__(sum(widths), outputs, kernel, padding=kernel // 2, bias=False)
        self.widths = list(widths)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:  # type: ignore[override]
        """Maps `(b, widths[i], h_i, w_i)` to `(b, outputs, h_0, w_0)`."""
        size = (maps[0].shape[-2], maps[0].shape[-1])
        parts = list(zip(maps, torch.split(self.weight, self.widths, 1), strict=True))
        coarse = [part for part in parts if self._pays(part[0], size)]
        fine = [part for part in parts if not self._pays(part[0], size)]
        joined = [x if x.shape[-2:] == size else F.interpolate(x, size, mode="bilinear") for x, _ in fine]
        output = convolve(_concatenate(joined), _concatenate([weight for _, weight in fine]))
        if not coarse:
            return output
        if runs_plainly(output, self.weight, *maps):
            return add_enlarged_convolutions(output, coarse)
        return output + enlarged_convolutions(coarse, size)

    def _pays(self, x: Tensor, size: Size) -> bool:
        """Whether mixing channels first takes fewer multiplications (counted per channel of the result)."""
        kernel, (height, width) = self.kernel_size[0], x.shape[-2:]
        saved = kernel * kernel * x.shape[1] * (size[0] * size[1] - height * width)
        return saved > kernel * height * size[1] * (kernel * width + size[0])


def _concatenate(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), 1)  # cat would copy a single one


def enlarged_convolutions(parts: Sequence[tuple[Tensor, Tensor]], size: Size) -> Tensor:
    """Sum of convolutions, each over a map that is enlarged to `size` first, `(b, o, *size)`.

    Mixing channels, enlarging along the width and along the height are one matrix product each; the offsets of the kernel's taps
    are in the matrices that enlarge.

    Args:
        parts: Maps `(b, c_i, h_i, w_i)`, each with a kernel `(o, c_i, k, k)`.
        size: `(height, width)` of the result.
    """
    rows, spread = [], []
    for x, weight in parts:
        outputs, inputs, kernel, _ = weight.shape
        batch, _, height, width = x.shape
        cells = x.permute(0, 2, 3, 1)
        across = _enlarging(width, size[1], kernel, x).permute(1, 2, 0).reshape(size[1], width * kernel)
        for row, down in zip(weight.permute(2, 1, 3, 0), _enlarging(height, size[0], kernel, x), strict=True):
            mixed = cells @ row.reshape(inputs, kernel * outputs)
            rows.append(across @ mixed.reshape(batch, height, width * kernel, outputs))
            spread.append(down)
    total = torch.cat(spread, 1) @ torch.cat(rows, 1).flatten(2)
    return total.reshape(total.shape[0], *size, -1).permute(0, 3, 1, 2)


def add_enlarged_convolutions(onto: Tensor, parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """`onto + enlarged_convolutions(parts, …)` without gradients and without memory for all parts together.

    Rows are enlarged last: one matrix product a row then writes where the sum lies.

    Args:
        onto: `(b, o, height, width)`; not to be used afterwards.
        parts: As in `enlarged_convolutions`.

    Returns:
        The sum, in the memory format channels-last.
    """
    onto = onto.contiguous(memory_format=torch.channels_last)
    sums = onto.permute(0, 2, 3, 1)
    for x, weight in parts:
        outputs, inputs, kernel, _ = weight.shape
        batch, _, height, width = x.shape
        columns = x.transpose(2, 3).contiguous(memory_format=torch.channels_last)
        down = _enlarging(height, sums.shape[1], kernel, x).permute(1, 2, 0).reshape(-1, height * kernel)
        across = _enlarging(width, sums.shape[2], kernel, x)
        for tap, spread in zip(weight.permute(3, 2, 0, 1), across, strict=True):
            mixed = F.conv2d(columns, tap.reshape(kernel * outputs, inputs, 1, 1)).permute(0, 2, 3, 1)
            tall = down @ mixed.reshape(batch, width, height * kernel, outputs)
            for image, total in zip(tall, sums, strict=True):
                total.baddbmm_(spread.expand(len(total), -1, -1), image.transpose(0, 1))
    return onto


def _enlarging(cells: int, size: int, kernel: int, like: Tensor) -> Tensor:
    """Weights `(kernel, size, cells)` by which a row of cells is enlarged, as each tap of a kernel sees it."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    matrix = F.interpolate(torch.eye(cells, dtype=dtype, device=like.device)[None], size, mode="linear")[0]
    padded = F.pad(matrix, (kernel // 2, kernel // 2)).to(like.dtype)
    return torch.stack([padded[:, tap : tap + size].T for tap in range(kernel)])
