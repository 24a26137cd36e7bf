"""ResNet (He et al. 2015), v1.5 and v1: checkpoints of the `microsoft/resnet-*` kind."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from torch import Tensor, nn

from vertebra.backbones.convolutions import (
    ConvNormAct,
    ResNetEncoder,
    ResNetShape,
    describe,
    projection,
    start_fan_out,
)
from vertebra.backbones.models import ImageClassifier, linear_head
from vertebra.backbones.staged import StagedBackbone, StagedModel
from vertebra.model import PreTrainedModel
from vertebra.stages import Grid, Stage

HEAD = {r"^(resnet\.)?classifier\.": "a classification head"}


class ResNetConfig(ResNetShape):
    """Configuration of a ResNet; the keys and defaults are those of `ResNetShape`."""

    model_type = "resnet"


class ResNetEmbeddings(nn.Module):
    """The stem: a 7x7 convolution and a max pooling, stride 2 each."""

    def __init__(self, channels: int, width: int, act: str) -> None:
        super().__init__()
        self.embedder = ConvNormAct(channels, width, 7, 2, act)
        self.pooler = nn.MaxPool2d(3, 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, channels, h, w)` to `(b, width, h / 4, w / 4)`."""
        return self.pooler(self.embedder(x))


class ResNetWeights(PreTrainedModel):
    """What all ResNet classes share about their weights."""

    config_class = ResNetConfig
    base_model_prefix: ClassVar[str] = "resnet"
    explained_unexpected = HEAD

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        start_fan_out(module)


class ResNetBackbone(ResNetWeights, StagedBackbone):
    """ResNet as a backbone: stages `stem` (stride 4) and `stage1` (4), `stage2` (8), … .

    Index 0 of timm's ResNet is `act1`, half way through the stem at stride 2; from 1 on indices mean the same.
    """

    config: ResNetConfig

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__(config)
        config = self.config
        self.embedder = ResNetEmbeddings(config.num_channels, config.embedding_size, config.hidden_act)
        self.encoder = ResNetEncoder(config, max(self.last_built_stage, 0), projection)
        self.post_init()

    def describe_stages(self) -> Iterable[Stage]:
        """The stem and one stage per depth, every map rounded up to whole cells."""
        return describe(self.config, Grid().window(7, 2, 3).window(3, 2, 1))


class ResNetModel(ResNetWeights, StagedModel):
    """ResNet without a head."""

    config: ResNetConfig

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__(config)
        self.embedder = ResNetEmbeddings(config.num_channels, config.embedding_size, config.hidden_act)
        self.encoder = ResNetEncoder(config, len(config.depths), projection)
        self.pooler = nn.AdaptiveAvgPool2d((1, 1))
        self.post_init()


class ResNetForImageClassification(ResNetWeights, ImageClassifier):
    """ResNet with a linear classifier on the mean of the last map."""

    explained_unexpected = {}

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__(config)
        self.resnet = ResNetModel(config)
        self.classifier = nn.Sequential(nn.Flatten(), linear_head(config.hidden_sizes[-1], config.num_labels))
        self.post_init()
