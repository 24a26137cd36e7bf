"""DINOv3 (Siméoni et al. 2025), the vision transformers: checkpoints of the `facebook/dinov3-vit*` kind."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from vertebra.activations import activation
from vertebra.backbones.patches import Embeddings, Token
from vertebra.backbones.rotary import Rotary
from vertebra.backbones.vit_base import PlainViT, PlainViTBackbone
from vertebra.backbones.vit_config import PlainViTConfig
from vertebra.backbones.vit_layers import Block, Layout, Spelling
from vertebra.backbones.vit_models import PlainViTModel

SPELLING = Spelling(
    norm1="norm1",
    qkv=tuple(f"attention.{name}_proj" for name in "qkv"),
    out="attention.o_proj",
    norm2="norm2",
    mlp=("mlp.up_proj", "mlp.down_proj"),
    scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
)
GATED = SPELLING._replace(mlp=("mlp.gate_proj", *SPELLING.mlp))
MASK = {r"\bmask_token$": "used by pre-training alone"}


class DINOv3ViTConfig(PlainViTConfig):
    """Configuration of a DINOv3 vision transformer; the defaults are ViT-S/16 without registers.

    Args:
        patch_size: Side of a patch, one number or `(height, width)`.
        hidden_size: Channels.
        intermediate_size: Channels inside the perceptron of a layer.
        num_hidden_layers: Layers.
        num_attention_heads: Attention heads of each layer.
        hidden_act: Name of the activation.
        attention_dropout: Dropout on attention weights.
        initializer_range: Standard deviation of initial weights.
        layer_norm_eps: Epsilon of the norms.
        rope_theta: Base of the frequencies of positions.
        image_size: Size the checkpoint was trained at; positions do not depend on it.
        num_channels: Channels of the input.
        query_bias: Whether queries have a bias.
        key_bias: Whether keys have one.
        value_bias: Whether values have one.
        proj_bias: Whether attention's output has one.
        mlp_bias: Whether the perceptron's layers have one.
        layerscale_value: Initial value of the factors on what attention and the perceptron give.
        drop_path_rate: Drop path, the same in all layers.
        use_gated_mlp: Whether the perceptron is gated.
        num_register_tokens: Learned tokens between class token and patches.
        pos_embed_shift: Largest random shift of positions in training, or None.
        pos_embed_jitter: Largest random factor on positions along one axis in training, or None.
        pos_embed_rescale: Largest random factor on positions in training, or None.
    """

    model_type = "dinov3_vit"

    patch_size: int | Sequence[int] = 16
    hidden_size: int = 384
    intermediate_size: int = 1536
    num_hidden_layers: int = 12
    num_attention_heads: int = 6
    hidden_act: str = "gelu"
    attention_dropout: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    rope_theta: float = 100.0
    image_size: int | Sequence[int] = 224
    num_channels: int = 3
    query_bias: bool = True
    key_bias: bool = False
    value_bias: bool = True
    proj_bias: bool = True
    mlp_bias: bool = True
    layerscale_value: float = 1.0
    drop_path_rate: float = 0.0
    use_gated_mlp: bool = False
    num_register_tokens: int = 0
    pos_embed_shift: float | None = None
    pos_embed_jitter: float | None = None
    pos_embed_rescale: float | None = 2.0

    def validate(self) -> None:
        """Check that rotations fit a head. Raises ValueError."""
        super().validate()
        if (self.hidden_size // self.num_attention_heads) % 4:
            raise ValueError(
                f"hidden_size={self.hidden_size} and num_attention_heads={self.num_attention_heads} make heads of "
                f"{self.hidden_size // self.num_attention_heads} channels; rotary positions need a multiple of 4."
            )


class DINOv3ViTWeights(PlainViT):
    """What all classes of DINOv3's vision transformers share."""

    config_class = DINOv3ViTConfig
    base_model_prefix: ClassVar[str] = "dinov3_vit"
    layers_path = "layer"
    norm_path = "norm"
    explained_missing = MASK
    explained_unexpected = MASK
    rope_embeddings: Rotary

    def make_embeddings(self) -> Embeddings:
        """The stem: patches and tokens without positions, the mask token kept among the weights."""
        config = self.config
        start = partial(nn.init.trunc_normal_, std=config.initializer_range)
        return Embeddings(
            config.num_channels,
            config.hidden_size,
            config.patch,
            patches="patch_embeddings",
            tokens=(
                Token("cls_token", (1, 1, config.hidden_size), start),
                Token("register_tokens", (1, config.num_register_tokens, config.hidden_size), start),
            ),
            positions=None,
            mask=Token("mask_token", (1, 1, config.hidden_size)),
        )

    def make_block(self, index: int) -> Block:
        """A layer."""
        config = self.config
        return Block(
            GATED if config.use_gated_mlp else SPELLING,
            config.hidden_size,
            config.num_attention_heads,
            config.intermediate_size,
            activation(config.hidden_act),
            qkv_bias=(config.query_bias, config.key_bias, config.value_bias),
            out_bias=config.proj_bias,
            mlp_bias=config.mlp_bias,
            gated=config.use_gated_mlp,
            scale=config.layerscale_value,
            eps=config.layer_norm_eps,
            attention_dropout=config.attention_dropout,
            drop_path=config.drop_path_rate,
        )

    def build(self, depth: int, norm: bool = True) -> None:
        """Make the layers, and the positions that all of them share."""
        config = self.config
        self.rope_embeddings = Rotary(
            config.hidden_size // config.num_attention_heads,
            config.rope_theta,
            config.pos_embed_shift,
            config.pos_embed_jitter,
            config.pos_embed_rescale,
        )
        super().build(depth, norm)

    def layout(self, rows: int, columns: int, x: Tensor) -> Layout:
        """How the tokens lie, and by how much queries and keys are turned."""
        plain = super().layout(rows, columns, x)
        return plain._replace(rotation=self.rope_embeddings(rows, columns, plain.prefix, x))


class DINOv3ViTBackbone(DINOv3ViTWeights, PlainViTBackbone):
    """DINOv3's vision transformer as a backbone: stages `stem`, `stage1`, `stage2`, …, all at the stride of the patches.

    Each selected state passes the final norm; with `apply_layernorm=False` the last stage does so still.
    """

    config: DINOv3ViTConfig
    maps_keep_prefix = False
    explained_unexpected = {**MASK, r"^norm\.": "the final norm, which no selected map passes (apply_layernorm=False)"}

    def norm_for(self, stage: int) -> bool:
        """The last stage's map always passes the final norm."""
        return self.config.apply_layernorm or stage == len(self.stages) - 1


class DINOv3ViTModel(DINOv3ViTWeights, PlainViTModel):
    """DINOv3's vision transformer without a head; the pooled output is the class token."""

    config: DINOv3ViTConfig
    explained_missing = {**MASK, r"^norm\.": "files of backbones whose maps are not normed have no final norm"}
