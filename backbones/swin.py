"""Swin Transformer (Liu et al. 2021): checkpoints of the `microsoft/swin-*` kind, and MaskFormer's spelling of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vertebra.backbones.base import Backbone
from vertebra.backbones.config import BackboneConfigMixin
from vertebra.backbones.layers import drop_path_rates, start_normal
from vertebra.backbones.models import ImageClassifier, ImageModel, linear_head
from vertebra.backbones.patches import two
from vertebra.backbones.swin_layers import SwinBlock, SwinEmbeddings, SwinPatchMerging, SwinStage, WindowSelfAttention
from vertebra.backbones.windows import MASKED, relative_index
from vertebra.model import PreTrainedModel
from vertebra.outputs import BackboneOutput, BaseModelOutput
from vertebra.stages import Grid, Stage

NO_FINAL_NORM = {r"^(swin(v2)?\.)?layernorm\.": "files of backbones have no final norm"}
HEAD = {r"^classifier\.": "a classification head"}
MAP_NORMS = {r"^hidden_states_norms\.": "norms on a backbone's maps"}


class SwinConfig(BackboneConfigMixin):
    """Configuration of a Swin Transformer; the defaults are Swin-T.

    Args:
        image_size: Size the checkpoint was trained at; matters only with absolute position embeddings.
        patch_size: Side of a patch, one number or `(height, width)`.
        num_channels: Channels of the input.
        embed_dim: Channels of the stem; they double at every stage after the first.
        depths: Blocks in each stage.
        num_heads: Attention heads in each stage.
        window_size: Side of an attention window in cells.
        mlp_ratio: Width of the hidden layer of an MLP over that of its input.
        qkv_bias: Whether queries, keys and values have a bias.
        hidden_dropout_prob: Dropout after the embedding and the MLP.
        attention_probs_dropout_prob: Dropout on attention weights and on the attention's output.
        drop_path_rate: Drop path of the last block; it grows linearly from 0 at the first.
        hidden_act: Name of the activation.
        use_absolute_embeddings: Whether position embeddings are added to the patches.
        initializer_range: Standard deviation of initial weights.
        layer_norm_eps: Epsilon of the blocks' norms.
        encoder_stride: Kept for masked image modelling; unused here.
        apply_layernorm: Whether a backbone's maps pass norms of their own, which only its own files hold.
        always_shift: Whether windows of a backbone are shifted also on maps no larger than one, where nothing is to be joined, as
            those of transformers' backbones are; models without and with a head do not, nor does timm.
    """

    model_type = "swin"
    no_dilation = (
        "Swin halves its map by patch merging, which joins 2x2 cells into one of twice the channels, and its weights know windows "
        "of so many cells; without the halving windows would see another part of the image than they were trained on."
    )
    attribute_map = {"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"}
    derived_keys = ("hidden_size", "num_layers")
    own_keys = (*BackboneConfigMixin.own_keys, "apply_layernorm", "always_shift")

    image_size: int | Sequence[int] = 224
    patch_size: int | Sequence[int] = 4
    num_channels: int = 3
    embed_dim: int = 96
    depths: Sequence[int] = (2, 2, 6, 2)
    num_heads: Sequence[int] = (3, 6, 12, 24)
    window_size: int = 7
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    drop_path_rate: float = 0.1
    hidden_act: str = "gelu"
    use_absolute_embeddings: bool = False
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    encoder_stride: int = 32
    apply_layernorm: bool = True
    always_shift: bool = True

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

    def width(self, layer: int) -> int:
        """Channels of stage `layer + 1`."""
        return int(self.embed_dim * 2**layer)

    @property
    def patch(self) -> tuple[int, int]:
        """`(height, width)` of a patch."""
        return two(self.patch_size)

    @property
    def grid(self) -> tuple[int, int]:
        """`(rows, columns)` of whole patches in an image of `image_size`."""
        height, width = two(self.image_size)
        return height // self.patch[0], width // self.patch[1]

    def windows(self, layer: int) -> tuple[int, int]:
        """Side of the windows of stage `layer + 1` and by how much every second block shifts them, in cells."""
        return self.window_size, self.window_size // 2

    def validate(self) -> None:
        """Check that depths, heads and widths fit each other. Raises ValueError."""
        super().validate()
        if len(self.depths) != len(self.num_heads):
            raise ValueError(f"depths={self.depths} and num_heads={self.num_heads} must have one entry per stage each.")
        for layer, heads in enumerate(self.num_heads):
            if self.width(layer) % heads:
                raise ValueError(
                    f"num_heads={self.num_heads}: stage{layer + 1} has {self.width(layer)} channels (embed_dim={self.embed_dim}), "
                    f"which {heads} heads cannot share equally."
                )


class SwinSelfAttention(WindowSelfAttention):
    """Attention inside windows, with a learned bias for every relative position."""

    def __init__(self, width: int, heads: int, window: int, qkv_bias: bool, dropout: float) -> None:
        super().__init__(width, heads, window, qkv_bias, qkv_bias, dropout)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))

    def reset_parameters(self) -> None:
        """Relative position biases start at zero."""
        nn.init.zeros_(self.relative_position_bias_table)

    def bias(self) -> Tensor:
        """`(heads, n, n)`: what is added to the scores between the n cells of a window."""
        table = self.relative_position_bias_table
        index = self.tables.get(table.device, lambda: relative_index(self.window, table.device))
        return table[index].view(self.window**2, self.window**2, self.heads).permute(2, 0, 1)


class SwinWeights(PreTrainedModel):
    """What all Swin classes share: weights, and of what they are built."""

    config_class = SwinConfig
    base_model_prefix: ClassVar[str] = "swin"
    config: SwinConfig
    explained_unexpected = {
        r"relative_(position_index|coords_table)$": "computed from the window size",
        r"\bmask_token$|^decoder\.": "used by masked image modelling alone",
    }
    post_norm: ClassVar[bool] = False
    """Whether norms stand after what they belong to."""
    masked: ClassVar[float] = MASKED
    """Added to the scores between cells that only a shift of windows brought together."""

    def make_embeddings(self) -> SwinEmbeddings:
        """The stem."""
        config = self.config
        return SwinEmbeddings(
            config.num_channels,
            config.embed_dim,
            config.patch,
            config.grid if config.use_absolute_embeddings else None,
            dropout=config.hidden_dropout_prob,
        )

    def make_attention(self, layer: int) -> WindowSelfAttention:
        """The attention of a block of stage `layer + 1`."""
        config = self.config
        window, _ = config.windows(layer)
        heads, dropout = config.num_heads[layer], config.attention_probs_dropout_prob
        return SwinSelfAttention(config.width(layer), heads, window, config.qkv_bias, dropout)

    def make_block(self, layer: int, number: int, drop_path: float) -> SwinBlock:
        """The block `number` of stage `layer + 1`, counted from 0."""
        config, width = self.config, self.config.width(layer)
        _, shift = config.windows(layer)
        return SwinBlock(
            self.make_attention(layer),
            width,
            shift if number % 2 else 0,
            int(config.mlp_ratio * width),
            act=config.hidden_act,
            eps=config.layer_norm_eps,
            dropout=config.hidden_dropout_prob,
            drop_path=drop_path,
            post_norm=self.post_norm,
            masked=self.masked,
        )

    def make_encoder(self, count: int) -> nn.Module:
        """The first `count` stages."""
        config, stages = self.config, []
        for layer, rates in enumerate(drop_path_rates(config.drop_path_rate, list(config.depths))[:count]):
            blocks = [self.make_block(layer, number, rate) for number, rate in enumerate(rates)]
            merging = SwinPatchMerging(config.width(layer), self.post_norm) if layer < count - 1 else None
            stages.append(SwinStage(blocks, merging))
        return nn.ModuleDict({"layers": nn.ModuleList(stages)})

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        start_normal(module, self.config.initializer_range)


class SwinBackbone(SwinWeights, Backbone):
    """Swin as a backbone: stages `stem` and `stage1` (stride 4), `stage2` (8), … .

    Maps are taken before merging, and each selected one passes a norm of its own. timm's `layers.0`, its index 0, is `stage1`.
    """

    config: SwinConfig
    trunk_name: ClassVar[str] = ""
    """Where embeddings and encoder are kept: in the backbone itself, or in a module of this name."""
    norms_maps: ClassVar[bool] = True
    explained_missing = {r"^hidden_states_norms\.": "only backbones have norms on their maps"}
    explained_unexpected = {
        **SwinWeights.explained_unexpected,
        **HEAD,
        r"^((swin(v2)?|model)\.)?layernorm\.": "the final norm of the model without a head",
        r"^hidden_states_norms\.": "the norm of a stage that is not selected",
    }

    def __init__(self, config: SwinConfig) -> None:
        super().__init__(config)
        if self.trunk_name:
            self.add_module(self.trunk_name, nn.Module())
        trunk: Any = self.get_submodule(self.trunk_name)
        trunk.embeddings = self.make_embeddings()
        trunk.encoder = self.make_encoder(max(self.last_built_stage, 0))
        if self.norms_maps and self.config.apply_layernorm:
            norms = {self.norm_name(stage): nn.LayerNorm(stage.channels) for stage in self.selectable_stages}
            self.hidden_states_norms = nn.ModuleDict(norms)
        self.post_init()

    def norm_name(self, stage: Stage) -> str:
        """Name of the norm on a stage's map."""
        return stage.name

    def describe_stages(self) -> Iterable[Stage]:
        """The stem and one stage per depth, every map rounded up to whole cells."""
        config = self.config
        grid = Grid().window(config.patch, config.patch)
        yield grid.stage("stem", 0, config.embed_dim)
        for layer in range(len(config.depths)):
            grid = grid.window(2, 2) if layer else grid
            yield grid.stage(config.stage_names[layer + 1], layer + 1, config.width(layer))

    def forward_features(
        self, pixel_values: Tensor, *, output_hidden_states: bool, output_attentions: bool
    ) -> BackboneOutput:
        """Run the stem and the stages needed."""
        trunk: Any = self.get_submodule(self.trunk_name)
        states, attentions = [trunk.embeddings(pixel_values)], []
        layers = trunk.encoder["layers"]
        for layer in range(self.final_stage(output_hidden_states)):
            merged = states[-1] if layer == 0 else layers[layer - 1].downsample(states[-1])
            state, attention = layers[layer](merged, self.config.always_shift, weights=output_attentions)
            states.append(state)
            attentions.append(attention)
        maps = [states[index] for index in self.selected]
        if self.norms_maps and self.config.apply_layernorm:
            names = [self.norm_name(stage) for stage in self.output_stages]
            maps = [self.hidden_states_norms[name](state) for name, state in zip(names, maps, strict=True)]
        return BackboneOutput(
            feature_maps=tuple(_nchw(state) for state in maps),
            hidden_states=tuple(_nchw(state) for state in states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )


def _nchw(x: Tensor) -> Tensor:
    """`(b, h, w, c)` to `(b, c, h, w)`, contiguous."""
    return x.permute(0, 3, 1, 2).contiguous()


class SwinModel(SwinWeights, ImageModel):
    """Swin without a head."""

    always_shift: ClassVar[bool] = False
    """Whether windows shift on a map that is no larger than one of them."""
    explained_missing = NO_FINAL_NORM
    explained_unexpected = {**SwinWeights.explained_unexpected, **HEAD, **MAP_NORMS}

    def __init__(self, config: SwinConfig) -> None:
        super().__init__(config)
        self.embeddings = self.make_embeddings()
        self.encoder = self.make_encoder(len(config.depths))
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def encode(self, pixel_values: Tensor, output_hidden_states: bool, output_attentions: bool) -> BaseModelOutput:
        """Return the last tokens `(b, n, c)`, their mean `(b, c)` and, on request, the states after every stage."""
        states, attentions = [self.embeddings(pixel_values)], []
        encoder: Any = self.encoder
        for stage in encoder["layers"]:
            state, attention = stage(states[-1], self.always_shift, weights=output_attentions)
            states.append(state if stage.downsample is None else stage.downsample(state))
            attentions.append(attention)
        last = self.layernorm(states[-1]).flatten(1, 2)  # (b, n, c)
        return BaseModelOutput(
            last_hidden_state=last,
            pooler_output=last.mean(dim=1),
            hidden_states=tuple(state.flatten(1, 2) for state in states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
            reshaped_hidden_states=tuple(_nchw(state) for state in states) if output_hidden_states else None,
        )


class SwinForImageClassification(SwinWeights, ImageClassifier):
    """Swin with a linear classifier on the mean token."""

    base_class: ClassVar[type[SwinModel]] = SwinModel
    explained_missing = {**ImageClassifier.explained_missing, **NO_FINAL_NORM}
    explained_unexpected = {**SwinWeights.explained_unexpected, **MAP_NORMS}

    def __init__(self, config: SwinConfig) -> None:
        super().__init__(config)
        self.add_module(self.base_model_prefix, self.base_class(config))
        self.classifier = linear_head(config.hidden_size, config.num_labels)
        self.post_init()


class MaskFormerSwinConfig(SwinConfig):
    """Swin as MaskFormer's checkpoints spell it. Arguments as in `SwinConfig`; the stem cannot be selected."""

    model_type = "maskformer-swin"


class MaskFormerSwinBackbone(SwinBackbone):
    """Swin under the names MaskFormer's checkpoints use: `model.…` and norms counted from the first stage. Reads Swin's files too.

    Raises:
        ValueError: the stem is selected; these checkpoints have no norm for it.
    """

    config_class = MaskFormerSwinConfig
    base_model_prefix = "model"
    key_renames = (
        (r"^swin\.", "model."),
        *((rf"^hidden_states_norms\.stage{index + 1}\.", f"hidden_states_norms.{index}.") for index in range(9)),
    )
    trunk_name = "model"
    first_map = 1

    def norm_name(self, stage: Stage) -> str:
        """Name of the norm on a stage's map."""
        if stage.index == 0:
            raise ValueError(
                f"MaskFormer's Swin has no map of the stem; select from {self.stage_names[1:]}, e.g. "
                f"out_indices={list(range(1, len(self.stages)))}."
            )
        return str(stage.index - 1)
