"""DINOv2 (Oquab et al. 2023): checkpoints of the `facebook/dinov2-*` kind."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from vertebra.activations import activation
from vertebra.backbones.patches import Embeddings, Token
from vertebra.backbones.vit_base import PlainViT, PlainViTBackbone
from vertebra.backbones.vit_config import PlainViTConfig
from vertebra.backbones.vit_layers import Block, Spelling
from vertebra.backbones.vit_models import PlainViTClassifier, PlainViTModel
from vertebra.outputs import BaseModelOutput

SPELLING = Spelling(
    norm1="norm1",
    qkv=tuple(f"attention.attention.{name}" for name in ("query", "key", "value")),
    out="attention.output.dense",
    norm2="norm2",
    mlp=("mlp.fc1", "mlp.fc2"),
    scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
)
GATED = SPELLING._replace(mlp=("mlp.weights_in", "mlp.weights_out"))
HEAD = {r"^classifier\.": "a classification head"}
MASK = {r"\bmask_token$": "used by pre-training alone"}
NO_FINAL_NORM = {r"^(\w+\.)?layernorm\.": "files of backbones whose maps are not normed have no final norm"}


class Dinov2Config(PlainViTConfig):
    """Configuration of a DINOv2; the defaults are DINOv2-B.

    Args:
        hidden_size: Channels.
        num_hidden_layers: Layers.
        num_attention_heads: Attention heads of each layer.
        mlp_ratio: Channels inside the perceptron of a layer over those outside.
        hidden_act: Name of the activation.
        hidden_dropout_prob: Dropout on the embedded tokens.
        attention_probs_dropout_prob: Dropout on attention weights.
        initializer_range: Standard deviation of initial weights.
        layer_norm_eps: Epsilon of the norms.
        image_size: Size the checkpoint was trained at, one side or `(height, width)`; positions are resized to any other.
        patch_size: Side of a patch, one number or `(height, width)`.
        num_channels: Channels of the input.
        qkv_bias: Whether queries, keys and values have a bias.
        layerscale_value: Initial value of the factors on what attention and the perceptron give.
        drop_path_rate: Drop path, the same in all layers.
        use_swiglu_ffn: Whether the perceptron is gated, as in DINOv2-g; it then has two thirds of the channels.
        use_mask_token: Whether the weights hold the mask token of pre-training.
    """

    model_type = "dinov2"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    mlp_ratio: float = 4
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-6
    image_size: int | Sequence[int] = 224
    patch_size: int | Sequence[int] = 14
    num_channels: int = 3
    qkv_bias: bool = True
    layerscale_value: float = 1.0
    drop_path_rate: float = 0.0
    use_swiglu_ffn: bool = False
    use_mask_token: bool = True


class Dinov2Weights(PlainViT):
    """What all DINOv2 classes share."""

    config_class: ClassVar[Any] = Dinov2Config
    base_model_prefix: ClassVar[str] = "dinov2"
    explained_missing = MASK
    explained_unexpected = {**HEAD, **MASK}
    antialias: ClassVar[bool] = False
    """Of the resizing of positions."""

    def tokens(self) -> list[Token]:
        """The tokens before the patches; the first has a position."""
        start = partial(nn.init.trunc_normal_, std=self.config.initializer_range)
        return [Token("cls_token", (1, 1, self.config.hidden_size), start)]

    def make_embeddings(self) -> Embeddings:
        """The stem: patches and tokens, the mask token kept among the weights."""
        config, tokens = self.config, self.tokens()
        return Embeddings(
            config.num_channels,
            config.hidden_size,
            config.patch,
            tokens=tokens,
            grid=config.grid,
            draw=tokens[0].draw,
            mask=Token("mask_token", (1, config.hidden_size)) if config.use_mask_token else None,
            antialias=self.antialias,
            dropout=config.hidden_dropout_prob,
        )

    def make_block(self, index: int) -> Block:
        """A layer."""
        config = self.config
        hidden, gated = int(config.hidden_size * config.mlp_ratio), config.use_swiglu_ffn
        return Block(
            GATED if gated else SPELLING,
            config.hidden_size,
            config.num_attention_heads,
            -(-int(hidden * 2 / 3) // 8) * 8 if gated else hidden,
            activation("silu" if gated else config.hidden_act),
            qkv_bias=config.qkv_bias,
            gated=gated,
            scale=config.layerscale_value,
            eps=config.layer_norm_eps,
            attention_dropout=config.attention_probs_dropout_prob,
            drop_path=config.drop_path_rate,
        )


class Dinov2Backbone(Dinov2Weights, PlainViTBackbone):
    """DINOv2 as a backbone: stages `stem`, `stage1`, `stage2`, …, all at the stride of the patches.

    Each selected state passes the final norm, unless the configuration has `apply_layernorm=False`.
    """

    config: Dinov2Config
    explained_unexpected = {
        **Dinov2Weights.explained_unexpected,
        r"^(\w+\.)?layernorm\.": "the final norm, which no selected map passes (apply_layernorm=False)",
    }


class Dinov2Model(Dinov2Weights, PlainViTModel):
    """DINOv2 without a head; the pooled output is the class token."""

    config: Dinov2Config
    explained_missing = {**MASK, **NO_FINAL_NORM}


class Dinov2ForImageClassification(Dinov2Weights, PlainViTClassifier):
    """DINOv2 with a linear classifier on the class token and the mean of the patches."""

    config: Dinov2Config
    model_class = Dinov2Model
    described = 2
    explained_missing = {**PlainViTClassifier.explained_missing, **MASK, **NO_FINAL_NORM}
    explained_unexpected = MASK

    def describe(self, base: BaseModelOutput, prefix: int) -> Tensor:
        """The class token beside the mean of the patches, `(b, 2 * c)`."""
        last = cast(Tensor, base.last_hidden_state)
        return torch.cat([last[:, 0], last[:, prefix:].mean(dim=1)], dim=1)
