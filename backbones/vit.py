"""ViT (Dosovitskiy et al. 2020): checkpoints of the `google/vit-*` kind, and DINO's first."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from vertebra.activations import activation
from vertebra.backbones.patches import Embeddings, Token
from vertebra.backbones.vit_base import PlainViT, PlainViTBackbone
from vertebra.backbones.vit_config import PlainViTConfig
from vertebra.backbones.vit_layers import Block, Layout, Spelling
from vertebra.backbones.vit_models import PlainViTClassifier, PlainViTModel
from vertebra.linear import Linear

SPELLING = Spelling(
    norm1="layernorm_before",
    qkv=tuple(f"attention.attention.{name}" for name in ("query", "key", "value")),
    out="attention.output.dense",
    norm2="layernorm_after",
    mlp=("intermediate.dense", "output.dense"),
)
HEAD = {r"^classifier\.": "a classification head"}
PRETRAINING = {r"\bmask_token$|^decoder\.": "used by masked image modelling alone"}
NO_NORM = {r"^(\w+\.)?layernorm\.": "the final norm, which no selected map passes (apply_layernorm=False)"}
POOLER = {r"(^|\.)pooler\.": "only the model without a head has a pooler"}


class ViTConfig(PlainViTConfig):
    """Configuration of a ViT; the defaults are ViT-B/16.

    Args:
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
        qkv_bias: Whether queries, keys and values have a bias.
        encoder_stride: Kept for masked image modelling; unused here.
        pooler_output_size: Channels of the pooled output; `hidden_size` when None.
        pooler_act: Name of the activation on the pooled output.
    """

    model_type = "vit"

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
    qkv_bias: bool = True
    encoder_stride: int = 16
    pooler_output_size: int | None = None
    pooler_act: str = "tanh"


class Pooler(nn.Module):
    """The class token, through a linear layer and an activation."""

    def __init__(self, width: int, outputs: int, act: str) -> None:
        super().__init__()
        self.dense = Linear(width, outputs)
        self.activation = activation(act, "pooler_act")

    def forward(self, x: Tensor) -> Tensor:
        """`(b, t, width)` to `(b, outputs)`."""
        return self.activation(self.dense(x[:, 0]))


class ViTWeights(PlainViT):
    """What all ViT classes share."""

    config_class = ViTConfig
    base_model_prefix: ClassVar[str] = "vit"
    explained_unexpected = {**HEAD, **POOLER, **PRETRAINING}

    def tokens(self) -> list[Token]:
        """The tokens before the patches."""
        start = partial(nn.init.trunc_normal_, std=self.config.initializer_range)
        return [Token("cls_token", (1, 1, self.config.hidden_size), start)]

    def make_embeddings(self) -> Embeddings:
        """The stem: patches and tokens, each with a position."""
        config, tokens = self.config, self.tokens()
        return Embeddings(
            config.num_channels,
            config.hidden_size,
            config.patch,
            tokens=tokens,
            grid=config.grid,
            extra=len(tokens),
            draw=tokens[0].draw,
            dropout=config.hidden_dropout_prob,
        )

    def make_block(self, index: int) -> Block:
        """A layer."""
        config = self.config
        return Block(
            SPELLING,
            config.hidden_size,
            config.num_attention_heads,
            config.intermediate_size,
            activation(config.hidden_act),
            qkv_bias=config.qkv_bias,
            eps=config.layer_norm_eps,
            dropout=config.hidden_dropout_prob,
            attention_dropout=config.attention_probs_dropout_prob,
        )


class ViTBackbone(ViTWeights, PlainViTBackbone):
    """ViT as a backbone: stages `stem`, `stage1`, `stage2`, …, all at the stride of the patches, each through the final norm."""

    config: ViTConfig
    explained_unexpected = {**ViTWeights.explained_unexpected, **NO_NORM}


class ViTModel(ViTWeights, PlainViTModel):
    """ViT without a head."""

    config: ViTConfig
    explained_missing = {r"^pooler\.": "files of classifiers have no pooler"}
    explained_unexpected = {**HEAD, **PRETRAINING}

    def make_pooler(self) -> nn.Module:
        """A linear layer and an activation on the class token."""
        config = self.config
        return Pooler(config.hidden_size, config.pooler_output_size or config.hidden_size, config.pooler_act)

    def finish(self, x: Tensor, layout: Layout) -> tuple[Tensor, Tensor | None]:
        """The final norm, and the pooler on what it gives."""
        x = self.final_norm(x)
        pooler = self._modules.get(self.pooler_path)
        return x, None if pooler is None else pooler(x)


class ViTForImageClassification(ViTWeights, PlainViTClassifier):
    """ViT with a linear classifier on the class token."""

    config: ViTConfig
    model_class = ViTModel
    explained_unexpected = {**POOLER, **PRETRAINING}
