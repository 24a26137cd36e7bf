"""CLIP's image tower (Radford et al. 2021): checkpoints of the `openai/clip-vit-*` kind, whole or the tower alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from vertebra.activations import activation
from vertebra.backbones.patches import Embeddings, Token
from vertebra.backbones.towers import Tower, TowerClassifier, TowersConfig
from vertebra.backbones.vit_base import PlainViTBackbone
from vertebra.backbones.vit_config import PlainViTConfig
from vertebra.backbones.vit_layers import Block, Layout, Spelling
from vertebra.backbones.vit_models import PlainViTModel

SPELLING = Spelling(
    norm1="layer_norm1",
    qkv=tuple(f"self_attn.{name}_proj" for name in "qkv"),
    out="self_attn.out_proj",
    norm2="layer_norm2",
    mlp=("mlp.fc1", "mlp.fc2"),
)


class CLIPVisionConfig(PlainViTConfig):
    """Configuration of CLIP's image tower; the defaults are ViT-B/32. A file of a whole CLIP is read too.

    Args:
        hidden_size: Channels.
        intermediate_size: Channels inside the perceptron of a layer.
        projection_dim: Kept for the space that images share with texts; unused here.
        num_hidden_layers: Layers.
        num_attention_heads: Attention heads of each layer.
        num_channels: Channels of the input.
        image_size: Size the checkpoint was trained at, one side or `(height, width)`; positions are resized to any other.
        patch_size: Side of a patch, one number or `(height, width)`.
        hidden_act: Name of the activation.
        layer_norm_eps: Epsilon of the norms.
        attention_dropout: Dropout on attention weights.
        initializer_range: Standard deviation of initial patches and positions.
        initializer_factor: Factor on the standard deviations of all initial weights.
    """

    model_type = "clip_vision_model"
    held_by = {"clip": "vision_config"}

    hidden_size: int = 768
    intermediate_size: int = 3072
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int | Sequence[int] = 224
    patch_size: int | Sequence[int] = 32
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    attention_dropout: float = 0.0
    initializer_range: float = 0.02
    initializer_factor: float = 1.0


class CLIPConfig(TowersConfig):
    """Configuration of a whole CLIP, of which the image tower is built here.

    Args:
        text_config: Of the tower of texts; kept as it is.
        vision_config: Of the image tower: a `CLIPVisionConfig`, or its dictionary.
        projection_dim: Channels of the space that both share; kept.
        logit_scale_init_value: Kept.
        initializer_factor: Factor on the standard deviation of a classifier's initial weights.
    """

    model_type = "clip"
    vision_class = CLIPVisionConfig

    text_config: Mapping[str, Any] | None = None
    vision_config: Any = None
    projection_dim: int = 512
    logit_scale_init_value: float = 2.6592
    initializer_factor: float = 1.0


class CLIPVisionWeights(Tower):
    """What all classes of CLIP's image tower share."""

    config_class = CLIPVisionConfig
    pre_norm_path = "vision_model.pre_layrnorm"

    def make_embeddings(self) -> Embeddings:
        """The stem: patches without bias and a class token, each with a position."""
        config = self.config
        draw = partial(nn.init.normal_, std=config.hidden_size**-0.5 * config.initializer_factor)
        return Embeddings(
            config.num_channels,
            config.hidden_size,
            config.patch,
            patches="patch_embedding",
            tokens=[Token("class_embedding", (config.hidden_size,), draw)],
            positions="position_embedding.weight",
            grid=config.grid,
            bias=False,
        )

    def make_block(self, index: int) -> Block:
        """A layer."""
        config = self.config
        block = Block(
            SPELLING,
            config.hidden_size,
            config.num_attention_heads,
            config.intermediate_size,
            activation(config.hidden_act),
            eps=config.layer_norm_eps,
            attention_dropout=config.attention_dropout,
        )
        wide = config.hidden_size**-0.5
        deep = wide * (2 * config.num_hidden_layers) ** -0.5
        inner, outer = SPELLING.mlp
        stds = {**dict.fromkeys(SPELLING.qkv, deep), SPELLING.out: wide, inner: wide * 2**-0.5, outer: deep}
        for path, std in stds.items():
            block.part(path).initial_std = std
        return block

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.Embedding)):
            std: Any = getattr(module, "initial_std", self.config.initializer_range)
            nn.init.normal_(module.weight, std=std * self.config.initializer_factor)


class CLIPVisionBackbone(CLIPVisionWeights, PlainViTBackbone):
    """CLIP's image tower as a backbone: stages `stem`, `stage1`, `stage2`, …, all at the stride of the patches.

    Each selected state passes the final norm (`config.apply_layernorm`), which CLIP itself uses on the class token alone.
    """

    config: CLIPVisionConfig
    explained_unexpected = {
        **Tower.explained_unexpected,
        r"^(\w+\.)?post_layernorm\.": "the final norm, which no selected map passes (apply_layernorm=False)",
    }


class CLIPVisionModel(CLIPVisionWeights, PlainViTModel):
    """CLIP's image tower without a head; the pooled output is the class token through the final norm."""

    config: CLIPVisionConfig

    def finish(self, x: Tensor, layout: Layout) -> tuple[Tensor, Tensor | None]:
        """The last layer's state as it is, and its class token through the final norm."""
        return x, self.final_norm(x[:, 0])


class CLIPVisionTransformer(CLIPVisionModel):
    """The tower as a whole model holds it, under `vision_model`: its parts stand at the top."""

    embeddings_path = "embeddings"
    layers_path = "encoder.layers"
    norm_path = "post_layernorm"
    pre_norm_path = "pre_layrnorm"


class CLIPForImageClassification(TowerClassifier):
    """CLIP's image tower with a linear classifier on the mean of the patches."""

    config_class = CLIPConfig
    tower = CLIPVisionTransformer
