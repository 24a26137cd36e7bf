"""Pyramid vision transformers: what the configurations, backbones and models of PVT v2 and SegFormer share.

A family says where the parts of its stages stand (`patches_path`, `blocks_path`, `norm_path`) and those of its attention
(`spelling`); its configuration says what they are like: `eps`, `biased`, `linear`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

from torch import Tensor, nn

from vertebra.backbones.base import Backbone
from vertebra.backbones.config import BackboneConfigMixin
from vertebra.backbones.layers import drop_path_rates
from vertebra.backbones.models import ImageClassifier, ImageModel, linear_head
from vertebra.backbones.patches import two
from vertebra.backbones.pvt_layers import MixMlp, OverlappingPatches, PyramidBlock, ReducedAttention, Spelling
from vertebra.backbones.sizes import Size, SizeError
from vertebra.model import PreTrainedModel
from vertebra.outputs import BackboneOutput, BaseModelOutput
from vertebra.placing import place
from vertebra.stages import Grid, Stage

HEAD = {r"^classifier\.": "a classification head"}
LISTS = ("hidden_sizes", "patch_sizes", "strides", "sr_ratios", "num_attention_heads", "mlp_ratios")


class PyramidConfig(BackboneConfigMixin):
    """What configurations of pyramid vision transformers share; families declare the keys."""

    no_dilation = (
        "a pyramid vision transformer attends to its map reduced by a factor that its weights know, and in linear attention to a "
        "map of one size; a dilated map has more cells in the same place."
    )

    if TYPE_CHECKING:
        num_channels: int
        num_encoder_blocks: int
        depths: Sequence[int]
        sr_ratios: Sequence[int]
        hidden_sizes: Sequence[int]
        patch_sizes: Sequence[Any]
        strides: Sequence[Any]
        num_attention_heads: Sequence[int]
        mlp_ratios: Sequence[float]
        hidden_act: str
        hidden_dropout_prob: float
        attention_probs_dropout_prob: float
        initializer_range: float
        drop_path_rate: float

    @property
    def stage_names(self) -> list[str]:
        """`stage1`, `stage2`, …; there is no stem."""
        return [f"stage{number}" for number in range(1, len(self.depths) + 1)]

    def window(self, index: int) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """Kernel, stride and padding of the convolution that leads to the stage `index`."""
        kernel = two(self.patch_sizes[index])
        return kernel, two(self.strides[index]), (kernel[0] // 2, kernel[1] // 2)

    @property
    def eps(self) -> float:
        """Of all norms."""
        return 1e-5

    @property
    def biased(self) -> bool:
        """Whether queries, keys and values have a bias."""
        return True

    @property
    def linear(self) -> bool:
        """Whether attention is to 7x7 cells whatever the size of a map."""
        return False

    def reduction(self, index: int) -> int:
        """Side of the squares of the stage `index` that become one cell to attend to."""
        return 1 if self.linear else self.sr_ratios[index]

    def maps(self, height: int, width: int, count: int) -> list[Size]:
        """Map size of each of the first `count` stages.

        Raises:
            ValueError: a map smaller than the square that its stage's attention makes one cell of.
        """
        sizes: list[Size] = []
        rows, columns = height, width
        for index in range(count):
            kernel, stride, padding = self.window(index)
            rows = (rows + 2 * padding[0] - kernel[0]) // stride[0] + 1
            columns = (columns + 2 * padding[1] - kernel[1]) // stride[1] + 1
            least = self.reduction(index)
            if min(rows, columns) < least:
                raise ValueError(
                    f"An image of {height}x{width} has a map of {rows}x{columns} cells at {self.stage_names[index]!r}, whose "
                    f"attention makes one cell of each {least}x{least}."
                )
            sizes.append((rows, columns))
        return sizes

    def least_side(self, axis: int, count: int) -> int:
        """The shortest side of an image that the first `count` stages run with."""
        side = 1
        for index in reversed(range(count)):
            side = max(side, self.reduction(index))
            kernel, stride, padding = (pair[axis] for pair in self.window(index))
            side = max(1, (side - 1) * stride + kernel - 2 * padding)
        return side

    def validate(self) -> None:
        """Check that all stages are described, and that heads share channels equally. Raises ValueError."""
        super().validate()
        stages = len(self.depths)
        if self.num_encoder_blocks != stages:
            raise ValueError(
                f"num_encoder_blocks={self.num_encoder_blocks} and depths={self.depths} do not agree: give "
                f"num_encoder_blocks={stages}."
            )
        for name in LISTS:
            if len(getattr(self, name)) != stages:
                raise ValueError(
                    f"{name}={getattr(self, name)} must have one entry per stage, as depths={self.depths} has."
                )
        for width, heads in zip(self.hidden_sizes, self.num_attention_heads, strict=True):
            if width % heads:
                raise ValueError(
                    f"hidden_sizes={self.hidden_sizes} and num_attention_heads={self.num_attention_heads}: {width} channels cannot "
                    f"be shared equally by {heads} heads."
                )


class Pyramid(PreTrainedModel):
    """What the classes of a family share: the stages, and how they run."""

    config: Any
    patches_path: ClassVar[str]
    blocks_path: ClassVar[str]
    norm_path: ClassVar[str]
    spelling: ClassVar[Spelling]

    def build(self, count: int) -> None:
        """Make the first `count` stages."""
        config = self.config
        widths = [config.num_channels, *config.hidden_sizes]
        rates = drop_path_rates(config.drop_path_rate, list(config.depths))
        for index in range(count):
            kernel, stride, _ = config.window(index)
            patches = OverlappingPatches(widths[index], widths[index + 1], kernel, stride, config.eps)
            place(self, self.patches_path.format(index), patches)
            blocks = nn.ModuleList(self.make_block(index, rate) for rate in rates[index])
            place(self, self.blocks_path.format(index), blocks)
            place(self, self.norm_path.format(index), nn.LayerNorm(widths[index + 1], eps=config.eps))

    def make_block(self, index: int, drop_path: float) -> PyramidBlock:
        """A block of the stage `index`."""
        config, width = self.config, self.config.hidden_sizes[index]
        attention = ReducedAttention(
            self.spelling,
            width,
            config.num_attention_heads[index],
            config.reduction(index),
            pooled=config.linear,
            qkv_bias=config.biased,
            eps=config.eps,
            dropout=config.hidden_dropout_prob,
            attention_dropout=config.attention_probs_dropout_prob,
        )
        hidden = int(width * config.mlp_ratios[index])
        mlp = MixMlp(width, hidden, config.hidden_act, config.hidden_dropout_prob, rectify=config.linear)
        return PyramidBlock(attention, mlp, width, config.eps, drop_path)

    def run(self, x: Tensor, count: int, weights: bool) -> tuple[list[Tensor], tuple[Tensor, ...] | None]:
        """`(b, c, h, w)` pixels to the maps of the first `count` stages and, on request, the weights of all of their blocks.

        Raises:
            ValueError: a map smaller than what its stage's attention makes one cell of; names the nearest size that runs.
        """
        height, width = x.shape[-2:]
        try:
            self.config.maps(height, width, count)
        except ValueError as error:
            rows, columns = (self.config.least_side(axis, count) for axis in (0, 1))
            raise SizeError(
                f"{error} The nearest size that runs is {max(height, rows)}x{max(width, columns)}."
            ) from None
        states: list[Tensor] = []
        attentions = []
        for index in range(count):
            y = self.get_submodule(self.patches_path.format(index))(states[-1] if states else x)  # (b, h, w, c)
            for block in self.get_submodule(self.blocks_path.format(index)).children():
                y, attention = block(y, weights)
                attentions.append(attention)
            states.append(self.get_submodule(self.norm_path.format(index))(y).permute(0, 3, 1, 2))
        return states, tuple(attentions) if weights else None


class PyramidBackbone(Pyramid, Backbone):
    """A pyramid vision transformer as a backbone: stages `stage1` (stride 4), `stage2` (8), … , and no stem.

    Each stage ends with a norm of its own, which the next stage builds on, so maps have no other. Attention weights come from every
    block, in one flat tuple.
    """

    config: PyramidConfig
    explained_unexpected = HEAD

    def __init__(self, config: PyramidConfig) -> None:
        super().__init__(config)
        self.build(self.last_built_stage + 1)
        self.post_init()

    def describe_stages(self) -> Iterable[Stage]:
        """One stage per depth."""
        grid = Grid()
        for index, width in enumerate(self.config.hidden_sizes):
            grid = grid.window(*self.config.window(index))
            yield grid.stage(self.config.stage_names[index], index, width)

    @property
    def size_divisor(self) -> int:
        """Sizes that are multiples of it are divided by every computed stage, and by its attention, without a remainder."""
        stages = self.stages[: self.last_stage + 1]
        sides = [hop.numerator * self.config.reduction(stage.index) for stage in stages for hop in stage.stride]
        return math.lcm(*sides) if sides else 1

    def map_sizes(self, height: int, width: int) -> list[Size]:
        """Map size of every stage up to the last selected one.

        Raises:
            ValueError: a map smaller than the square that its stage's attention makes one cell of.
        """
        return self.config.maps(height, width, self.last_stage + 1)

    def forward_features(
        self, pixel_values: Tensor, *, output_hidden_states: bool, output_attentions: bool
    ) -> BackboneOutput:
        """Run the stages needed."""
        last = self.final_stage(output_hidden_states)
        states, attentions = self.run(pixel_values, last + 1, output_attentions)
        return BackboneOutput(
            feature_maps=tuple(states[index] for index in self.selected),
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=attentions,
        )


class PyramidModel(Pyramid, ImageModel):
    """A pyramid vision transformer without a head."""

    explained_unexpected = HEAD

    def __init__(self, config: PyramidConfig) -> None:
        super().__init__(config)
        self.build(len(config.depths))
        self.post_init()

    def encode(self, pixel_values: Tensor, output_hidden_states: bool, output_attentions: bool) -> BaseModelOutput:
        """Return the last map `(b, c, h, w)` and, on request, the maps of all stages and the attention weights of all blocks."""
        states, attentions = self.run(pixel_values, len(self.config.depths), output_attentions)
        return BaseModelOutput(
            last_hidden_state=states[-1],
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=attentions,
        )


class PyramidClassifier(Pyramid, ImageClassifier):
    """A pyramid vision transformer with a linear classifier on the mean of the last map. A family names `base_class`."""

    base_class: ClassVar[type[PyramidModel]]

    def __init__(self, config: PyramidConfig) -> None:
        super().__init__(config)
        self.add_module(self.base_model_prefix, self.base_class(config))
        self.classifier = linear_head(config.hidden_sizes[-1], config.num_labels)
        self.post_init()

    def classify(
        self, pixel_values: Tensor, output_hidden_states: bool, output_attentions: bool
    ) -> tuple[Tensor, BaseModelOutput]:
        """Compute the logits `(b, num_labels)`, and the base model's output."""
        model: Any = self.get_submodule(self.base_model_prefix)
        base: BaseModelOutput = model(pixel_values, output_hidden_states, output_attentions, return_dict=True)
        last = cast(Tensor, base.last_hidden_state)
        return self.classifier(last.flatten(2).mean(2) if last.ndim == 4 else last.mean(1)), base
