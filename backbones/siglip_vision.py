"""SigLIP's image tower (Zhai et al. 2023): checkpoints of the `google/siglip-*` kind, whole or the tower alone.

SigLIP 2 of fixed size (`google/siglip2-base-patch16-224`) is published as this family.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vertebra.activations import activation
from vertebra.attention import attend
from vertebra.backbones.clip_vision import SPELLING
from vertebra.backbones.layers import Mlp
from vertebra.backbones.patches import Embeddings
from vertebra.backbones.towers import Tower, TowerClassifier, TowersConfig
from vertebra.backbones.vit_base import PlainViTBackbone
from vertebra.backbones.vit_config import PlainViTConfig
from vertebra.backbones.vit_layers import Block, Layout
from vertebra.backbones.vit_models import PlainViTModel
from vertebra.linear import Linear
from vertebra.placing import Node, place_tensor

POOLING = {r"^(\w+\.)?head\.": "the head that pools"}


class SiglipVisionConfig(PlainViTConfig):
    """Configuration of SigLIP's image tower; the defaults are ViT-B/16. A file of a whole SigLIP is read too.

    Args:
        hidden_size: Channels.
        intermediate_size: Channels inside the perceptron of a layer.
        num_hidden_layers: Layers.
        num_attention_heads: Attention heads of each layer.
        num_channels: Channels of the input.
        image_size: Size the checkpoint was trained at, one side or `(height, width)`; positions are resized to any other.
        patch_size: Side of a patch, one number or `(height, width)`.
        hidden_act: Name of the activation.
        layer_norm_eps: Epsilon of the norms.
        attention_dropout: Dropout on attention weights.
        vision_use_head: Whether the model without a head pools its patches by attention.
    """

    model_type = "siglip_vision_model"
    held_by = {"siglip": "vision_config"}

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int | Sequence[int] = 224
    patch_size: int | Sequence[int] = 16
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6
    attention_dropout: float = 0.0
    vision_use_head: bool = True


class SiglipConfig(TowersConfig):
    """Configuration of a whole SigLIP, of which the image tower is built here.

    Args:
        text_config: Of the tower of texts; kept as it is.
        vision_config: Of the image tower: a `SiglipVisionConfig`, or its dictionary.
        initializer_factor: Factor on the standard deviation of a classifier's initial weights.
    """

    model_type = "siglip"
    vision_class = SiglipVisionConfig

    text_config: Mapping[str, Any] | None = None
    vision_config: Any = None
    initializer_factor: float = 1.0


class JointProjection(Node):
    """Attention whose queries, keys and values are projected by one matrix, spelled as in `torch.nn.MultiheadAttention`."""

    in_proj_weight: Tensor
    in_proj_bias: Tensor

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        place_tensor(self, "in_proj_weight", nn.Parameter(torch.empty(3 * width, width)), nn.init.xavier_uniform_)
        place_tensor(self, "in_proj_bias", nn.Parameter(torch.empty(3 * width)), nn.init.zeros_)
        self.out_proj = Linear(width, width)

    def forward(self, queries: Tensor, x: Tensor) -> Tensor:
        """`(b, q, width)` queries to tokens `(b, t, width)`; returns `(b, q, width)`."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = map(nn.functional.linear, (queries, x, x), weights, biases)
        context, _ = attend(q, k, v, self.heads)
        return self.out_proj(context)  # type: ignore[no-any-return]


class PoolingHead(Node):
    """A learned query attends to all tokens, then passes a perceptron."""

    probe: Tensor

    def __init__(self, width: int, heads: int, hidden: int, act: str, eps: float) -> None:
        super().__init__()
        place_tensor(self, "probe", nn.Parameter(torch.empty(1, 1, width)), nn.init.xavier_uniform_)
        self.attention = JointProjection(width, heads)
        self.layernorm = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, hidden, act)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, t, width)` to `(b, width)`."""
        pooled = self.attention(self.probe.expand(x.shape[0], -1, -1), x)
        return (pooled + self.mlp(self.layernorm(pooled)))[:, 0]  # type: ignore[no-any-return]


class SiglipVisionWeights(Tower):
    """What all classes of SigLIP's image tower share."""

    config_class = SiglipVisionConfig

    def make_embeddings(self) -> Embeddings:
        """The stem: patches with positions, and no class token."""
        config = self.config
        return Embeddings(
            config.num_channels,
            config.hidden_size,
            config.patch,
            patches="patch_embedding",
            positions="position_embedding.weight",
            grid=config.grid,
            extra=0,
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
            eps=config.layer_norm_eps,
            attention_dropout=config.attention_dropout,
        )

    def _init_weights(self, module: nn.Module) -> None:
        starts: dict[type[nn.Module], Any] = {
            Linear: nn.init.xavier_uniform_,
            nn.Linear: nn.init.xavier_uniform_,
            nn.Conv2d: partial(nn.init.kaiming_normal_, nonlinearity="linear"),
            nn.Embedding: partial(nn.init.normal_, std=self.config.hidden_size**-0.5),
        }
        if start := starts.get(type(module)):
            start(module.weight)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        else:
            super()._init_weights(module)


class SiglipVisionBackbone(SiglipVisionWeights, PlainViTBackbone):
    """SigLIP's image tower as a backbone: stages `stem`, `stage1`, `stage2`, …, all at the stride of the patches.

    Each selected state passes the final norm, unless the configuration has `apply_layernorm=False`.
    """

    config: SiglipVisionConfig
    explained_unexpected = {
        **Tower.explained_unexpected,
        **POOLING,
        r"^(\w+\.)?post_layernorm\.": "the final norm, which no selected map passes (apply_layernorm=False)",
    }


class SiglipVisionModel(SiglipVisionWeights, PlainViTModel):
    """SigLIP's image tower without a head for a task; the pooled output is that of its pooling head, where it has one."""

    config: SiglipVisionConfig
    pooler_path = "vision_model.head"
    explained_missing = {r"^(\w+\.)?head\.": "files of backbones have no pooling head"}

    def make_pooler(self) -> PoolingHead | None:
        """The head that pools by attention."""
        config = self.config
        if not config.vision_use_head:
            return None
        return PoolingHead(
            config.hidden_size,
            config.num_attention_heads,
            config.intermediate_size,
            config.hidden_act,
            config.layer_norm_eps,
        )

    def finish(self, x: Tensor, layout: Layout) -> tuple[Tensor, Tensor | None]:
        """The final norm, and the head on what it gives."""
        x = self.final_norm(x)
        return x, self.get_submodule(self.pooler_path)(x) if self.config.vision_use_head else None


class SiglipVisionTransformer(SiglipVisionModel):
    """The tower as a whole model holds it, under `vision_model`: its parts stand at the top."""

    embeddings_path = "embeddings"
    layers_path = "encoder.layers"
    norm_path = "post_layernorm"
    pooler_path = "head"


class SiglipForImageClassification(TowerClassifier):
    """SigLIP's image tower with a linear classifier on the mean of the patches."""

    config_class = SiglipConfig
    tower = SiglipVisionTransformer
    explained_missing = {
        **TowerClassifier.explained_missing,
        r"^vision_model\.head\.": "files of backbones have no pooling head",
    }
