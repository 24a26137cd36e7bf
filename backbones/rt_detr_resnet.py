"""The ResNet of RT-DETR (Zhao et al. 2023), a ResNet-D: three convolutions for a stem, means before shortcuts that halve."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from torch import Tensor, nn

from vertebra.backbones.convolutions import ConvNormAct, ResNetEncoder, ResNetShape, describe, start_fan_out
from vertebra.backbones.staged import StagedBackbone
from vertebra.stages import Grid, Stage


class RTDetrResNetConfig(ResNetShape):
    """Configuration of an RT-DETR ResNet; the keys and defaults are those of `ResNetShape`.

    A file of a whole RT-DETR is read as well: the configuration of its backbone is taken.
    """

    model_type = "rt_detr_resnet"
    held_by = {"rt_detr": "backbone_config", "rt_detr_v2": "backbone_config"}


class RTDetrResNetEmbeddings(nn.Module):
    """The stem: three 3x3 convolutions, the first with stride 2, and a max pooling of stride 2."""

    def __init__(self, channels: int, width: int, act: str) -> None:
        super().__init__()
        self.embedder = nn.Sequential(
            ConvNormAct(channels, width // 2, 3, 2, act),
            ConvNormAct(width // 2, width // 2, 3, 1, act),
            ConvNormAct(width // 2, width, 3, 1, act),
        )
        self.pooler = nn.MaxPool2d(3, 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, channels, h, w)` to `(b, width, h / 4, w / 4)`."""
        return self.pooler(self.embedder(x))


def mean_projection(inputs: int, outputs: int, stride: int, basic: bool) -> nn.Module:
    """The shortcut of a stage's first block: a 1x1 convolution, on means of 2x2 cells where the map is halved.

    Basic blocks always have the convolution, and carry the stride in it where the width stays.
    """
    if stride == 1 and inputs == outputs and not basic:
        return nn.Identity()
    if stride == 1 or (basic and inputs == outputs):
        return ConvNormAct(inputs, outputs, 1, stride, act=None)
    return nn.Sequential(nn.AvgPool2d(2, stride, ceil_mode=True), ConvNormAct(inputs, outputs, 1, act=None))


class RTDetrResNetBackbone(StagedBackbone):
    """RT-DETR's ResNet as a backbone: stages `stem` (stride 4) and `stage1` (4), `stage2` (8), … .

    Loads its own files, and those of RT-DETR and RT-DETRv2, of which it takes the backbone's part.
    """

    config_class = RTDetrResNetConfig
    base_model_prefix = "resnet"
    key_renames = ((r"^(model\.)?backbone\.model\.", ""),)
    explained_unexpected = {
        r"^model\.(?!backbone\.)|^(class_embed|bbox_embed)\.": "the detector around the backbone",
    }
    config: RTDetrResNetConfig

    def __init__(self, config: RTDetrResNetConfig) -> None:
        super().__init__(config)
        config = self.config
        shortcut = partial(mean_projection, basic=config.layer_type == "basic")
        self.embedder = RTDetrResNetEmbeddings(config.num_channels, config.embedding_size, config.hidden_act)
        self.encoder = ResNetEncoder(config, max(self.last_built_stage, 0), shortcut)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        start_fan_out(module)

    def describe_stages(self) -> Iterable[Stage]:
        """The stem and one stage per depth, every map rounded up to whole cells."""
        return describe(self.config, Grid().window(3, 2, 1).window(3, 1, 1).window(3, 1, 1).window(3, 2, 1))
