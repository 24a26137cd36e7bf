"""Swin Transformer (Liu et al. 2021): checkpoints of the `microsoft/swin-*` kind, and MaskFormer's spelling of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vertebra.activations import activation
from vertebra.attention import join_heads
from vertebra.backbones.base import Backbone
from vertebra.backbones.config import BackboneConfigMixin
from vertebra.backbones.layers import DropPath, Tables, drop_path_rates, one_size, pad_to_multiple
from vertebra.backbones.models import ImageClassifier, ImageModel, linear_head
from vertebra.backbones.windows import from_windows, relative_index, shift_mask, to_windows
from vertebra.model import PreTrainedModel
from vertebra.outputs import BackboneOutput, BaseModelOutput
from vertebra.stages import Grid, Stage

NO_FINAL_NORM = {r"^(swin\.)?layernorm\.": "files of backbones have no final norm"}


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
    """

    model_type = "swin"
    no_dilation = (
        "Swin halves its map by patch merging, which joins 2x2 cells into one of twice the channels, and its weights know windows "
        "of so many cells; without the halving windows would see another part of the image than they were trained on."
    )
    attribute_map = {"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"}
    derived_keys = ("hidden_size", "num_layers")

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
        return _pair(self.patch_size)

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


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    height, width = (value, value) if isinstance(value, int) else value
    return height, width


class SwinPatchEmbeddings(nn.Module):
    """Cuts the image into patches and projects each; the image is zero-padded to whole patches."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.projection = nn.Conv2d(config.num_channels, config.embed_dim, kernel_size=self.patch, stride=self.patch)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """`(b, c, h, w)` to `(b, h / patch, w / patch, embed_dim)`, rounded up."""
        pixel_values = one_size(pixel_values)
        down, right = -pixel_values.shape[2] % self.patch[0], -pixel_values.shape[3] % self.patch[1]
        if down or right:
            pixel_values = F.pad(pixel_values, (0, right, 0, down))
        return self.projection(pixel_values).permute(0, 2, 3, 1)


class SwinEmbeddings(nn.Module):
    """The stem: patches, a norm and, where the configuration has them, absolute position embeddings."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        height, width = _pair(config.image_size)
        self.grid = (height // config.patch[0], width // config.patch[1])
        self.patch_embeddings = SwinPatchEmbeddings(config)
        self.norm = nn.LayerNorm(config.embed_dim)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.position_embeddings: nn.Parameter | None = None
        if config.use_absolute_embeddings:
            self.position_embeddings = nn.Parameter(torch.zeros(1, self.grid[0] * self.grid[1], config.embed_dim))

    def reset_parameters(self) -> None:
        """Position embeddings start at zero."""
        if self.position_embeddings is not None:
            nn.init.zeros_(self.position_embeddings)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """`(b, c, h, w)` to `(b, h / patch, w / patch, embed_dim)`."""
        x = self.norm(self.patch_embeddings(pixel_values))
        if self.position_embeddings is not None:
            x = x + self._positions(x.shape[1], x.shape[2])
        return self.dropout(x)

    def _positions(self, height: int, width: int) -> Tensor:
        assert self.position_embeddings is not None
        table = self.position_embeddings.view(1, *self.grid, -1)  # (1, h, w, c)
        if (height, width) == self.grid:
            return table
        resized = F.interpolate(table.permute(0, 3, 1, 2), size=(height, width), mode="bicubic", align_corners=False)
        return resized.permute(0, 2, 3, 1)


class SwinSelfAttention(nn.Module):
    """Attention inside windows, with a learned bias for every relative position."""

    def __init__(self, config: SwinConfig, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.window = heads, config.window_size
        self.query = nn.Linear(width, width, bias=config.qkv_bias)
        self.key = nn.Linear(width, width, bias=config.qkv_bias)
        self.value = nn.Linear(width, width, bias=config.qkv_bias)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * self.window - 1) ** 2, heads))
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)
        self.tables = Tables()

    def reset_parameters(self) -> None:
        """Relative position biases start at zero."""
        nn.init.zeros_(self.relative_position_bias_table)

    def bias(self) -> Tensor:
        """`(heads, n, n)` biases between the n cells of a window."""
        table = self.relative_position_bias_table
        index = self.tables.get(table.device, lambda: relative_index(self.window, table.device))
        return table[index].view(self.window**2, self.window**2, self.heads).permute(2, 0, 1)

    def forward(self, windows: Tensor, mask: Tensor | None, weights: bool) -> tuple[Tensor, Tensor | None]:
        """`(b, n, c)` windows to the same; `mask` `(windows per image, n, n)` is added to the scores."""
        count, cells = windows.shape[:2]
        query, key, value = (
            project(windows).view(count, cells, self.heads, -1).transpose(1, 2)  # (b, heads, n, d)
            for project in (self.query, self.key, self.value)
        )
        bias = self.bias().unsqueeze(0)
        if mask is not None:
            images = count // mask.shape[0]
            bias = (bias + mask.unsqueeze(1)).expand(images, -1, -1, -1, -1).flatten(0, 1)
        attention = None
        if weights:
            scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5 + bias
            attention = self.dropout(scores.softmax(dim=-1))
            context = attention @ value
        else:
            dropout = self.dropout.p if self.training else 0.0
            context = F.scaled_dot_product_attention(
                query, key, value, attn_mask=bias.to(query.dtype), dropout_p=dropout
            )
        return join_heads(context), attention


