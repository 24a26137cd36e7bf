"""What BiT is made of: convolutions with standardised filters, group norms, the stem and the block."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from vertebra.activations import activation
from vertebra.backbones.layers import DropPath, add
from vertebra.convolution import channels_last, rectified

REDUCTION = 4
WIDTH_STEP = 8
"""What widths are multiples of."""
EPS = 1e-8
"""Of the standardisation of weights."""
POOL = 3


def stepped(width: float) -> int:
    """A width rounded to a multiple of 8, and never by more than a tenth down."""
    rounded = max(WIDTH_STEP, int(width + WIDTH_STEP / 2) // WIDTH_STEP * WIDTH_STEP)
    return rounded if rounded >= 0.9 * width else rounded + WIDTH_STEP


class StandardizedConv(nn.Conv2d):
    """A convolution without bias whose filters have mean 0 and deviation 1 each (Qiao et al. 2019).

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        kernel: Odd side of the filters.
        stride: Stride.
        same: Whether a strided one is padded as TensorFlow does, which is by the size of the map.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, same: bool = False) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.same = same

    def forward(self, x: Tensor) -> Tensor:
        """`(b, inputs, h, w)` to `(b, outputs, h / stride, w / stride)`, rounded up."""
        filters = self.weight.flatten(1)[None]  # as a batch norm, whose sums are more exact than a layer norm's
        weight = F.batch_norm(filters, None, None, training=True, eps=EPS).view_as(self.weight)
        padding = self.padding
        if self.same and self.stride != (1, 1):
            x, padding = pad_by_size(x, self.kernel_size[0], self.stride[0]), (0, 0)
        return F.conv2d(x, weight, None, self.stride, padding, self.dilation)


def pad_by_size(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Pad a map with zeros so that windows fit it exactly; the odd one out goes to the bottom and right."""
    down, right = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:])
    return F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))


class GroupNormAct(nn.GroupNorm):
    """A group norm, and an activation (none for None)."""

    def __init__(self, groups: int, width: int, act: str | None) -> None:
        super().__init__(groups, width)
        self.activation = nn.Identity() if act is None else activation(act)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, c, h, w)` to the same."""
        return rectified(super().forward(x), self.activation)


class Parts(NamedTuple):
    """How the parts of a BiT are made: norms before convolutions or after, the activation, groups of channels, the padding."""

    before: bool
    act: str
    groups: int
    same: bool

    def conv(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> StandardizedConv:
        """A convolution."""
        return StandardizedConv(inputs, outputs, kernel, stride, self.same)

    def norm(self, width: int, active: bool = True) -> GroupNormAct:
        """A norm, with the activation after it or without."""
        return GroupNormAct(self.groups, width, self.act if active else None)


class BitEmbeddings(nn.Module):
    """The stem: a 7x7 convolution and a max pooling, stride 2 each. A border of zeros counts in the pooling, and in the norm.

    Args:
        parts: How its parts are made.
        channels: Channels of the image.
        width: Channels of the map.
        dynamic: Whether the pooling is padded by the size of the map.
    """

    def __init__(self, parts: Parts, channels: int, width: int, dynamic: bool) -> None:
        super().__init__()
        self.border, self.dynamic = 0 if parts.same else 1, dynamic
        self.convolution = parts.conv(channels, width, 7, 2)
        self.norm = nn.Identity() if parts.before else parts.norm(width)
        self.pooler = nn.MaxPool2d(POOL, 2)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """`(b, channels, h, w)` to `(b, width, h / 4, w / 4)`."""
        x = self.convolution(channels_last(pixel_values, self.convolution.weight))
        x = F.pad(x, (self.border,) * 4) if self.border else x
        x = self.norm(x if isinstance(self.norm, nn.Identity) else x.contiguous())
        x = self.pooler(pad_by_size(x, POOL, 2) if self.dynamic else x)
        return x.contiguous()  # group norms are less exact with the channels of a cell side by side

    def cells(self, side: int) -> int:
        """Cells along a side of so many pixels; 0 where the image is too small."""
        side = -(-side // 2) + 2 * self.border
        return -(-side // 2) if self.dynamic else max(side - POOL + 2, 0) // 2


class BitProjection(nn.Module):
    """The shortcut of a stage's first block: a 1x1 convolution, and a norm where norms stand after convolutions."""

    def __init__(self, parts: Parts, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv = parts.conv(inputs, outputs, 1, stride)
        self.norm = nn.Identity() if parts.before else parts.norm(outputs, active=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, inputs, h, w)` to `(b, outputs, h / stride, w / stride)`."""
        return self.norm(self.conv(x))


class BitBlock(nn.Module):
    """1x1, 3x3, 1x1 convolutions with a quarter of the channels between, and their norms; residual.

    Args:
        parts: How its parts are made.
        inputs: Channels of the input.
        outputs: Channels of the output.
        stride: Of the 3x3 convolution.
        drop_path: Probability that a sample is dropped.
        first: Whether it is the first of its stage, whose shortcut has a convolution.
    """

    def __init__(self, parts: Parts, inputs: int, outputs: int, stride: int, drop_path: float, first: bool) -> None:
        super().__init__()
        self.before, width = parts.before, stepped(outputs / REDUCTION)
        self.downsample = BitProjection(parts, inputs, outputs, stride) if first else None
        if self.before:
            self.norm1, self.conv1 = parts.norm(inputs), parts.conv(inputs, width, 1)
            self.norm2, self.conv2 = parts.norm(width), parts.conv(width, width, 3, stride)
            self.norm3, self.conv3 = parts.norm(width), parts.conv(width, outputs, 1)
        else:
            self.conv1, self.norm1 = parts.conv(inputs, width, 1), parts.norm(width)
            self.conv2, self.norm2 = parts.conv(width, width, 3, stride), parts.norm(width)
            self.conv3, self.norm3 = parts.conv(width, outputs, 1), parts.norm(outputs, active=False)
        self.drop_path = DropPath(drop_path)
        self.activation = nn.Identity() if self.before else activation(parts.act)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, inputs, h, w)` to `(b, outputs, h / stride, w / stride)`."""
        if self.before:
            start = self.norm1(x)
            y = self.conv3(self.norm3(self.conv2(self.norm2(self.conv1(start)))))
        else:
            start = x
            y = self.norm3(self.conv3(self.norm2(self.conv2(self.norm1(self.conv1(start))))))
        shortcut = x if self.downsample is None else self.downsample(start)
        return rectified(add(self.drop_path(y), shortcut), self.activation)
