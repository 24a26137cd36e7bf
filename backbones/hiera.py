"""Hiera (Ryali et al. 2023): checkpoints of the `facebook/hiera-*-hf` kind."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from vertebra.backbones.base import Backbone
from vertebra.backbones.config import BackboneConfigMixin
from vertebra.backbones.hiera_layers import HieraBlock, HieraEmbeddings, HieraPooler, Layer
from vertebra.backbones.layers import drop_path_rates
from vertebra.backbones.models import ImageClassifier, ImageModel, linear_head
from vertebra.backbones.patches import two
from vertebra.backbones.sizes import Size, SizeError
from vertebra.backbones.windows import from_unrolled, unroll
from vertebra.model import PreTrainedModel
from vertebra.outputs import BackboneOutput, BaseModelOutput
from vertebra.stages import Grid, Stage

HEAD = {r"^classifier\.": "a classification head"}
PRETRAINING = {r"^(decoder|multiscale_fusion|encoder_norm)\.": "used by masked image modelling alone"}
MAP_NORMS = {r"^hidden_states_norms\.": "norms on a backbone's maps"}
POOLER = {r"^(hiera\.)?pooler\.": "files of backbones and of masked image modelling have no pooler"}


class HieraConfig(BackboneConfigMixin):
    """Configuration of a Hiera; the defaults are Hiera-B.

    Args:
        embed_dim: Channels of the stem.
        image_size: `(height, width)` that positions are for; they are resized to any other.
        patch_size: Kernel of the convolution that makes patches, `(height, width)`.
        patch_stride: Its stride.
        patch_padding: Its padding.
        mlp_ratio: Width of the hidden layer of an MLP over that of its input.
        depths: Layers in each stage.
        num_heads: Attention heads in each stage.
        embed_dim_multiplier: By how much each stage is wider than the one before.
        num_query_pool: How many stages begin by making the map smaller, from the second on.
        query_stride: By how much, `(vertical, horizontal)`.
        masked_unit_size: Cells of the stem in a mask unit, `(rows, columns)`: what attends to itself in early stages.
        masked_unit_attention: Whether each stage attends inside mask units only.
        drop_path_rate: Drop path of the last layer; it grows linearly from 0 at the first.
        num_channels: Channels of the input.
        hidden_act: Name of the activation.
        initializer_range: Standard deviation of initial weights, and initial bias.
        layer_norm_init: Initial weight of norms.
        layer_norm_eps: Epsilon of the layers' norms.
        decoder_hidden_size: Kept for masked image modelling, as are those that follow; unused here.
        decoder_depth: Kept.
        decoder_num_heads: Kept.
        normalize_pixel_loss: Kept.
        mask_ratio: Kept.
        apply_layernorm: Whether a backbone's maps pass norms of their own, which only its own files hold.
    """

    model_type = "hiera"
    no_dilation = "Hiera makes its map smaller by pooling inside mask units; there is no stride to dilate."
    attribute_map = {"num_hidden_layers": "num_layers"}
    derived_keys = ("hidden_size", "num_layers")
    own_keys = (*BackboneConfigMixin.own_keys, "apply_layernorm")

    embed_dim: int = 96
    image_size: int | Sequence[int] = (224, 224)
    patch_size: Sequence[int] = (7, 7)
    patch_stride: Sequence[int] = (4, 4)
    patch_padding: Sequence[int] = (3, 3)
    mlp_ratio: float = 4.0
    depths: Sequence[int] = (2, 3, 16, 3)
    num_heads: Sequence[int] = (1, 2, 4, 8)
    embed_dim_multiplier: float = 2.0
    num_query_pool: int = 3
    query_stride: Sequence[int] = (2, 2)
    masked_unit_size: Sequence[int] = (8, 8)
    masked_unit_attention: Sequence[bool] = (True, True, False, False)
    drop_path_rate: float = 0.0
    num_channels: int = 3
    hidden_act: str = "gelu"
    initializer_range: float = 0.02
    layer_norm_init: float = 1.0
    layer_norm_eps: float = 1e-6
    decoder_hidden_size: int | None = None
    decoder_depth: int | None = None
    decoder_num_heads: int | None = None
    normalize_pixel_loss: bool | None = True
    mask_ratio: float = 0.6
    apply_layernorm: bool = True

    @property
    def stage_names(self) -> list[str]:
        """`stem`, `stage1`, `stage2`, …."""
        return ["stem", *(f"stage{number}" for number in range(1, len(self.depths) + 1))]

    @property
    def num_layers(self) -> int:
        """Number of stages after the stem."""
        return len(self.depths)

    @property
    def hidden_size(self) -> int:
        """Channels of the last stage."""
        return self.width(len(self.depths) - 1)

    def width(self, index: int) -> int:
        """Channels of stage `index + 1`."""
        return int(self.embed_dim * self.embed_dim_multiplier**index)

    @property
    def times(self) -> int:
        """How often the map of the stem can be made smaller, as its cells are put in order."""
        return len(self.depths) - 1

    @property
    def unit(self) -> tuple[int, int]:
        """`(rows, columns)` of the stem that are put in order together."""
        return self.query_stride[0] ** self.times, self.query_stride[1] ** self.times

    @property
    def step(self) -> tuple[int, int]:
        """`(height, width)` in pixels whose multiples run."""
        axes = zip(self.patch_stride, self.unit, self.masked_unit_size, strict=True)
        height, width = (stride * math.lcm(unit, masked) for stride, unit, masked in axes)
        return height, width

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """`(rows, columns)` of the stem of an image."""
        sides = zip((height, width), self.patch_size, self.patch_stride, self.patch_padding, strict=True)
        rows, columns = ((side + 2 * padding - kernel) // stride + 1 for side, kernel, stride, padding in sides)
        return rows, columns

    def pools(self, index: int) -> int:
        """How often the map was made smaller by the end of the stage `index`, the stem being 0."""
        return min(max(index - 1, 0), self.num_query_pool)

    def layers(self, index: int) -> list[Layer]:
        """The layers of stage `index + 1`; the first still attends in the units of the stage before."""
        area = math.prod(self.query_stride)
        window = math.prod(self.masked_unit_size) // area**index
        inside, before = self.masked_unit_attention[index], self.masked_unit_attention[max(index - 1, 0)]
        shrinks = 0 < index <= self.num_query_pool
        layers = []
        for number in range(self.depths[index]):
            first = number == 0
            pooled = area if first and shrinks else 1
            width = self.width(max(index - 1, 0) if first else index)
            layers.append(
                Layer(width, self.width(index), pooled, pooled * window if inside or (first and before) else 0)
            )
        return layers

    def why_not(self, height: int, width: int) -> str | None:
        """Why images of this size do not run; None where they do."""
        rows, columns = self.grid(height, width)
        fits = min(rows, columns) > 0 and rows % self.unit[0] == columns % self.unit[1] == 0
        for index in range(len(self.depths)):
            cells = rows * columns // math.prod(self.query_stride) ** self.pools(index)
            fits = fits and cells % (self.layers(index)[0].window or 1) == 0
        if fits:
            return None
        units = "x".join(map(str, self.masked_unit_size))
        return (
            f"An image of {height}x{width} has {rows}x{columns} cells at the stem, which do not fall into whole mask units of "
            f"{units}, pooled {self.times} times."
        )

    def validate(self) -> None:
        """Check that stages, heads, units and pooling fit each other. Raises ValueError."""
        super().validate()
        stages = len(self.depths)
        for name in ("num_heads", "masked_unit_attention"):
            if len(getattr(self, name)) != stages:
                raise ValueError(
                    f"{name}={getattr(self, name)} must have one entry per stage, as depths={self.depths} has."
                )
        for index, heads in enumerate(self.num_heads):
            if self.width(index) % heads:
                raise ValueError(
                    f"num_heads={self.num_heads}: stage{index + 1} has {self.width(index)} channels, which {heads} heads cannot "
                    f"share equally."
                )
        if self.num_query_pool >= stages:
            raise ValueError(f"num_query_pool={self.num_query_pool} must be less than the number of stages, {stages}.")
        if self.masked_unit_size[0] % self.unit[0]:
            raise ValueError(
                f"masked_unit_size={self.masked_unit_size} must be a multiple of query_stride={self.query_stride} to the power of "
                f"{self.times}, which is {self.unit[0]}."
            )


class HieraWeights(PreTrainedModel):
    """What all Hiera classes share: weights, of what they are built, and how they run."""

    config_class = HieraConfig
    base_model_prefix: ClassVar[str] = "hiera"
    config: HieraConfig
    embeddings: nn.Module
    encoder: nn.Module

    def build(self, count: int) -> None:
        """Make the stem and the first `count` stages."""
        config = self.config
        patch = (two(config.patch_size), two(config.patch_stride), two(config.patch_padding))
        size = two(config.image_size)
        grid = (size[0] // config.patch_stride[0], size[1] // config.patch_stride[1])
        self.embeddings = HieraEmbeddings(config.num_channels, config.embed_dim, patch, grid, config.initializer_range)
        stages = []
        for index, rates in enumerate(drop_path_rates(config.drop_path_rate, list(config.depths))[:count]):
            block = partial(
                HieraBlock,
                heads=config.num_heads[index],
                hidden=int(config.width(index) * config.mlp_ratio),
                act=config.hidden_act,
                eps=config.layer_norm_eps,
            )
            blocks = [block(layer, drop_path=rate) for layer, rate in zip(config.layers(index), rates, strict=True)]
            stages.append(nn.ModuleDict({"layers": nn.ModuleList(blocks)}))
        self.encoder = nn.ModuleDict({"stages": nn.ModuleList(stages)})

    def run(
        self, pixel_values: Tensor, count: int, weights: bool
    ) -> tuple[list[Tensor], tuple[Tensor, ...] | None, tuple[int, int]]:
        """Run the stem and the first `count` stages.

        Returns:
            The unrolled states `(b, n, c)`, on request the attention weights of each stage's last layer, and the stem's
            `(rows, columns)`.

        Raises:
            ValueError: the stem's map does not fall into whole mask units; names a size that runs.
        """
        height, width = pixel_values.shape[-2:]
        if why := self.config.why_not(height, width):
            down, right = self.config.step
            raise SizeError(f"{why} {-(-height // down) * down}x{-(-width // right) * right} runs.")
        stem = self.embeddings(pixel_values)  # (b, h, w, c)
        attentions: list[Any] = []
        states = [unroll(stem, two(self.config.query_stride), self.config.times)]
        encoder: Any = self.encoder
        for stage in encoder["stages"][:count]:
            x, shares = states[-1], None
            for layer in stage["layers"]:
                x, shares = layer(x, weights)
            states.append(x)
            attentions.append(shares)
        return states, tuple(attentions) if weights else None, (stem.shape[1], stem.shape[2])

    def in_place(self, state: Tensor, index: int, grid: tuple[int, int]) -> Tensor:
        """The unrolled state of the stage `index`, the stem being 0, as a map `(b, h, w, c)`; `grid` is the stem's."""
        config = self.config
        pools = config.pools(index)
        rows, columns = (side // stride**pools for side, stride in zip(grid, config.query_stride, strict=True))
        return from_unrolled(state, two(config.query_stride), config.times - pools, rows, columns)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.trunc_normal_(module.weight, std=std)
        elif isinstance(module, nn.LayerNorm):
            nn.init.constant_(module.weight, self.config.layer_norm_init)
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.LayerNorm)) and module.bias is not None:
            nn.init.constant_(module.bias, std)