class SwinAttention(nn.Module):
    """Window attention and its output projection."""

    def __init__(self, config: SwinConfig, width: int, heads: int) -> None:
        super().__init__()
        self.self = SwinSelfAttention(config, width, heads)
        self.output = nn.ModuleDict({"dense": nn.Linear(width, width)})
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(self, windows: Tensor, mask: Tensor | None, weights: bool) -> tuple[Tensor, Tensor | None]:
        """`(b, n, c)` windows to the same, and the attention weights `(b, heads, n, n)` on request."""
        context, attention = self.self(windows, mask, weights)
        return self.dropout(self.output["dense"](context)), attention


class SwinBlock(nn.Module):
    """Attention inside windows (shifted by half a window in every second block), then an MLP; both residual."""

    def __init__(self, config: SwinConfig, width: int, heads: int, drop_path: float, shift: int) -> None:
        super().__init__()
        self.window, self.shift = config.window_size, shift
        self.layernorm_before = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.attention = SwinAttention(config, width, heads)
        self.drop_path = DropPath(drop_path)
        self.layernorm_after = nn.LayerNorm(width, eps=config.layer_norm_eps)
        hidden = int(config.mlp_ratio * width)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, hidden)})
        self.act = activation(config.hidden_act)
        self.output = nn.ModuleDict({"dense": nn.Linear(hidden, width)})
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.tables = Tables()

    def forward(self, x: Tensor, always_shift: bool, weights: bool) -> tuple[Tensor, Tensor | None]:
        """`(b, h, w, c)` to the same; a map no larger than a window is shifted only with `always_shift`."""
        height, width = x.shape[1], x.shape[2]
        shift = self.shift if always_shift or min(height, width) > self.window else 0
        padded = pad_to_multiple(self.layernorm_before(x), (self.window, self.window))
        rows, columns = padded.shape[1], padded.shape[2]
        if shift:
            padded = padded.roll((-shift, -shift), dims=(1, 2))
        windows, attention = self.attention(
            to_windows(padded, self.window), self._mask(rows, columns, shift, x), weights
        )
        mixed = from_windows(windows, self.window, rows, columns)
        if shift:
            mixed = mixed.roll((shift, shift), dims=(1, 2))
        x = x + self.drop_path(mixed[:, :height, :width])
        hidden = self.act(self.intermediate["dense"](self.layernorm_after(x)))
        return x + self.drop_path(self.dropout(self.output["dense"](hidden))), attention

    def _mask(self, rows: int, columns: int, shift: int, like: Tensor) -> Tensor | None:
        if not shift:
            return None
        key = (rows, columns, shift, like.device, like.dtype)
        return self.tables.get(key, lambda: shift_mask(rows, columns, self.window, shift, like))


