"""Tiny native backbones and what is true of them. A new family is one row of `ROWS`."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from oracle import perturb
from torch import Tensor, nn

from vertebra.backbones.base import Backbone
from vertebra.backbones.resnet import ResNetBackbone
from vertebra.backbones.swin import MaskFormerSwinBackbone, SwinBackbone


def without_blocks(model: nn.Module) -> None:
    """Leave only patches and merging of a Swin: every cell then sees exactly its own pixels."""
    for name, parameter in model.named_parameters():
        if re.search(r"blocks\.\d+\.(attention\.)?output\.dense", name):
            parameter.data.zero_()


def all_positive(model: nn.Module) -> None:
    """Make a convolutional net let every pixel through that a cell can see."""
    for name, child in list(model.named_modules()):
        if isinstance(child, nn.Conv2d):
            child.weight.data.fill_(1.0 / child.weight[0].numel())
        elif isinstance(child, nn.MaxPool2d):
            mean = nn.AvgPool2d(child.kernel_size, child.stride, child.padding)
            model.get_submodule(name.rpartition(".")[0]).add_module(name.rpartition(".")[2], mean)


@dataclass(frozen=True)
class Row:
    """A backbone of tiny shape and what is true of it.

    Args:
        backbone: The class.
        kwargs: Its configuration, with everything random switched on as far as the family has it.
        stages: Name, channels and stride of each stage.
        bare: Makes each cell see all of its pixels and no others, for the test of positions.
        first: Index of the first stage that can be selected.
        attentions: Whether there are attention weights.
    """

    backbone: type[Backbone]
    kwargs: dict[str, Any]
    stages: tuple[tuple[str, int, Any], ...]
    bare: Callable[[nn.Module], None]
    first: int = 0
    attentions: bool = True

    def config(self, **kwargs: Any) -> Any:
        return self.backbone.config_class(**{**self.kwargs, **kwargs})

    def build(self, **kwargs: Any) -> Backbone:
        """A backbone in evaluation mode; the same weights for the same selection. All stages are the default."""
        if not {"out_indices", "out_features", "out_strides"} & kwargs.keys():
            kwargs["out_indices"] = list(self.indices)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return perturb(self.backbone(self.config(**kwargs))).eval()

    @property
    def indices(self) -> range:
        return range(self.first, len(self.stages))

    @property
    def selections(self) -> Iterator[list[int]]:
        """All selections, every second index counted from the end."""
        for size in range(1, len(self.indices) + 1):
            for chosen in combinations(self.indices, size):
                yield [index - len(self.stages) if place % 2 else index for place, index in enumerate(chosen)]


RANDOM = {"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5, "drop_path_rate": 0.5}
SWIN = {"embed_dim": 8, "depths": [2, 1, 2], "num_heads": [1, 2, 4], "window_size": 3, "image_size": 32, **RANDOM}
RESNET = {"embedding_size": 8, "hidden_sizes": [16, 32, 48], "depths": [1, 2, 1]}
FOUR = (("stem", 8, 4), ("stage1", 8, 4), ("stage2", 16, 8), ("stage3", 32, 16))
OBLONG = (("stem", 8, (2, 4)), ("stage1", 8, (2, 4)), ("stage2", 16, (4, 8)), ("stage3", 32, (8, 16)))
RES = (("stem", 8, 4), ("stage1", 16, 4), ("stage2", 32, 8), ("stage3", 48, 16))
FIRST = (("stem", 8, 4), ("stage1", 16, 8), ("stage2", 32, 16), ("stage3", 48, 32))

ROWS = {
    "swin": Row(SwinBackbone, SWIN, FOUR, without_blocks),
    "swin-oblong": Row(SwinBackbone, {**SWIN, "patch_size": (2, 4)}, OBLONG, without_blocks),
    "swin-positions": Row(SwinBackbone, {**SWIN, "use_absolute_embeddings": True}, FOUR, without_blocks),
    "maskformer-swin": Row(MaskFormerSwinBackbone, SWIN, FOUR, without_blocks, first=1),
    "resnet-bottleneck": Row(ResNetBackbone, RESNET, RES, all_positive, attentions=False),
    "resnet-v1": Row(
        ResNetBackbone,
        {**RESNET, "downsample_in_bottleneck": True, "downsample_in_first_stage": True},
        FIRST,
        all_positive,
        attentions=False,
    ),
    "resnet-basic": Row(ResNetBackbone, {**RESNET, "layer_type": "basic"}, RES, all_positive, attentions=False),
}
SIZES = [(64, 64), (37, 51), (33, 70), (17, 16), (5, 90)]


def pair(stride: Any) -> tuple[int, int]:
    return stride if isinstance(stride, tuple) else (stride, stride)


def shown(stride: Any) -> str:
    return "x".join(map(str, stride)) if isinstance(stride, tuple) else str(stride)


def pixels(size: tuple[int, int] = (37, 51), batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, *size)


def run(model: nn.Module, x: Tensor, **kwargs: Any) -> Any:
    with torch.no_grad():
        return model(x, **kwargs)


def everywhere(model: nn.Module) -> None:
    """Put every single module into training mode, one by one."""
    for module in model.modules():
        module.train()


def statistics(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}
