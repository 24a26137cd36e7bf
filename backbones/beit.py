"""BEiT (Bao et al. 2021): checkpoints of the `microsoft/beit-*` kind."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vertebra.activations import activation
from vertebra.backbones.layers import Tables, drop_path_rates
from vertebra.backbones.patches import Embeddings, Resize, Token
from vertebra.backbones.sizes import Size
from vertebra.backbones.vit_base import PlainViT, PlainViTBackbone
from vertebra.backbones.vit_config import PlainViTConfig
from vertebra.backbones.vit_layers import Block, Layout, Spelling
from vertebra.backbones.vit_models import PlainViTClassifier, PlainViTModel
from vertebra.backbones.windows import relative_index
from vertebra.outputs import BackboneOutput, BaseModelOutput
from vertebra.placing import Node, place, place_tensor
from vertebra.stages import Stage

SPELLING = Spelling(
    norm1="layernorm_before",
    qkv=tuple(f"attention.attention.{name}" for name in ("query", "key", "value")),
    out="attention.output.dense",
    norm2="layernorm_after",
    mlp=("intermediate.dense", "output.dense"),
    scales=("lambda_1", "lambda_2"),
)
OWN_BIAS, SHARED_BIAS = "attention.attention.relative_position_bias", "encoder.relative_position_bias"
LEVELS = (Fraction(1, 4), Fraction(1, 2), Fraction(1), Fraction(2))
"""Strides of the four maps that `add_fpn` makes, in patches."""

HEAD = {r"^classifier\.": "a classification head"}
POOLER = {r"(^|\.)(pooler\.)?layernorm\.": "the norm before pooling; maps pass none"}
PYRAMID = {r"^fpn[12]\.": "makes maps of other scales, for add_fpn=True and segmentation"}
OTHER = {
    r"relative_position_index$": "computed from the size of the image",
    r"\bmask_token$|^lm_head\.|^layernorm\.": "used by masked image modelling alone",
    r"^(decode_head|auxiliary_head)\.": "a segmentation head",
}
MASK = {r"\bmask_token$": "used by pre-training alone"}


class BeitConfig(PlainViTConfig):
    """Configuration of a BEiT; the defaults are BEiT-B/16 without any positions.

    Args:
        vocab_size: Kept for masked image modelling; unused here.
        hidden_size: Channels.
        num_hidden_layers: Layers.
        num_attention_heads: Attention heads of each layer.
        intermediate_size: Channels inside the perceptron of a layer.
        hidden_act: Name of the activation.
        hidden_dropout_prob: Dropout on the embedded tokens and on what attention and the perceptron give.
        attention_probs_dropout_prob: Dropout on attention weights.
        initializer_range: Standard deviation of initial weights.
        layer_norm_eps: Epsilon of the norms.
        image_size: Size the checkpoint was trained at, one side or `(height, width)`; positions are resized to any other.
        patch_size: Side of a patch, one number or `(height, width)`.
        num_channels: Channels of the input.
        use_mask_token: Whether the weights hold the mask token of pre-training.
        use_absolute_position_embeddings: Whether tokens have learned positions.
        use_relative_position_bias: Whether each layer has a table of biases for relative positions.
        use_shared_relative_position_bias: Whether all layers share such a table.
        layer_scale_init_value: Initial value of the factors on what attention and the perceptron give; 0 for no factors.
        drop_path_rate: Drop path of the last layer; it grows linearly from 0.
        use_mean_pooling: Whether the pooled output is the normed mean of the patches, instead of the class token.
        pool_scales: Kept for segmentation, as all `auxiliary_…` and `semantic_…`; unused here.
        use_auxiliary_head: As `pool_scales`.
        auxiliary_loss_weight: As `pool_scales`.
        auxiliary_channels: As `pool_scales`.
        auxiliary_num_convs: As `pool_scales`.
        auxiliary_concat_input: As `pool_scales`.
        semantic_loss_ignore_index: As `pool_scales`.
        add_fpn: Whether a backbone's maps, then exactly four, are brought to 1/4, 1/2, 1 and 2 times the stride of the patches.

    Raises:
        ValueError: `add_fpn` with another number of stages, or with tokens for maps.
    """

    model_type = "beit"

    vocab_size: int = 8192
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    image_size: int | Sequence[int] = 224
    patch_size: int | Sequence[int] = 16
    num_channels: int = 3
    use_mask_token: bool = False
    use_absolute_position_embeddings: bool = False
    use_relative_position_bias: bool = False
    use_shared_relative_position_bias: bool = False
    layer_scale_init_value: float = 0.1
    drop_path_rate: float = 0.1
    use_mean_pooling: bool = True
    pool_scales: Sequence[int] = (1, 2, 3, 6)
    use_auxiliary_head: bool = True
    auxiliary_loss_weight: float = 0.4
    auxiliary_channels: int = 256
    auxiliary_num_convs: int = 1
    auxiliary_concat_input: bool = False
    semantic_loss_ignore_index: int = 255
    add_fpn: bool = False

    def validate(self) -> None:
        """Check what `add_fpn` needs. Raises ValueError."""
        super().validate()
        if not self.add_fpn:
            return
        if self.out_strides is not None or len(self.out_indices) != len(LEVELS):
            asked = f"out_strides={self.out_strides}" if self.out_strides else f"out_indices={self.out_indices}"
            raise ValueError(
                f"add_fpn=True makes one map each of {len(LEVELS)} stages, and {asked} was asked for. Name exactly "
                f"{len(LEVELS)}, such as out_indices=[4, 6, 8, 12] of 12 layers."
            )
        if not self.reshape_hidden_states:
            raise ValueError("add_fpn=True needs maps; leave reshape_hidden_states=False out.")

    @classmethod
    def _merge(cls, content: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
        older_name = content.pop("segmentation_indices", None)
        if older_name is not None and content.get("out_indices") is None:
            content["out_indices"] = older_name
        return super()._merge(content, overrides)


class RelativeBias(Node):
    """What is added to the score of two tokens, by where one lies relative to the other; three values for the class token.

    Args:
        grid: `(rows, columns)` of patches the table is for.
        heads: Attention heads.
    """

    relative_position_bias_table: Tensor

    def __init__(self, grid: Size, heads: int) -> None:
        super().__init__()
        self.steps = (2 * grid[0] - 1, 2 * grid[1] - 1)
        table = nn.Parameter(torch.zeros(self.steps[0] * self.steps[1] + 3, heads))
        place_tensor(self, "relative_position_bias_table", table, nn.init.zeros_)
        self.resize = Resize("bilinear")

    def forward(self, layout: Layout) -> Tensor:
        """`(heads, t, t)` for tokens that lie so; for other numbers of patches the table is resized."""
        table, count = self.relative_position_bias_table, 1 + layout.rows * layout.columns
        cells = self.resize(table[:-3].view(*self.steps, -1), 2 * layout.rows - 1, 2 * layout.columns - 1)
        table = torch.cat([cells.flatten(0, 1), table[-3:]])
        return table[layout.pairs].view(count, count, -1).permute(2, 0, 1)


def index_of_pairs(rows: int, columns: int, device: torch.device) -> Tensor:
    """Row of a table for every pair of tokens, `(t * t,)`: of two patches, then class token to patch, back, and to itself."""
    count, steps = rows * columns, (2 * rows - 1) * (2 * columns - 1)
    index = F.pad(relative_index((rows, columns), device).view(count, count), (1, 0, 1, 0), value=steps)
    index[1:, 0] = steps + 1
    index[0, 0] = steps + 2
    return index.flatten()


class BeitBlock(Block):
    """A layer that may have a table of relative positions of its own."""

    def score_bias(self, queries: Tensor, layout: Layout) -> Tensor | None:
        """What all layers share, and what this one adds to it."""
        own = self.part("attention.attention")._modules.get("relative_position_bias")
        if own is None:
            return layout.bias
        bias: Tensor = own(layout)
        return bias if layout.bias is None else bias + layout.bias


class BeitWeights(PlainViT):
    """What all BEiT classes share."""

    config: BeitConfig
    config_class = BeitConfig
    base_model_prefix: ClassVar[str] = "beit"
    explained_missing = MASK
    explained_unexpected = {**HEAD, **OTHER, **PYRAMID}

    def make_embeddings(self) -> Embeddings:
        """The stem: patches and a class token, the mask token kept among the weights."""
        config = self.config
        width = config.hidden_size
        return Embeddings(
            config.num_channels,
            width,
            config.patch,
            tokens=[Token("cls_token", (1, 1, width))],
            positions="position_embeddings" if config.use_absolute_position_embeddings else None,
            grid=config.grid,
            mask=Token("mask_token", (1, 1, width)) if config.use_mask_token else None,
            dropout=config.hidden_dropout_prob,
        )

    def make_block(self, index: int) -> Block:
        """A layer."""
        config = self.config
        scale = config.layer_scale_init_value
        block = BeitBlock(
            SPELLING if scale > 0 else SPELLING._replace(scales=()),
            config.hidden_size,
            config.num_attention_heads,
            config.intermediate_size,
            activation(config.hidden_act),
            qkv_bias=(True, False, True),
            scale=scale,
            eps=config.layer_norm_eps,
            dropout=config.hidden_dropout_prob,
            attention_dropout=config.attention_probs_dropout_prob,
            drop_path=drop_path_rates(config.drop_path_rate, [config.num_hidden_layers])[0][index],
        )
        if config.use_relative_position_bias:
            place(block, OWN_BIAS, RelativeBias(config.grid, config.num_attention_heads))
        return block

    def build(self, depth: int, norm: bool = True) -> None:
        """Make the layers, and the table of relative positions that they share."""
        config = self.config
        super().build(depth, norm and not config.use_mean_pooling)
        if config.use_shared_relative_position_bias and depth:
            place(self, SHARED_BIAS, RelativeBias(config.grid, config.num_attention_heads))
        self.tables = Tables(limit=8)  # as large as attention weights

    def layout(self, rows: int, columns: int, x: Tensor) -> Layout:
        """How the tokens lie, and what that adds to the scores of all layers."""
        plain, config = super().layout(rows, columns, x), self.config
        if not (config.use_relative_position_bias or config.use_shared_relative_position_bias) or not len(self.layers):
            return plain
        key = (rows, columns, x.device)
        found = plain._replace(pairs=self.tables.get(key, lambda: index_of_pairs(rows, columns, x.device)))
        if not config.use_shared_relative_position_bias:
            return found
        return found._replace(bias=self.get_submodule(SHARED_BIAS)(found))


class BeitBackbone(BeitWeights, PlainViTBackbone):
    """BEiT as a backbone: stages `stem`, `stage1`, `stage2`, …, all at the stride of the patches; maps pass no norm.

    With `add_fpn` the four maps are brought to 1/4, 1/2, 1 and 2 times that stride; a narrower selection keeps the strides.

    Args:
        config: The configuration.
        levels: Stage to its place among those four maps; by the selection when None.
    """

    config: BeitConfig
    norm_path = None
    explained_missing = {**MASK, **dict.fromkeys(PYRAMID, "files of models have no pyramid")}
    explained_unexpected = {**HEAD, **OTHER, **POOLER, **PYRAMID}

    def __init__(self, config: BeitConfig, levels: Mapping[int, int] | None = None) -> None:
        if levels is None:
            chosen = config.out_indices if config.add_fpn else []
            levels = {index % len(config.stage_names): level for level, index in enumerate(chosen)}
        self.levels = dict(levels)
        super().__init__(config)

    def build(self, depth: int, norm: bool = True) -> None:
        """Make the layers, and what enlarges the first two maps of a pyramid."""
        super().build(depth, norm)
        width = self.config.hidden_size
        made = {self.levels.get(stage.index) for stage in self.selectable_stages}
        if 0 in made:
            self.fpn1 = nn.Sequential(enlarging(width), nn.BatchNorm2d(width), nn.GELU(), enlarging(width))
        if 1 in made:
            self.fpn2 = nn.Sequential(enlarging(width))

    def describe_stages(self) -> Iterable[Stage]:
        """The stem and one stage per layer, those of a pyramid at their own strides."""
        for stage in super().describe_stages():
            hops = LEVELS[self.levels[stage.index]] if stage.index in self.levels else Fraction(1)
            stride = (stage.stride[0] * hops, stage.stride[1] * hops)
            yield stage.resampled(stage.name, stage.index, stage.channels, stride)

    def map_sizes(self, height: int, width: int) -> list[Size]:
        """Map size of every stage up to the last selected one: whole patches, and of a pyramid so many times as many."""
        sizes = super().map_sizes(height, width)
        cells = (height // self.config.patch[0], width // self.config.patch[1])
        for index, level in self.levels.items():
            if index < len(sizes):
                sizes[index] = (int(cells[0] / LEVELS[level]), int(cells[1] / LEVELS[level]))
        return sizes

    @property
    def exceptions(self) -> Mapping[str, str]:
        """The maps of a pyramid are multiples of patches, and what is left of an image beside whole patches is not seen."""
        return {"cells": "add_fpn enlarges maps of whole patches"} if self.levels else {}

    def forward_features(
        self, pixel_values: Tensor, *, output_hidden_states: bool, output_attentions: bool
    ) -> BackboneOutput:
        """Run the stem and the layers needed, and bring the maps of a pyramid to their strides."""
        output = super().forward_features(
            pixel_values, output_hidden_states=output_hidden_states, output_attentions=output_attentions
        )
        if self.levels:
            found = zip(self.selected, cast(Any, output.feature_maps), strict=True)
            output.feature_maps = tuple(self._level(self.levels.get(index), x) for index, x in found)
        return output

    def _level(self, level: int | None, x: Tensor) -> Tensor:
        if level == 3:
            return F.max_pool2d(x, 2)
        enlarge = {0: "fpn1", 1: "fpn2"}.get(-1 if level is None else level)
        return x if enlarge is None else self.get_submodule(enlarge)(x)  # type: ignore[no-any-return]

    def _crop(self, output: BackboneOutput, height: int, width: int) -> None:
        if not self.levels:
            super()._crop(output, height, width)
            return
        maps = zip(self.output_stages, cast(Any, output.feature_maps), strict=True)
        sizes = [(x, self._covering(stage, height, width, (x.shape[-2], x.shape[-1]))) for stage, x in maps]
        output.feature_maps = tuple(x[..., :rows, :columns] for x, (rows, columns) in sizes)

    def twin(self, device: str = "meta", **changes: Any) -> BeitBackbone:
        """As for every backbone; the stages of a pyramid stay its stages."""
        config = copy.deepcopy(self.config)
        for name, value in {"freeze": None, **changes}.items():
            setattr(config, name, value)
        with torch.device(device):
            return type(self)(config, self.levels)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **options: Any) -> None:
        """As for every model.

        Raises:
            ValueError: a pyramid whose selection was narrowed, which files cannot say.
        """
        if self.config.add_fpn and set(self.selected) != set(self.levels):
            names = [self.stages[index].name for index in self.levels]
            raise ValueError(
                f"out_features={self.out_features} of a pyramid of {names} (add_fpn=True) cannot be saved, since its files name "
                f"all {len(LEVELS)}. Save with backbone.out_features = {names}, and narrow it after loading."
            )
        super().save_pretrained(save_directory, **options)


def enlarging(width: int) -> nn.Module:
    """A layer that makes two by two cells of each."""
    return nn.ConvTranspose2d(width, width, 2, stride=2)


class Pooler(nn.Module):
    """The normed mean of the patches, or the class token."""

    def __init__(self, width: int, eps: float, mean: bool) -> None:
        super().__init__()
        self.layernorm = nn.LayerNorm(width, eps=eps) if mean else None

    def forward(self, x: Tensor) -> Tensor:
        """`(b, t, width)` to `(b, width)`."""
        return x[:, 0] if self.layernorm is None else self.layernorm(x[:, 1:].mean(dim=1))


class BeitModel(BeitWeights, PlainViTModel):
    """BEiT without a head."""

    config: BeitConfig
    explained_missing = {**MASK, r"^(\w+\.)?(pooler\.)?layernorm\.": "files of backbones have no norm before pooling"}

    def make_pooler(self) -> nn.Module:
        """The mean of the patches, or the class token."""
        return Pooler(self.config.hidden_size, self.config.layer_norm_eps, self.config.use_mean_pooling)

    def final_norm(self, x: Tensor) -> Tensor:
        """The final norm, which there is only without mean pooling."""
        return x if self.config.use_mean_pooling else super().final_norm(x)

    def finish(self, x: Tensor, layout: Layout) -> tuple[Tensor, Tensor | None]:
        """The final norm, where there is one, and the pooler."""
        x, pooler = self.final_norm(x), self._modules.get(self.pooler_path)
        return x, None if pooler is None else pooler(x)


class BeitForImageClassification(BeitWeights, PlainViTClassifier):
    """BEiT with a linear classifier on the pooled output."""

    config: BeitConfig
    model_class = BeitModel
    pooled = True
    explained_missing = {**PlainViTClassifier.explained_missing, **BeitModel.explained_missing}
    explained_unexpected = {**OTHER, **PYRAMID}

    def describe(self, base: BaseModelOutput, prefix: int) -> Tensor:
        """The pooled output, `(b, c)`."""
        return cast(Tensor, base.pooler_output)
