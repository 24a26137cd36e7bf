"""What all ConvNeXts have in common: the block and the chain of stages, under the names of each family."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vertebra.activations import activation
from vertebra.backbones.layers import ChannelNorm, DropPath, ResponseNorm, add
from vertebra.backbones.staged import StagedConfig
from vertebra.linear import Linear, feed_forward, in_pieces, runs_plainly, unwatched, with_activation
from vertebra.placing import Node, place, place_tensor
from vertebra.stages import Grid, Stage

KERNEL = 7


class Spelling(NamedTuple):
    """What the parts of a stage and of a block are called in a family's files."""

    downsampling: str
    depthwise: str
    norm: str
    expand: str
    reduce: str
    scale: str


class ConvNextBlock(Node):
    """A depthwise convolution, a norm and two layers that mix channels; residual.

    Args:
        spelling: What the parts are called.
        width: Channels.
        act: Name of the activation.
        eps: Of the norm.
        drop_path: Probability that a sample is dropped.
        scale: Initial value of a scale for every channel; None for a block without one.
        response_norm: Whether a global response norm stands before the last layer.
    """

    def __init__(
        self,
        spelling: Spelling,
        width: int,
        act: str,
        eps: float,
        drop_path: float,
        scale: float | None,
        response_norm: bool,
    ) -> None:
        super().__init__()
        self.spelling, self.scaled, self.responds = spelling, scale is not None, response_norm
        place(self, spelling.depthwise, nn.Conv2d(width, width, KERNEL, padding=KERNEL // 2, groups=width))
        place(self, spelling.norm, nn.LayerNorm(width, eps=eps))
        place(self, spelling.expand, Linear(width, 4 * width))
        self.act = activation(act)
        self.grn: Any = ResponseNorm(4 * width) if response_norm else nn.Identity()
        place(self, spelling.reduce, Linear(4 * width, width))
        if scale is not None:
            place_tensor(
                self, spelling.scale, nn.Parameter(torch.full((width,), scale)), partial(nn.init.constant_, val=scale)
            )
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, c, h, w)` to the same."""
        _, depthwise, norm, expand, reduce, scale = self.spelling
        y = getattr(self, norm)(getattr(self, depthwise)(x).permute(0, 2, 3, 1))  # (b, h, w, c)
        first, second = getattr(self, expand), getattr(self, reduce)
        if not self.responds:
            y = feed_forward(y, first, self.act, second)
        elif runs_plainly(y, *self.parameters()) and unwatched(first, self.act, self.grn, second):
            y = in_pieces(
                lambda part: second(self.grn.over(with_activation(part, first, self.act))), y, 4 * y[0].numel()
            )
        else:
            y = second(self.grn(self.act(first(y))))
        factors = getattr(self, scale) if self.scaled else None
        return add(x.permute(0, 2, 3, 1), self.drop_path(y), factors).permute(0, 3, 1, 2)


class ConvNextStage(nn.Module):
    """What leads to a stage (nothing, where the stem did), and its blocks."""

    def __init__(self, spelling: Spelling, downsampling: Iterable[nn.Module], blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.before = spelling.downsampling
        place(self, self.before, nn.Sequential(*downsampling))
        self.layers = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, c, h, w)` to the stage's own shape."""
        return self.layers(getattr(self, self.before)(x))


def build_stages(
    spelling: Spelling,
    widths: Sequence[int],
    drop_paths: Sequence[Sequence[float]],
    first: Iterable[nn.Module] = (),
    *,
    act: str,
    eps: float,
    scale: float | None,
    response_norm: bool = False,
) -> nn.ModuleList:
    """A stage for every entry of `drop_paths`; each after the first halves the map.

    Args:
        spelling: What the parts are called.
        widths: Channels of each stage; may be more than are built.
        drop_paths: Drop path of every block of each stage.
        first: What leads to the first stage.
        act: Name of the activation.
        eps: Of all norms.
        scale: As in `ConvNextBlock`.
        response_norm: As in `ConvNextBlock`.
    """
    stages = []
    for index, (width, rates) in enumerate(zip(widths, drop_paths, strict=False)):
        before = first
        if index:
            before = (ChannelNorm(widths[index - 1], eps=eps), nn.Conv2d(widths[index - 1], width, 2, 2))
        blocks = (ConvNextBlock(spelling, width, act, eps, rate, scale, response_norm) for rate in rates)
        stages.append(ConvNextStage(spelling, before, blocks))
    return nn.ModuleList(stages)


def describe(config: StagedConfig, stem: Stage, grid: Grid) -> Iterable[Stage]:
    """The stem, and one stage per depth; `grid` is that of the first stage, and each further one halves it."""
    yield stem
    for index, width in enumerate(config.hidden_sizes, start=1):
        yield grid.stage(config.stage_names[index], index, width)
        grid = grid.window(2, 2)