class SwinPatchMerging(nn.Module):
    """Joins 2x2 cells to one of twice the channels; an odd map is zero-padded."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, h, w, c)` to `(b, h / 2, w / 2, 2 * c)`, rounded up."""
        x = pad_to_multiple(x, (2, 2))
        batch, height, width, channels = x.shape
        x = x.view(batch, height // 2, 2, width // 2, 2, channels).permute(
            0, 1, 3, 4, 2, 5
        )  # (b, h, w, column, row, c)
        return self.reduction(self.norm(x.reshape(batch, height // 2, width // 2, 4 * channels)))


class SwinStage(nn.Module):
    """Blocks of one width, and the merging that leads to the next stage where one follows."""

    def __init__(self, config: SwinConfig, layer: int, drop_path: list[float], downsample: bool) -> None:
        super().__init__()
        width, heads = config.width(layer), config.num_heads[layer]
        self.blocks = nn.ModuleList(
            SwinBlock(config, width, heads, rate, shift=config.window_size // 2 if number % 2 else 0)
            for number, rate in enumerate(drop_path)
        )
        self.downsample = SwinPatchMerging(width) if downsample else None

    def forward(self, x: Tensor, always_shift: bool, weights: bool) -> tuple[Tensor, Tensor | None]:
        """Run the blocks; returns the state before merging and the last block's attention weights on request."""
        attention = None
        for block in self.blocks:
            x, attention = block(x, always_shift, weights)
        return x, attention


class SwinEncoder(nn.Module):
    """The first `count` stages."""

    def __init__(self, config: SwinConfig, count: int) -> None:
        super().__init__()
        rates = drop_path_rates(config.drop_path_rate, list(config.depths))
        self.layers = nn.ModuleList(
            SwinStage(config, layer, rates[layer], downsample=layer < count - 1) for layer in range(count)
        )


class SwinWeights(PreTrainedModel):
    """What all Swin classes share about their weights."""

    config_class = SwinConfig
    base_model_prefix: ClassVar[str] = "swin"
    explained_unexpected = {
        r"relative_position_index$": "computed from the window size",
        r"\bmask_token$|^decoder\.": "used by masked image modelling alone",
    }

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class SwinBackbone(SwinWeights, Backbone):
    """Swin as a backbone: stages `stem` and `stage1` (stride 4), `stage2` (8), … .

    Maps are taken before merging, and each selected one passes a norm of its own.
    """

    config: SwinConfig
    trunk_name: ClassVar[str] = ""
    """Where embeddings and encoder are kept: in the backbone itself, or in a module of this name."""
    explained_missing = {r"^hidden_states_norms\.": "only backbones have norms on their maps"}
    explained_unexpected = {
        **SwinWeights.explained_unexpected,
        r"^((swin|model)\.)?layernorm\.": "the final norm of the model without a head",
        r"^classifier\.": "a classification head",
        r"^hidden_states_norms\.": "the norm of a stage that is not selected",
    }

    def __init__(self, config: SwinConfig) -> None:
        super().__init__(config)
        if self.trunk_name:
            self.add_module(self.trunk_name, nn.Module())
        trunk: Any = self.get_submodule(self.trunk_name)
        trunk.embeddings = SwinEmbeddings(self.config)
        trunk.encoder = SwinEncoder(self.config, max(self.last_built_stage, 0))
        unpruned = () if self.config.prune else range(self.first_map, len(self.stages))
        normed = [self.stages[index] for index in sorted({*self.built_stages, *unpruned})]
        self.hidden_states_norms = nn.ModuleDict({self.norm_name(s): nn.LayerNorm(s.channels) for s in normed})
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
        layers = trunk.encoder.layers
        for layer in range(self.final_stage(output_hidden_states)):
            merged = states[-1] if layer == 0 else layers[layer - 1].downsample(states[-1])
            state, attention = layers[layer](merged, always_shift=True, weights=output_attentions)
            states.append(state)
            attentions.append(attention)
        maps = [self.hidden_states_norms[self.norm_name(self.stages[index])](states[index]) for index in self.selected]
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

    config: SwinConfig
    explained_missing = NO_FINAL_NORM
    explained_unexpected = {
        **SwinWeights.explained_unexpected,
        r"^classifier\.": "a classification head",
        r"^hidden_states_norms\.": "norms on a backbone's maps",
    }

    def __init__(self, config: SwinConfig) -> None:
        super().__init__(config)
        self.embeddings = SwinEmbeddings(config)
        self.encoder = SwinEncoder(config, len(config.depths))
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def encode(self, pixel_values: Tensor, output_hidden_states: bool, output_attentions: bool) -> BaseModelOutput:
        """Return the last tokens `(b, n, c)`, their mean `(b, c)` and, on request, the states after every stage."""
        states, attentions = [self.embeddings(pixel_values)], []
        stage: Any
        for stage in self.encoder.layers:
            state, attention = stage(states[-1], always_shift=False, weights=output_attentions)
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

    config: SwinConfig
    explained_missing = {**ImageClassifier.explained_missing, **NO_FINAL_NORM}
    explained_unexpected = {**SwinWeights.explained_unexpected, r"^hidden_states_norms\.": "norms on a backbone's maps"}

    def __init__(self, config: SwinConfig) -> None:
        super().__init__(config)
        self.swin = SwinModel(config)
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