class HieraBackbone(HieraWeights, Backbone):
    """Hiera as a backbone: stages `stem` and `stage1` (stride 4), `stage2` (8), … . Each selected map passes a norm of its own.

    The maps are the states of `HieraModel`. (transformers' `HieraBackbone` leaves out the step that brings cells into the order of
    mask units, so that its maps are not those of its own model.) timm's index 0 is `stage1`.
    """

    config: HieraConfig
    explained_missing = {r"^hidden_states_norms\.": "only backbones have norms on their maps"}
    explained_unexpected = {
        **HEAD,
        **PRETRAINING,
        r"^(hiera\.)?pooler\.": "the final norm of the model without a head",
        r"^hidden_states_norms\.": "the norm of a stage that is not selected",
    }

    def __init__(self, config: HieraConfig) -> None:
        super().__init__(config)
        self.build(max(self.last_built_stage, 0))
        if self.config.apply_layernorm:
            norms = {stage.name: nn.LayerNorm(stage.channels) for stage in self.selectable_stages}
            self.hidden_states_norms = nn.ModuleDict(norms)
        self.post_init()

    def describe_stages(self) -> Iterable[Stage]:
        """The stem and one stage per depth."""
        config = self.config
        grid = Grid().window(config.patch_size, config.patch_stride, config.patch_padding)
        yield grid.stage("stem", 0, config.embed_dim)
        for index in range(len(config.depths)):
            if config.pools(index + 1) > config.pools(index):
                grid = grid.window(config.query_stride, config.query_stride)
            yield grid.stage(config.stage_names[index + 1], index + 1, config.width(index))

    @property
    def size_divisor(self) -> int:
        """Sizes that are multiples of it are divided by every stage and by mask units without a remainder."""
        return math.lcm(*self.config.step)

    def map_sizes(self, height: int, width: int) -> list[Size]:
        """Map size of every stage up to the last selected one.

        Raises:
            ValueError: the stem's map does not fall into whole mask units.
        """
        config = self.config
        rows, columns = config.grid(height, width)
        if why := config.why_not(height, width):
            raise ValueError(why)
        sizes = []
        for stage in self.stages[: self.last_stage + 1]:
            pools = config.pools(stage.index)
            sizes.append((rows // config.query_stride[0] ** pools, columns // config.query_stride[1] ** pools))
        return sizes

    def forward_features(
        self, pixel_values: Tensor, *, output_hidden_states: bool, output_attentions: bool
    ) -> BackboneOutput:
        """Run the stem and the stages needed."""
        height, width = pixel_values.shape[-2:]
        if why := self.config.why_not(height, width):
            raise self.refuse_size(height, width, why)
        last = max(self.final_stage(output_hidden_states), 0)
        states, attentions, grid = self.run(pixel_values, last, output_attentions)
        maps = [self.in_place(states[index], index, grid) for index in self.selected]
        if self.config.apply_layernorm:
            maps = [self.hidden_states_norms[s.name](x) for s, x in zip(self.output_stages, maps, strict=True)]
        return BackboneOutput(
            feature_maps=tuple(x.permute(0, 3, 1, 2) for x in maps),
            hidden_states=tuple(
                self.in_place(state, index, grid).permute(0, 3, 1, 2) for index, state in enumerate(states)
            )
            if output_hidden_states
            else None,
            attentions=attentions,
        )


class HieraModel(HieraWeights, ImageModel):
    """Hiera without a head."""

    explained_missing = {r"^pooler\.": POOLER[r"^(hiera\.)?pooler\."]}
    explained_unexpected = {**HEAD, **PRETRAINING, **MAP_NORMS}

    def __init__(self, config: HieraConfig) -> None:
        super().__init__(config)
        self.build(len(config.depths))
        self.pooler = HieraPooler(config.hidden_size, config.layer_norm_eps)
        self.post_init()

    def encode(self, pixel_values: Tensor, output_hidden_states: bool, output_attentions: bool) -> BaseModelOutput:
        """Return the last cells `(b, n, c)`, their normed mean `(b, c)` and, on request, all states, also as `(b, h, w, c)`."""
        states, attentions, grid = self.run(pixel_values, len(self.config.depths), output_attentions)
        return BaseModelOutput(
            last_hidden_state=states[-1],
            pooler_output=self.pooler(states[-1]),
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=attentions,
            reshaped_hidden_states=tuple(self.in_place(state, index, grid) for index, state in enumerate(states))
            if output_hidden_states
            else None,
        )


class HieraForImageClassification(HieraWeights, ImageClassifier):
    """Hiera with a linear classifier on the normed mean of all cells."""

    explained_missing = {**ImageClassifier.explained_missing, **POOLER}
    explained_unexpected = {**PRETRAINING, **MAP_NORMS}

    def __init__(self, config: HieraConfig) -> None:
        super().__init__(config)
        self.hiera = HieraModel(config)
        self.classifier = linear_head(config.hidden_size, config.num_labels)
        self.post_init()
