"""ViTDet (Li et al. 2022): plain vision transformers for detection, with windows and decomposed relative positions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from vertebra.activations import activation
from vertebra.backbones.base import Backbone
from vertebra.backbones.layers import ChannelNorm, Tables, drop_path_rates, pad_to_multiple
from vertebra.backbones.patches import Embeddings, Resize, two
from vertebra.backbones.vit_base import PlainViT, PlainViTBackbone, as_map
from vertebra.backbones.vit_config import PlainViTConfig
from vertebra.backbones.vit_layers import Block, Layout, Spelling
from vertebra.backbones.vit_models import PlainViTModel
from vertebra.backbones.windows import from_windows, steps, to_windows
from vertebra.linear import feed_forward
from vertebra.outputs import BackboneOutput, BaseModelOutput
from vertebra.placing import place_tensor

SPELLING = Spelling(
    norm1="norm1",
    qkv=("attention.qkv",),
    out="attention.proj",
    norm2="norm2",
    mlp=("mlp.fc1", "mlp.fc2"),
)


class VitDetConfig(PlainViTConfig):
    """Configuration of a ViTDet; the defaults are ViT-B/16 without windows.

    Args:
        hidden_size: Channels.
        num_hidden_layers: Layers.
        num_attention_heads: Attention heads of each layer.
        mlp_ratio: Channels inside the perceptron of a layer over those outside.
        hidden_act: Name of the activation.
        dropout_prob: Dropout inside the perceptron, after both of its layers.
        initializer_range: Standard deviation of initial weights.
        layer_norm_eps: Epsilon of the norms.
        image_size: Size that relative positions of layers without windows were trained at; they are resized to any other.
        pretrain_image_size: Size that the learned positions of tokens were trained at; they are resized to any other.
        patch_size: Side of a patch, one number or `(height, width)`.
        num_channels: Channels of the input.
        qkv_bias: Whether queries, keys and values have a bias.
        drop_path_rate: Drop path of the last layer; it grows linearly from 0.
        window_block_indices: Layers, from 0, whose attention stays inside windows.
        residual_block_indices: Layers, from 0, with a residual block of convolutions behind them.
        use_absolute_position_embeddings: Whether tokens have learned positions.
        use_relative_position_embeddings: Whether scores depend on relative positions.
        window_size: Side of the windows in patches; 0 for none.
    """

    model_type = "vitdet"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    mlp_ratio: float = 4
    hidden_act: str = "gelu"
    dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-6
    image_size: int | Sequence[int] = 224
    pretrain_image_size: int | Sequence[int] = 224
    patch_size: int | Sequence[int] = 16
    num_channels: int = 3
    qkv_bias: bool = True
    drop_path_rate: float = 0.0
    window_block_indices: Sequence[int] = ()
    residual_block_indices: Sequence[int] = ()
    use_absolute_position_embeddings: bool = True
    use_relative_position_embeddings: bool = False
    window_size: int = 0

    def validate(self) -> None:
        """Check that the layers named exist. Raises ValueError."""
        super().validate()
        for name in ("window_block_indices", "residual_block_indices"):
            absent = [index for index in getattr(self, name) if not 0 <= index < self.num_hidden_layers]
            if absent:
                raise ValueError(f"{name} names the layers {absent}; there are 0 to {self.num_hidden_layers - 1}.")

    @property
    def pretrain_grid(self) -> tuple[int, int]:
        """`(rows, columns)` of patches in an image of `pretrain_image_size`."""
        height, width = two(self.pretrain_image_size)
        return height // self.patch[0], width // self.patch[1]


class Bottleneck(nn.Module):
    """A residual block of three convolutions, half as wide inside."""

    def __init__(self, width: int, act: nn.Module) -> None:
        super().__init__()
        inner = width // 2
        self.conv1, self.norm1 = nn.Conv2d(width, inner, 1, bias=False), ChannelNorm(inner, eps=1e-6)
        self.conv2, self.norm2 = nn.Conv2d(inner, inner, 3, padding=1, bias=False), ChannelNorm(inner, eps=1e-6)
        self.conv3, self.norm3 = nn.Conv2d(inner, width, 1, bias=False), ChannelNorm(width, eps=1e-6)
        self.act = act

    def reset_parameters(self) -> None:
        """Start as the identity."""
        for layer in (self.conv1, self.conv2, self.conv3):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.norm3.weight)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, width, h, w)` to the same."""
        inner = self.act(self.norm2(self.conv2(self.act(self.norm1(self.conv1(x))))))
        return x + self.norm3(self.conv3(inner))  # type: ignore[no-any-return]


