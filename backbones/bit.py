"""BiT (Kolesnikov et al. 2019): ResNets with group norms and standardised weights, `google/bit-50` and those inside hybrid ViTs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor, nn

from vertebra.backbones.bit_layers import REDUCTION, BitBlock, BitEmbeddings, Parts, stepped
from vertebra.backbones.convolutions import ResidualStage, start_fan_out
from vertebra.backbones.dilation import dilate
from vertebra.backbones.layers import drop_path_rates, one_size
from vertebra.backbones.models import ImageClassifier, linear_head
from vertebra.backbones.sizes import Size
from vertebra.backbones.staged import StagedBackbone, StagedConfig, StagedModel
from vertebra.errors import listing
from vertebra.model import PreTrainedModel
from vertebra.outputs import BackboneOutput
from vertebra.stages import Grid, Stage

LAYER_TYPES = ("preactivation", "bottleneck")
HEAD = {r"^(bit\.)?classifier\.": "a classification head"}
FINAL_NORM = r"^(bit\.)?norm\."
DEPENDS = "its padding depends on the image size"


class BitConfig(StagedConfig):
    """Configuration of a BiT; the defaults are BiT-50.

    Args:
        num_channels: Channels of the input.
        embedding_size: Channels of the stem.
        hidden_sizes: Channels of each stage's output, before `width_factor`.
        depths: Blocks in each stage.
        layer_type: `"preactivation"` (norms before convolutions) or `"bottleneck"` (after).
        hidden_act: Name of the activation.
        global_padding: None pads strided convolutions alike on all sides; `"SAME"` as TensorFlow does, by the size of the map.
        num_groups: Groups of channels that are normed together.
        drop_path_rate: Drop path of the last block; it grows linearly from 0 at the first.
        embedding_dynamic_padding: Whether the stem's pooling is padded by the size of the map.
        width_factor: Times how much all stages are wider; results are rounded to multiples of 8.

    `output_stride` stands at the top of files, since transformers has it too, and is 32 unless said otherwise.
    transformers takes strides away without dilating the layers of `"preactivation"`; here all dilate.
    """

    model_type = "bit"
    no_dilation = None
    own_keys = ("prune", "freeze", "size_policy")

    num_channels: int = 3
    embedding_size: int = 64
    hidden_sizes: Sequence[int] = (256, 512, 1024, 2048)
    depths: Sequence[int] = (3, 4, 6, 3)
    layer_type: str = "preactivation"
    hidden_act: str = "relu"
    global_padding: str | None = None
    num_groups: int = 32
    drop_path_rate: float = 0.0
    embedding_dynamic_padding: bool = False
    width_factor: int = 1

    def _settle(self, given: dict[str, Any]) -> None:
        if isinstance(self.global_padding, str):
            self.global_padding = self.global_padding.upper()
        if self.output_stride is None:
            self.output_stride = 32
        super()._settle(given)

    @property
    def widths(self) -> list[int]:
        """Channels of each stage's output."""
        return [stepped(width * self.width_factor) for width in self.hidden_sizes]

    @property
    def strides(self) -> list[int]:
        """Stride of each stage relative to the one before."""
        return [1, *(2 for _ in self.depths[1:])]

    @property
    def parts(self) -> Parts:
        """How convolutions and norms are made."""
        same = self.global_padding == "SAME"
        return Parts(self.layer_type == "preactivation", self.hidden_act, self.num_groups, same)

    @property
    def moving(self) -> bool:
        """Whether padding depends on the image size, so that cells have no fixed place."""
        return self.parts.same or self.embedding_dynamic_padding

    def validate(self) -> None:
        """Check the layer type, the padding, and that groups divide all widths. Raises ValueError."""
        super().validate()
        if self.layer_type not in LAYER_TYPES:
            raise ValueError(f"layer_type={self.layer_type!r} must be one of {listing(LAYER_TYPES)}.")
        if self.global_padding == "VALID":
            raise ValueError(
                "global_padding='VALID' makes 3x3 convolutions shrink the map beside a shortcut that does not, and no block "
                "can add the two; it is None or 'SAME'."
            )
        if self.global_padding not in (None, "SAME"):
            raise ValueError(f"global_padding={self.global_padding!r} must be None or 'SAME'.")
        for width in (self.embedding_size, *self.widths, *(stepped(width / REDUCTION) for width in self.widths)):
            if width % self.num_groups:
                raise ValueError(
                    f"num_groups={self.num_groups} does not divide {width} channels. Widths are embedding_size="
                    f"{self.embedding_size}, {self.widths} of the stages and a quarter of these inside their blocks."
                )


