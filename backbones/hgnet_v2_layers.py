"""What HGNetV2 is made of: convolutions with a learned scale and shift, the stem, the block and the stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vertebra.backbones.convolutions import ConvNormAct
from vertebra.backbones.layers import run_stages


class StageShape(NamedTuple):
    """What a stage is made of: channels of its input, layers and output, how many blocks, layers in each, and their kind."""

    inputs: int
    middle: int
    outputs: int
    blocks: int
    layers: int
    kernel: int
    light: bool
    downsample: bool
    stride: tuple[int, int]


class Affine(nn.Module):
    """A learned scale and shift, one number each."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def reset_parameters(self) -> None:
        """Start as the identity."""
        nn.init.ones_(self.scale)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same."""
        return self.scale * x + self.bias


class HGNetV2Conv(ConvNormAct):
    """A convolution with batch norm and activation, and with `affine` a learned scale and shift after the activation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int | tuple[int, int] = 1,
        act: str | None = "relu",
        groups: int = 1,
        affine: bool = False,
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, act, groups)
        self.lab = Affine() if affine and act is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """`(b, inputs, h, w)` to `(b, outputs, h / stride, w / stride)`."""
        return self.lab(super().forward(x))


class HGNetV2LightConv(nn.Module):
    """A 1x1 convolution and a depthwise one, in place of a full one."""

    def __init__(self, inputs: int, outputs: int, kernel: int, affine: bool) -> None:
        super().__init__()
        self.conv1 = HGNetV2Conv(inputs, outputs, 1, act=None)
        self.conv2 = HGNetV2Conv(outputs, outputs, kernel, groups=outputs, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, inputs, h, w)` to `(b, outputs, h, w)`."""
        return self.conv2(self.conv1(x))


class HGNetV2Embeddings(nn.Module):
    """The stem: a convolution, two paths (two 2x2 convolutions, and a max pooling), and two convolutions on both.

    Args:
        channels: Channels of the image.
        inner: Channels inside.
        width: Channels of the map.
        strides: Of the five convolutions; 1 of the second and third.
        act: Name of the activation.
        affine: Whether a learned scale and shift follow every activation.
    """

    def __init__(
        self, channels: int, inner: int, width: int, strides: Sequence[tuple[int, int]], act: str, affine: bool
    ) -> None:
        super().__init__()
        self.stem1 = HGNetV2Conv(channels, inner, 3, strides[0], act, affine=affine)
        self.stem2a = HGNetV2Conv(inner, inner // 2, 2, strides[1], act, affine=affine)
        self.stem2b = HGNetV2Conv(inner // 2, inner, 2, strides[2], act, affine=affine)
        self.pool = nn.MaxPool2d(2, 1)
        self.stem3 = HGNetV2Conv(2 * inner, inner, 3, strides[3], act, affine=affine)
        self.stem4 = HGNetV2Conv(inner, width, 1, strides[4], act, affine=affine)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """`(b, channels, h, w)` to `(b, width, h / 4, w / 4)`."""
        x = one_more(self.stem1(pixel_values))
        return self.stem4(self.stem3(torch.cat([self.pool(x), self.stem2b(one_more(self.stem2a(x)))], dim=1)))


def one_more(x: Tensor) -> Tensor:
    """Pad `(b, c, h, w)` with a row and a column of zeros at the bottom and right, where 2x2 windows end."""
    return F.pad(x, (0, 1, 0, 1))


class HGNetV2Block(nn.Module):
    """A chain of layers whose maps, and the input, are all joined and mixed; residual from the second block of a stage on."""

    def __init__(self, shape: StageShape, inputs: int, residual: bool, affine: bool) -> None:
        super().__init__()
        _, middle, outputs, *_ = shape
        self.residual, layer = residual, HGNetV2LightConv if shape.light else HGNetV2Conv
        self.layers = nn.ModuleList(
            layer(middle if number else inputs, middle, shape.kernel, affine=affine) for number in range(shape.layers)
        )
        self.aggregation = nn.Sequential(
            HGNetV2Conv(inputs + shape.layers * middle, outputs // 2, 1, affine=affine),
            HGNetV2Conv(outputs // 2, outputs, 1, affine=affine),
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(b, inputs, h, w)` to `(b, outputs, h, w)`."""
        y = self.aggregation(torch.cat(run_stages(self.layers, x), dim=1))
        return x + y if self.residual else y


class HGNetV2Stage(nn.Module):
    """A strided depthwise convolution, where the stage has one, and a chain of blocks."""

    def __init__(self, shape: StageShape, affine: bool) -> None:
        super().__init__()
        self.downsample: nn.Module = nn.Identity()
        if shape.downsample:
            self.downsample = HGNetV2Conv(shape.inputs, shape.inputs, 3, shape.stride, None, groups=shape.inputs)
        self.blocks = nn.Sequential(
            *(
                HGNetV2Block(shape, shape.outputs if number else shape.inputs, number > 0, affine)
                for number in range(shape.blocks)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(b, inputs, h, w)` to `(b, outputs, h / stride, w / stride)`."""
        return self.blocks(self.downsample(x))