class VitDetBlock(Block):
    """A layer that may attend inside windows, score by relative rows and columns, and end with convolutions.

    Args:
        *args: As in `Block`.
        grid: `(rows, columns)` of patches that the tables of relative positions are for; None for no tables.
        window: Side of the windows in patches; 0 for none.
        residual: Whether a residual block of convolutions follows.
        dropout: Inside the perceptron.
        draw: Initial values of the tables.
        **kwargs: As in `Block`.
    """

    def __init__(
        self,
        spelling: Spelling,
        width: int,
        heads: int,
        *args: Any,
        grid: tuple[int, int] | None,
        window: int,
        residual: bool,
        dropout: float,
        draw: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(spelling, width, heads, *args, **kwargs)
        self.window, self.relative = window, grid is not None
        self.inner_dropout = nn.Dropout(dropout)
        for axis, cells in zip("hw", (window, window) if window else grid or (), strict=False):
            table = nn.Parameter(torch.empty(2 * cells - 1, width // heads))
            if grid is not None:
                place_tensor(self, f"attention.rel_pos_{axis}", table, draw)
        self.resize, self.tables = Resize("bilinear"), Tables()
        self.residual = Bottleneck(width, self.act) if residual else None

    def forward(self, x: Tensor, layout: Layout, weights: bool = False) -> tuple[Tensor, Tensor | None]:
        """As in `Block`; attention weights of windows are `(b * windows, heads, n, n)`."""
        x, attention = super().forward(x, layout, weights)
        if self.residual is not None:
            x = self.residual(as_map(x, layout)).flatten(2).transpose(1, 2)
        return x, attention

    def attend(self, x: Tensor, layout: Layout, weights: bool) -> tuple[Tensor, Tensor | None]:
        """Attention on normed tokens; windows that reach beyond the patches see zeros there."""
        if not self.window:
            return super().attend(x, layout, weights)
        side, (rows, columns) = self.window, (layout.rows, layout.columns)
        x = pad_to_multiple(x.view(x.shape[0], rows, columns, -1), (side, side))
        height, width = x.shape[1:3]
        windows, attention = super().attend(to_windows(x, side), Layout(0, side, side), weights)
        return from_windows(windows, side, height, width)[:, :rows, :columns].flatten(1, 2), attention

    def score_bias(self, queries: Tensor, layout: Layout) -> Tensor | None:
        """How well a query fits the row and the column of a key relative to its own."""
        if not self.relative:
            return None
        q = queries.reshape(*queries.shape[:2], layout.rows, layout.columns, -1)  # (b, heads, rows, columns, d)
        rows, columns = self.part("attention.rel_pos_h"), self.part("attention.rel_pos_w")
        down = torch.einsum("bnrcd,rkd->bnrck", q, self._relative(rows, layout.rows))
        across = torch.einsum("bnrcd,ckd->bnrck", q, self._relative(columns, layout.columns))
        return (down[..., :, None] + across[..., None, :]).flatten(4).flatten(2, 3)

    def _relative(self, table: Tensor, cells: int) -> Tensor:
        """`(cells, cells, d)`: the row of a table for each pair of a line, `table` being resized to that many cells."""
        index = self.tables.get((cells, table.device), lambda: steps(cells, table.device))
        return self.resize(table[:, None], 2 * cells - 1, 1)[:, 0][index]

    def feed_forward(self, x: Tensor) -> Tensor:
        """The perceptron on normed tokens."""
        inner, outer = map(self.part, self.spelling.mlp)
        return self.inner_dropout(feed_forward(x, inner, self.act, outer, self.inner_dropout))  # type: ignore[no-any-return]


class VitDetWeights(PlainViT):
    """What all ViTDet classes share."""

    config: VitDetConfig
    config_class = VitDetConfig
    base_model_prefix: ClassVar[str] = "vitdet"
    norm_path = None

    def make_embeddings(self) -> Embeddings:
        """The stem: patches with positions; the table's row for a class token has no use."""
        config = self.config
        return Embeddings(
            config.num_channels,
            config.hidden_size,
            config.patch,
            patches="projection",
            positions="position_embeddings" if config.use_absolute_position_embeddings else None,
            grid=config.pretrain_grid,
            draw=partial(nn.init.trunc_normal_, std=config.initializer_range),
        )

    def make_block(self, index: int) -> Block:
        """A layer."""
        config = self.config
        return VitDetBlock(
            SPELLING,
            config.hidden_size,
            config.num_attention_heads,
            int(config.hidden_size * config.mlp_ratio),
            activation(config.hidden_act),
            grid=config.grid if config.use_relative_position_embeddings else None,
            window=config.window_size if index in config.window_block_indices else 0,
            residual=index in config.residual_block_indices,
            dropout=config.dropout_prob,
            draw=partial(nn.init.trunc_normal_, std=config.initializer_range),
            qkv_bias=config.qkv_bias,
            eps=config.layer_norm_eps,
            drop_path=drop_path_rates(config.drop_path_rate, [config.num_hidden_layers])[0][index],
        )


def as_maps(states: Sequence[Tensor] | None, rows: int, columns: int) -> tuple[Tensor, ...] | None:
    """Hidden states `(b, t, c)` as maps."""
    return None if states is None else tuple(as_map(state, Layout(0, rows, columns)) for state in states)


class VitDetBackbone(VitDetWeights, PlainViTBackbone):
    """ViTDet as a backbone: stages `stem`, `stage1`, `stage2`, …, all at the stride of the patches; maps pass no norm.

    Hidden states are maps `(b, c, h, w)`.
    """

    config: VitDetConfig

    def forward_features(
        self, pixel_values: Tensor, *, output_hidden_states: bool, output_attentions: bool
    ) -> BackboneOutput:
        """Run the stem and the layers needed."""
        output = super().forward_features(
            pixel_values, output_hidden_states=output_hidden_states, output_attentions=output_attentions
        )
        down, right = self.config.patch
        rows, columns = pixel_values.shape[2] // down, pixel_values.shape[3] // right
        output.hidden_states = as_maps(output.hidden_states, rows, columns)
        return output

    def _crop(self, output: BackboneOutput, height: int, width: int) -> None:
        Backbone._crop(self, output, height, width)


class VitDetModel(VitDetWeights, PlainViTModel):
    """ViTDet without a head: its states are maps `(b, c, h, w)`, and nothing is pooled."""

    config: VitDetConfig

    def finish(self, x: Tensor, layout: Layout) -> tuple[Tensor, Tensor | None]:
        """The last layer's state as a map."""
        return as_map(x, layout), None

    def encode(self, pixel_values: Tensor, output_hidden_states: bool, output_attentions: bool) -> BaseModelOutput:
        """Return the last state and, on request, all of them and the attention weights of all layers."""
        output = super().encode(pixel_values, output_hidden_states, output_attentions)
        rows, columns = cast(Tensor, output.last_hidden_state).shape[-2:]
        output.hidden_states = as_maps(output.hidden_states, rows, columns)
        return output
