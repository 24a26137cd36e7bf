"""ResNet (He et al. 2015), v1.5 and v1: checkpoints of the `microsoft/resnet-*` kind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from torch import Tensor, nn

from vertebra.activations import activation
from vertebra.backbones.base import Backbone
from vertebra.backbones.config import BackboneConfigMixin
from vertebra.backbones.dilation import dilate
from vertebra.backbones.models import ImageClassifier, ImageModel, linear_head
from vertebra.errors import listing
from vertebra.model import PreTrainedModel
from vertebra.outputs import BackboneOutput, BaseModelOutput
from vertebra.stages import Grid, Stage

LAYER_TYPES = ("basic", "bottleneck")
REDUCTION = 4
HEAD = {r"^(resnet\.)?classifier\.": "a classification head"}


class ResNetConfig(BackboneConfigMixin):
    """Configuration of a ResNet; the defaults are ResNet-50.

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

    model_type = "resnet"
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
    def stage_names(self) -> list[str]:
        """`stem`, `stage1`, `stage2`, …."""
        return ["stem", *(f"stage{number}" for number in range(1, len(self.depths) + 1))]

    def validate(self) -> None:
        """Check the layer type and that there are as many widths as depths. Raises ValueError."""
        super().validate()
        if self.layer_type not in LAYER_TYPES:
            raise ValueError(f"layer_type={self.layer_type!r} must be one of {listing(LAYER_TYPES)}.")
        if len(self.hidden_sizes) != len(self.depths):
            raise ValueError(
                f"hidden_sizes={self.hidden_sizes} and depths={self.depths} must have one entry per stage each."
            )


class ConvNormAct(nn.Module):
    """Convolution without bias, batch norm, activation (none for None); "same" padding for odd kernels."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, act: str | None = "relu") -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.normalization = nn.BatchNorm2d(outputs)
        self.activation = nn.Identity() if act is None else activation(act)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, inputs, h, w)` to `(b, outputs, h / stride, w / stride)`."""
        return self.activation(self.normalization(self.convolution(x)))


class ResNetEmbeddings(nn.Module):
    """The stem: a 7x7 convolution and a max pooling, stride 2 each."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.embedder = ConvNormAct(config.num_channels, config.embedding_size, 7, 2, config.hidden_act)
        self.pooler = nn.MaxPool2d(3, 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, c, h, w)` to `(b, embedding_size, h / 4, w / 4)`."""
        return self.pooler(self.embedder(x))


class ResNetBlock(nn.Module):
    """A residual block of the convolutions given; the shortcut is a 1x1 convolution where the shape changes.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        stride: Stride of the whole block.
        layer: The residual branch.
        act: Activation after the sum.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, layer: nn.Sequential, act: str) -> None:
        super().__init__()
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else ConvNormAct(inputs, outputs, 1, stride, act=None)
        self.layer = layer
        self.activation = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, inputs, h, w)` to `(b, outputs, h / stride, w / stride)`."""
        y = self.layer(x)
        y += self.shortcut(x)
        return self.activation(y)


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


class ResNetStage(nn.Module):
    """A chain of blocks; the first one changes width and stride."""

    def __init__(self, config: ResNetConfig, inputs: int, outputs: int, depth: int, stride: int) -> None:
        super().__init__()

        def block(inputs: int, stride: int) -> ResNetBlock:
            if config.layer_type == "basic":
                layer = basic_layer(inputs, outputs, stride)
            else:
                layer = bottleneck_layer(inputs, outputs, stride, config.downsample_in_bottleneck)
            return ResNetBlock(inputs, outputs, stride, layer, config.hidden_act)

        self.layers = nn.Sequential(block(inputs, stride), *(block(outputs, 1) for _ in range(depth - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Run the blocks."""
        return self.layers(x)


class ResNetEncoder(nn.Module):
    """The first `count` stages."""

    def __init__(self, config: ResNetConfig, count: int) -> None:
        super().__init__()
        widths = [config.embedding_size, *config.hidden_sizes]
        strides = stage_strides(config)
        self.stages = nn.ModuleList(
            ResNetStage(config, widths[index], widths[index + 1], config.depths[index], strides[index])
            for index in range(count)
        )
        dilate(self.stages, strides, config.output_stride, start=4)


def stage_strides(config: ResNetConfig) -> list[int]:
    """Stride of each stage relative to the one before."""
    return [2 if config.downsample_in_first_stage else 1, *(2 for _ in config.depths[1:])]


class ResNetWeights(PreTrainedModel):
    """What all ResNet classes share about their weights."""

    config_class = ResNetConfig
    base_model_prefix: ClassVar[str] = "resnet"
    explained_unexpected = HEAD

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class ResNetBackbone(ResNetWeights, Backbone):
    """ResNet as a backbone: stages `stem` (stride 4) and `stage1` (4), `stage2` (8), … ."""

    has_attentions = False
    config: ResNetConfig

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__(config)
        self.embedder = ResNetEmbeddings(self.config)
        self.encoder = ResNetEncoder(self.config, max(self.last_built_stage, 0))
        self.post_init()

    def describe_stages(self) -> Iterable[Stage]:
        """The stem and one stage per depth, every map rounded up to whole cells."""
        config = self.config
        grid = Grid().window(7, 2, 3).window(3, 2, 1)
        yield grid.stage("stem", 0, config.embedding_size)
        for index, (width, stride) in enumerate(zip(config.hidden_sizes, stage_strides(config), strict=True), start=1):
            grid = grid.window(3, stride, 1)
            yield grid.stage(config.stage_names[index], index, width)

    def forward_features(
        self, pixel_values: Tensor, *, output_hidden_states: bool, output_attentions: bool
    ) -> BackboneOutput:
        """Run the stem and the stages needed."""
        states = [self.embedder(pixel_values)]
        for stage in self.encoder.stages[: self.final_stage(output_hidden_states)]:
            states.append(stage(states[-1]))
        return BackboneOutput(
            feature_maps=tuple(states[index] for index in self.selected),
            hidden_states=tuple(states) if output_hidden_states else None,
        )


class ResNetModel(ResNetWeights, ImageModel):
    """ResNet without a head."""

    config: ResNetConfig

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__(config)
        self.embedder = ResNetEmbeddings(config)
        self.encoder = ResNetEncoder(config, len(config.depths))
        self.pooler = nn.AdaptiveAvgPool2d((1, 1))
        self.post_init()

    def encode(self, pixel_values: Tensor, output_hidden_states: bool, output_attentions: bool) -> BaseModelOutput:
        """Return the last map `(b, c, h, w)`, its mean `(b, c, 1, 1)` and, on request, the states of all stages."""
        states = [self.embedder(pixel_values)]
        for stage in self.encoder.stages:
            states.append(stage(states[-1]))
        return BaseModelOutput(
            last_hidden_state=states[-1],
            pooler_output=self.pooler(states[-1]),
            hidden_states=tuple(states) if output_hidden_states else None,
        )


class ResNetForImageClassification(ResNetWeights, ImageClassifier):
    """ResNet with a linear classifier on the mean of the last map."""

    explained_unexpected = {}

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__(config)
        self.resnet = ResNetModel(config)
        self.classifier = nn.Sequential(nn.Flatten(), linear_head(config.hidden_sizes[-1], config.num_labels))
        self.post_init()
