"""Convolutions with batch norm, and the residual stages that ResNets are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, cast

from torch import Tensor, nn

from vertebra.activations import activation
from vertebra.backbones.dilation import dilate
from vertebra.backbones.staged import StagedConfig
from vertebra.convolution import convolve
from vertebra.errors import listing
from vertebra.linear import runs_plainly, unwatched
from vertebra.stages import Grid, Stage

LAYER_TYPES = ("basic", "bottleneck")
REDUCTION = 4


class ConvNormAct(nn.Module):
    """Convolution without bias, batch norm, activation (none for None); "same" padding for odd kernels."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        stride: int | tuple[int, int] = 1,
        act: str | None = "relu",
        groups: int = 1,
    ) -> None:
        super().__init__()
        padding = (kernel - 1) // 2
        self.convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.normalization = nn.BatchNorm2d(outputs)
        self.activation = nn.Identity() if act is None else activation(act)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, inputs, h, w)` to `(b, outputs, h / stride, w / stride)`."""
        return self.onto(x, self.activation, None)

    def onto(self, x: Tensor, act: nn.Module, other: Tensor | None) -> Tensor:
        """The same with another activation and, before it, a map of the output's shape added."""
        return convolve(x, self.convolution, self.normalization, act, other)


class ResNetShape(StagedConfig):
    """The keys of all ResNets; the defaults are a ResNet-50.

    Args:
        num_channels: Channels of the input.
        embedding_size: Channels of the stem.
        hidden_sizes: Channels of each stage's output.
        depths: Blocks in each stage.
        layer_type: `"basic"` (two 3x3 convolutions; ResNet-18 and 34) or `"bottleneck"`.
        hidden_act: Name of the activation.
        downsample_in_first_stage: Whether the first stage halves the map as well.
        downsample_in_bottleneck: Whether a bottleneck's first convolution carries the stride (v1) instead of its second.
    """

    no_dilation = None

    num_channels: int = 3
    embedding_size: int = 64
    hidden_sizes: Sequence[int] = (256, 512, 1024, 2048)
    depths: Sequence[int] = (3, 4, 6, 3)
    layer_type: str = "bottleneck"
    hidden_act: str = "relu"
    downsample_in_first_stage: bool = False
    downsample_in_bottleneck: bool = False

    @property
    def strides(self) -> list[int]:
        """Stride of each stage relative to the one before."""
        return [2 if self.downsample_in_first_stage else 1, *(2 for _ in self.depths[1:])]

    def validate(self) -> None:
        """Check the layer type. Raises ValueError."""
        super().validate()
        if self.layer_type not in LAYER_TYPES:
            raise ValueError(f"layer_type={self.layer_type!r} must be one of {listing(LAYER_TYPES)}.")


class ResidualBlock(nn.Module):
    """A residual block.

    Args:
        layer: The residual branch: convolutions with norms, the last of them without activation.
        shortcut: What the input passes on its way around it.
        act: Activation after the sum.
    """

    def __init__(self, layer: nn.Sequential, shortcut: nn.Module, act: str) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.layer = layer
        self.activation = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, inputs, h, w)` to `(b, outputs, h / stride, w / stride)`."""
        around = self.shortcut(x)
        *before, last = cast(Any, self.layer)
        if not (runs_plainly(x, around) and unwatched(self.layer, *last.modules())):
            y = self.layer(x)
            y += around
            return self.activation(y)
        for part in before:
            x = part(x)
        return last.onto(x, self.activation, around)


Branch = Callable[[int, int, int], nn.Module]
"""Makes a path from channels of the input, channels of the output, and stride."""


def basic_layer(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Two 3x3 convolutions; the first carries the stride."""
    return nn.Sequential(ConvNormAct(inputs, outputs, 3, stride), ConvNormAct(outputs, outputs, 3, act=None))


def bottleneck_layer(inputs: int, outputs: int, stride: int, stride_first: bool) -> nn.Sequential:
    """1x1, 3x3, 1x1 convolutions with a quarter of the channels between; v1.5 strides in the second, v1 in the first."""
    width = outputs // REDUCTION
    strides = (stride, 1) if stride_first else (1, stride)
    return nn.Sequential(
        ConvNormAct(inputs, width, 1, strides[0]),
        ConvNormAct(width, width, 3, strides[1]),
        ConvNormAct(width, outputs, 1, act=None),
    )


def projection(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The usual shortcut: a 1x1 convolution where the shape changes, nothing elsewhere."""
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return ConvNormAct(inputs, outputs, 1, stride, act=None)


class ResidualStage(nn.Module):
    """A chain of blocks."""

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Run the blocks."""
        return self.layers(x)


class ResNetEncoder(nn.Module):
    """The first `count` stages.

    Args:
        config: Their shape.
        count: How many there are.
        shortcut: Makes the shortcut of a stage's first block, which changes width and stride; all others pass the input as it is.
    """

    def __init__(self, config: ResNetShape, count: int, shortcut: Branch) -> None:
        super().__init__()
        widths, act = [config.embedding_size, *config.hidden_sizes], config.hidden_act
        layer: Callable[[int, int, int], nn.Sequential] = basic_layer
        if config.layer_type == "bottleneck":
            layer = partial(bottleneck_layer, stride_first=config.downsample_in_bottleneck)

        def blocks(inputs: int, outputs: int, stride: int, depth: int) -> Iterable[nn.Module]:
            yield ResidualBlock(layer(inputs, outputs, stride), shortcut(inputs, outputs, stride), act)
            for _ in range(depth - 1):
                yield ResidualBlock(layer(outputs, outputs, 1), nn.Identity(), act)

        shapes = zip(widths, widths[1:], config.strides, config.depths, strict=False)
        self.stages = nn.ModuleList(
            ResidualStage(blocks(*shape)) for shape, _ in zip(shapes, range(count), strict=False)
        )
        dilate(self.stages, config.strides, config.output_stride, start=4)


def describe(config: ResNetShape, grid: Grid) -> Iterable[Stage]:
    """The stem, whose cells are `grid`, and one stage per depth, every map rounded up to whole cells."""
    yield grid.stage("stem", 0, config.embedding_size)
    for index, (width, stride) in enumerate(zip(config.hidden_sizes, config.strides, strict=True), start=1):
        grid = grid.window(3, stride, 1)
        yield grid.stage(config.stage_names[index], index, width)


def start_fan_out(module: nn.Module) -> None:
    """Draw the weights of a convolution as He et al. (2015) do for ReLU, by the cells it reaches; leave others alone."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
