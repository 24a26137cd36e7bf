"""HGNetV2 (PaddlePaddle 2023): the backbone of D-FINE and of PaddlePaddle's models, and its classifiers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from vertebra.backbones.config import BackboneConfigMixin
from vertebra.backbones.dilation import dilate
from vertebra.backbones.hgnet_v2_layers import HGNetV2Embeddings, HGNetV2Stage, StageShape
from vertebra.backbones.layers import run_stages, start_normal
from vertebra.backbones.models import ImageClassifier, linear_head
from vertebra.backbones.patches import two
from vertebra.backbones.staged import StagedBackbone
from vertebra.model import PreTrainedModel
from vertebra.outputs import BaseModelOutput
from vertebra.stages import Grid, Stage

STAGE_KEYS = ("in_channels", "mid_channels", "num_blocks", "downsample", "light_block", "kernel_size", "numb_of_layers")
HEAD = {r"^fc\.": "a classification head"}
DETECTOR = {r"^model\.(?!backbone\.)|^(class_embed|bbox_embed)\.": "the detector around the backbone"}


class HGNetV2Config(BackboneConfigMixin):
    """Configuration of an HGNetV2; the defaults are HGNetV2-L.

    Args:
        num_channels: Channels of the input, also where the first of `stem_channels` says otherwise.
        hidden_act: Name of the stem's activation; that of the stages is always a ReLU.
        stem_channels: Channels of the image, inside the stem, and of its output.
        stem_strides: Strides of the stem's five convolutions, a number or `(vertical, horizontal)` each; 1 of the second and third.
        stage_in_channels: Channels of each stage's input: those of the output before.
        stage_mid_channels: Channels of each stage's layers.
        stage_out_channels: Channels of each stage's output.
        stage_num_blocks: Blocks in each stage.
        stage_downsample: Whether a stage begins with a strided convolution.
        stage_downsample_strides: Stride of that convolution, a number or `(vertical, horizontal)`.
        stage_light_block: Whether a stage's layers are a 1x1 and a depthwise convolution, instead of a full one.
        stage_kernel_size: Odd side of the layers' filters in each stage.
        stage_numb_of_layers: Layers in each block of a stage.
        use_learnable_affine_block: Whether a learned scale and shift follow every activation.
        initializer_range: Standard deviation of initial weights.

    `embedding_size`, `hidden_sizes` and `depths` follow from these, and are not what transformers' defaults say.
    A file of a whole D-FINE is read as well: the configuration of its backbone is taken.
    """

    model_type = "hgnet_v2"
    no_dilation = None
    held_by = {"d_fine": "backbone_config"}
    derived_keys = ("embedding_size", "hidden_sizes", "depths")

    num_channels: int = 3
    hidden_act: str = "relu"
    stem_channels: Sequence[int] = (3, 32, 48)
    stem_strides: Sequence[int | Sequence[int]] = (2, 1, 1, 2, 1)
    stage_in_channels: Sequence[int] = (48, 128, 512, 1024)
    stage_mid_channels: Sequence[int] = (48, 96, 192, 384)
    stage_out_channels: Sequence[int] = (128, 512, 1024, 2048)
    stage_num_blocks: Sequence[int] = (1, 1, 3, 1)
    stage_downsample: Sequence[bool] = (False, True, True, True)
    stage_downsample_strides: Sequence[int | Sequence[int]] = (2, 2, 2, 2)
    stage_light_block: Sequence[bool] = (False, False, True, True)
    stage_kernel_size: Sequence[int] = (3, 3, 5, 5)
    stage_numb_of_layers: Sequence[int] = (6, 6, 6, 6)
    use_learnable_affine_block: bool = False
    initializer_range: float = 0.02

    def _settle(self, given: dict[str, Any]) -> None:
        said = {name: given.pop(name) for name in self.derived_keys if name in given}
        super()._settle(given)
        for name, value in said.items():
            value, real = (list(each) if isinstance(each, Sequence) else each for each in (value, getattr(self, name)))
            if value != real:
                raise ValueError(
                    f"{name}={value} is not what the stem and the stages give, which is {real}; leave {name} out."
                )

    @property
    def embedding_size(self) -> int:
        """Channels of the stem's map."""
        return self.stem_channels[-1]

    @property
    def hidden_sizes(self) -> list[int]:
        """Channels of each stage's map."""
        return list(self.stage_out_channels)

    @property
    def depths(self) -> list[int]:
        """Blocks in each stage."""
        return list(self.stage_num_blocks)

    @property
    def stage_names(self) -> list[str]:
        """`stem`, `stage1`, `stage2`, …."""
        return ["stem", *(f"stage{number}" for number in range(1, len(self.stage_out_channels) + 1))]

    @property
    def stem_hops(self) -> list[tuple[int, int]]:
        """`(vertical, horizontal)` stride of each convolution of the stem."""
        return [two(stride) for stride in self.stem_strides]

    @property
    def shapes(self) -> list[StageShape]:
        """What each stage is made of."""
        strides = [
            two(stride) if halved else (1, 1)
            for stride, halved in zip(self.stage_downsample_strides, self.stage_downsample, strict=False)
        ]
        columns = (
            self.stage_in_channels,
            self.stage_mid_channels,
            self.stage_out_channels,
            self.stage_num_blocks,
            self.stage_numb_of_layers,
            self.stage_kernel_size,
            self.stage_light_block,
            self.stage_downsample,
            strides,
        )
        return [StageShape(*row) for row in zip(*columns, strict=True)]

    def validate(self) -> None:
        """Check that each stage has all it needs, and that its parts fit together. Raises ValueError."""
        super().validate()
        count = len(self.stage_out_channels)
        for name in (f"stage_{key}" for key in STAGE_KEYS):
            if len(getattr(self, name)) != count:
                raise ValueError(
                    f"{name}={getattr(self, name)} and stage_out_channels={self.stage_out_channels} must have one entry per "
                    f"stage each."
                )
        if len(self.stage_downsample_strides) < count:
            raise ValueError(
                f"stage_downsample_strides={self.stage_downsample_strides} must have an entry for each of {count} stages."
            )
        before = [self.stem_channels[-1], *self.stage_out_channels[:-1]]
        if list(self.stage_in_channels) != before:
            raise ValueError(
                f"stage_in_channels={self.stage_in_channels} must be the channels of what comes before, which are {before}."
            )
        if even := [side for side in self.stage_kernel_size if side % 2 == 0]:
            raise ValueError(f"stage_kernel_size={self.stage_kernel_size} holds {even[0]}; filters have odd sides.")
        if len(self.stem_strides) != 5 or self.stem_hops[1:3] != [(1, 1), (1, 1)]:
            raise ValueError(
                f"stem_strides={self.stem_strides} must be five strides, of which the second and third are 1: what they lead to "
                f"is joined with a pooling of stride 1."
            )
        hops = [*self.stem_hops, *(shape.stride for shape in self.shapes)]
        if self.output_stride is not None and (oblong := [hop for hop in hops if hop[0] != hop[1]]):
            raise ValueError(f"output_stride={self.output_stride} needs square strides, and one is {oblong[0]}.")

    def to_dict(self) -> dict[str, Any]:
        """Return everything as a dictionary; `stem_channels` begins with the channels that images have."""
        return super().to_dict() | {"stem_channels": [self.num_channels, *self.stem_channels[1:]]}