class BitEncoder(nn.Module):
    """The first `count` stages."""

    def __init__(self, config: BitConfig, count: int) -> None:
        super().__init__()
        rates = drop_path_rates(config.drop_path_rate, list(config.depths))[:count]

        def blocks(inputs: int, outputs: int, stride: int, drop_paths: list[float]) -> Iterable[nn.Module]:
            yield BitBlock(config.parts, inputs, outputs, stride, drop_paths[0], first=True)
            for rate in drop_paths[1:]:
                yield BitBlock(config.parts, outputs, outputs, 1, rate, first=False)

        shapes = zip([config.embedding_size, *config.widths], config.widths, config.strides, rates, strict=False)
        self.stages = nn.ModuleList(ResidualStage(blocks(*shape)) for shape in shapes)
        dilate(self.stages, config.strides, config.output_stride, start=4)


def embeddings(config: BitConfig) -> BitEmbeddings:
    """The stem of a configuration."""
    return BitEmbeddings(
        config.parts, config.num_channels, config.embedding_size, dynamic=config.embedding_dynamic_padding
    )


class BitTrunk(nn.Module):
    """The stem and the first `count` stages."""

    def __init__(self, config: BitConfig, count: int) -> None:
        super().__init__()
        self.embedder = embeddings(config)
        self.encoder = BitEncoder(config, count)


class BitWeights(PreTrainedModel):
    """What all BiT classes share about their weights."""

    config_class = BitConfig
    base_model_prefix: ClassVar[str] = "bit"

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        start_fan_out(module)


class BitBackbone(BitWeights, StagedBackbone):
    """BiT as a backbone: stages `stem` (stride 4) and `stage1` (4), `stage2` (8), … . There is no final norm: no map passes it.

    With `global_padding="SAME"` images need five pixels a side, unless `embedding_dynamic_padding` is on.
    """

    config: BitConfig
    explained_unexpected = {**HEAD, FINAL_NORM: "the final norm of the model without a head"}

    def __init__(self, config: BitConfig) -> None:
        super().__init__(config)
        self.bit = BitTrunk(self.config, max(self.last_built_stage, 0))
        self.post_init()

    @property
    def trunk(self) -> BitTrunk:
        """What holds `embedder` and `encoder`."""
        return self.bit

    def describe_stages(self) -> Iterable[Stage]:
        """The stem and one stage per depth; where padding goes by the size of a map, cells have no fixed place."""
        config = self.config
        grid = Grid().window(7, 2, 3).window(3, 2, 1)
        for index, (width, stride) in enumerate(
            zip([config.embedding_size, *config.widths], [1, *config.strides], strict=True)
        ):
            grid = grid.window(3, stride, 1)
            stage = grid.stage(config.stage_names[index], index, width)
            yield replace(stage, offset=None, offset_note=DEPENDS) if config.moving else stage

    def map_sizes(self, height: int, width: int) -> list[Size]:
        """Map size of every stage up to the last selected one, rounded up at every stage after the stem.

        Raises:
            ValueError: an image smaller than the window of a pooling that is not padded.
        """
        rows, columns = self.bit.embedder.cells(height), self.bit.embedder.cells(width)
        if min(rows, columns) < 1:
            raise ValueError(f"An image of {height}x{width} is smaller than the stem's pooling, which is not padded.")
        start = self.stages[0].stride
        steps = [
            (stage.stride[0] / start[0], stage.stride[1] / start[1]) for stage in self.stages[: self.last_stage + 1]
        ]
        return [(-int(-rows // down), -int(-columns // right)) for down, right in steps]

    def forward_features(
        self, pixel_values: Tensor, *, output_hidden_states: bool, output_attentions: bool
    ) -> BackboneOutput:
        """Run the stem and the stages needed."""
        if self.config.moving:
            pixel_values = one_size(pixel_values)
            height, width = pixel_values.shape[-2:]
            if min(self.bit.embedder.cells(height), self.bit.embedder.cells(width)) < 1:
                self.output_shapes(height, width)  # raises, with a size that works
        return super().forward_features(
            pixel_values, output_hidden_states=output_hidden_states, output_attentions=output_attentions
        )


class BitModel(BitWeights, StagedModel):
    """BiT without a head."""

    config: BitConfig
    explained_missing = {r"^norm\.": "files of backbones have no final norm"}
    explained_unexpected = HEAD

    def __init__(self, config: BitConfig) -> None:
        super().__init__(config)
        self.embedder = embeddings(config)
        self.encoder = BitEncoder(config, len(config.depths))
        self.norm = config.parts.norm(config.widths[-1]) if config.parts.before else nn.Identity()
        self.pooler = nn.AdaptiveAvgPool2d((1, 1))
        self.post_init()

    def finish(self, x: Tensor) -> Tensor:
        """The norm after the last stage, which `"preactivation"` has."""
        return self.norm(x)


class BitForImageClassification(BitWeights, ImageClassifier):
    """BiT with a linear classifier on the mean of the last map."""

    explained_missing = {
        **ImageClassifier.explained_missing,
        r"^bit\.norm\.": "files of backbones of vertebra have no final norm",
    }

    def __init__(self, config: BitConfig) -> None:
        super().__init__(config)
        self.bit = BitModel(config)
        self.classifier = nn.Sequential(nn.Flatten(), linear_head(config.widths[-1], config.num_labels))
        self.post_init()