class HGNetV2Encoder(nn.Module):
    """The first `count` stages."""

    def __init__(self, config: HGNetV2Config, count: int) -> None:
        super().__init__()
        shapes = config.shapes[:count]
        self.stages = nn.ModuleList(HGNetV2Stage(shape, config.use_learnable_affine_block) for shape in shapes)
        if config.output_stride is not None:  # all strides are square then
            start = stem_grid(config).stride[0].numerator
            dilate(self.stages, [shape.stride[0] for shape in shapes], config.output_stride, start)


def embeddings(config: HGNetV2Config) -> HGNetV2Embeddings:
    """The stem of a configuration."""
    _, inner, width = config.stem_channels
    return HGNetV2Embeddings(
        config.num_channels, inner, width, config.stem_hops, config.hidden_act, config.use_learnable_affine_block
    )


def stem_grid(config: HGNetV2Config) -> Grid:
    """Where the cells of the stem lie; the pooling sees a part of what the two 2x2 convolutions beside it see."""
    first, second, third, fourth, fifth = config.stem_hops
    grid = Grid().window(3, first, 1).window(2, second).window(2, third)
    return grid.window(3, fourth, 1).window(1, fifth)


class HGNetV2Weights(PreTrainedModel):
    """What all HGNetV2 classes share about their weights."""

    config_class = HGNetV2Config
    base_model_prefix: ClassVar[str] = "hgnetv2"
    config: HGNetV2Config

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        start_normal(module, self.config.initializer_range)


class HGNetV2Backbone(HGNetV2Weights, StagedBackbone):
    """HGNetV2 as a backbone: stages `stem` (stride 4) and `stage1` (4), `stage2` (8), … .

    Loads its own files, and those of D-FINE, of which it takes the backbone's part.
    """

    key_renames = ((r"^(model\.)?backbone\.model\.", ""),)
    explained_unexpected = {**HEAD, **DETECTOR}
    config: HGNetV2Config

    def __init__(self, config: HGNetV2Config) -> None:
        super().__init__(config)
        self.embedder = embeddings(self.config)
        self.encoder = HGNetV2Encoder(self.config, max(self.last_built_stage, 0))
        self.post_init()

    def describe_stages(self) -> Iterable[Stage]:
        """The stem and the stages, every map rounded up to whole cells."""
        grid = stem_grid(self.config)
        yield grid.stage("stem", 0, self.config.embedding_size)
        for index, shape in enumerate(self.config.shapes, start=1):
            grid = grid.window(3, shape.stride, 1)
            yield grid.stage(self.config.stage_names[index], index, shape.outputs)


class HGNetV2ForImageClassification(HGNetV2Weights, ImageClassifier):
    """HGNetV2 with a linear classifier, `fc`, on the mean of the last map."""

    explained_missing = {r"^fc\.": "the head is trained on the new task"}

    def __init__(self, config: HGNetV2Config) -> None:
        super().__init__(config)
        self.embedder = embeddings(config)
        self.encoder = HGNetV2Encoder(config, len(config.shapes))
        self.fc = linear_head(config.hidden_sizes[-1], config.num_labels)
        self.post_init()

    def classify(
        self, pixel_values: Tensor, output_hidden_states: bool, output_attentions: bool
    ) -> tuple[Tensor, BaseModelOutput]:
        """Compute the logits `(b, num_labels)`, and the states of all stages on request."""
        states = run_stages(self.encoder.stages, self.embedder(pixel_values))
        base = BaseModelOutput(hidden_states=tuple(states) if output_hidden_states else None)
        return self.fc(states[-1].mean(dim=(2, 3))), base
