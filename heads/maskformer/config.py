"""Configurations of MaskFormer and of its transformer decoder, which is DETR's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vertebra.config import PreTrainedConfig
from vertebra.heads.config import ComposedConfig

BACKBONE_KEYS = ("use_timm_backbone", "backbone_config", "backbone", "use_pretrained_backbone", "backbone_kwargs")
FLOATS = ("no_object_weight", "init_std", "init_xavier_std", "dice_weight", "cross_entropy_weight", "mask_weight")


class DetrConfig(PreTrainedConfig):
    """Configuration of DETR (Carion et al. 2020) as far as it describes a transformer decoder.

    Keys of the encoder, the backbone and the losses are kept for files and other readers, and build nothing in MaskFormer.

    Args:
        use_timm_backbone: Kept.
        backbone_config: Kept.
        num_channels: Kept.
        num_queries: How many queries there are: the most segments found in one image.
        encoder_layers: Kept.
        encoder_ffn_dim: Kept.
        encoder_attention_heads: Kept.
        decoder_layers: Layers of the decoder.
        decoder_ffn_dim: Channels inside the MLPs.
        decoder_attention_heads: Attention heads.
        encoder_layerdrop: Kept.
        decoder_layerdrop: Probability with which a whole layer is left out while training, for the batch.
        is_encoder_decoder: Kept.
        activation_function: Name of the MLPs' activation.
        d_model: Channels of queries; a multiple of 4 and of the heads.
        dropout: Of each residual branch.
        attention_dropout: Of attention weights.
        activation_dropout: Inside the MLPs.
        init_std: Standard deviation of initial weights.
        init_xavier_std: Kept.
        auxiliary_loss: Whether the final norm also follows every layer.
        position_embedding_type: Kept; MaskFormer's positions are always sines.
        backbone: Kept.
        use_pretrained_backbone: Kept.
        backbone_kwargs: Kept.
        dilation: Kept; the null that transformers 4 writes becomes False, since transformers 5 refuses it.
        class_cost: Kept.
        bbox_cost: Kept.
        giou_cost: Kept.
        mask_loss_coefficient: Kept.
        dice_loss_coefficient: Kept.
        bbox_loss_coefficient: Kept.
        giou_loss_coefficient: Kept.
        eos_coefficient: Kept.
    """

    model_type = "detr"
    attribute_map = {
        "hidden_size": "d_model",
        "num_attention_heads": "encoder_attention_heads",
        "num_hidden_layers": "encoder_layers",
    }

    use_timm_backbone: bool | None = None
    backbone_config: Mapping[str, Any] | None = None
    num_channels: int = 3
    num_queries: int = 100
    encoder_layers: int = 6
    encoder_ffn_dim: int = 2048
    encoder_attention_heads: int = 8
    decoder_layers: int = 6
    decoder_ffn_dim: int = 2048
    decoder_attention_heads: int = 8
    encoder_layerdrop: float = 0.0
    decoder_layerdrop: float = 0.0
    is_encoder_decoder: bool = True
    activation_function: str = "relu"
    d_model: int = 256
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    init_std: float = 0.02
    init_xavier_std: float = 1.0
    auxiliary_loss: bool = False
    position_embedding_type: str = "sine"
    backbone: str | None = None
    use_pretrained_backbone: bool | None = None
    backbone_kwargs: Mapping[str, Any] | None = None
    dilation: bool | None = False
    class_cost: int = 1
    bbox_cost: int = 5
    giou_cost: int = 2
    mask_loss_coefficient: int = 1
    dice_loss_coefficient: int = 1
    bbox_loss_coefficient: int = 5
    giou_loss_coefficient: int = 2
    eos_coefficient: float = 0.1

    def validate(self) -> None:
        """Check that there are queries and layers. Raises ValueError."""
        super().validate()
        self.dilation = bool(self.dilation)
        for name in ("num_queries", "decoder_layers", "decoder_ffn_dim", "d_model", "decoder_attention_heads"):
            _check_whole(type(self).__name__, name, getattr(self, name))
        for name in ("decoder_layerdrop", "dropout", "attention_dropout", "activation_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)!r} of {type(self).__name__} is a probability, 0 to 1.")
        for name in ("init_std", "init_xavier_std", "eos_coefficient"):
            setattr(self, name, float(getattr(self, name)))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as a dictionary; what names no backbone stays out, as in files of transformers 5."""
        content = super().to_dict()
        return {name: value for name, value in content.items() if value is not None or name not in BACKBONE_KEYS}


class MaskFormerConfig(ComposedConfig):
    """Configuration of MaskFormer (Cheng et al. 2021); the keys of the backbone are `ComposedConfig`'s.

    Args:
        fpn_feature_size: Channels of the pixel decoder's pyramid, a multiple of 32.
        mask_feature_size: Channels in which masks and pixels are compared.
        no_object_weight: Weight of the null class in the loss.
        use_auxiliary_loss: Whether the loss also counts the predictions before each layer of the decoder.
        decoder_config: The transformer decoder's: a `DetrConfig` or its dictionary.
        init_std: Standard deviation of initial weights of class and mask projections and of queries.
        init_xavier_std: Gain of initial weights of the pyramid, the input projection and the mask embedding.
        dice_weight: Weight of the dice loss, in the loss and in the matching.
        cross_entropy_weight: Weight of the class loss; in the matching it is 1.
        mask_weight: Weight of the focal loss, in the loss and in the matching.
        output_auxiliary_logits: Whether forwards return the auxiliary predictions unless the call says otherwise.

    Raises:
        ValueError: a decoder that is not DETR's, sizes that do not fit, or as in `ComposedConfig`.
    """

    model_type = "maskformer"
    attribute_map = {"hidden_size": "mask_feature_size"}
    derived_keys = ("num_attention_heads", "num_hidden_layers")
    default_backbone = {
        "model_type": "swin",
        "depths": [2, 2, 18, 2],
        "drop_path_rate": 0.3,
        "image_size": 384,
        "embed_dim": 128,
        "num_heads": [4, 8, 16, 32],
        "window_size": 12,
    }
    backbone_spelling = {"swin": "maskformer-swin"}
    least_maps = 2

    fpn_feature_size: int = 256
    mask_feature_size: int = 256
    no_object_weight: float = 0.1
    use_auxiliary_loss: bool = False
    decoder_config: Mapping[str, Any] | DetrConfig | None = None
    init_std: float = 0.02
    init_xavier_std: float = 1.0
    dice_weight: float = 1.0
    cross_entropy_weight: float = 1.0
    mask_weight: float = 20.0
    output_auxiliary_logits: bool | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, _decoder(value) if name == "decoder_config" else value)

    @property
    def decoder(self) -> DetrConfig:
        """The decoder's configuration."""
        assert isinstance(self.decoder_config, DetrConfig)
        return self.decoder_config

    @property
    def num_attention_heads(self) -> int:
        """Heads of DETR's encoder, which MaskFormer lacks; written for other readers."""
        return self.decoder.encoder_attention_heads

    @property
    def num_hidden_layers(self) -> int:
        """Layers of DETR's encoder, which MaskFormer lacks; written for other readers."""
        return self.decoder.encoder_layers

    @classmethod
    def from_backbone_and_decoder_configs(
        cls, backbone_config: PreTrainedConfig, decoder_config: PreTrainedConfig, **kwargs: Any
    ) -> MaskFormerConfig:
        """The configuration of MaskFormer over this backbone and with this decoder, with `kwargs` as further keys."""
        return cls(backbone_config=backbone_config, decoder_config=decoder_config, **kwargs)

    def validate(self) -> None:
        """Check sizes and weights. Raises ValueError."""
        super().validate()
        name = type(self).__name__
        for key in ("fpn_feature_size", "mask_feature_size"):
            _check_whole(name, key, getattr(self, key))
        if self.fpn_feature_size % 32:
            raise ValueError(
                f"fpn_feature_size={self.fpn_feature_size} of {name} must be a multiple of 32, the groups of its norms."
            )
        for key in FLOATS:
            if isinstance(value := getattr(self, key), bool) or not isinstance(value, (int, float)) or not value >= 0:
                raise ValueError(f"{key}={value!r} of {name} must be a number, 0 or more.")
            setattr(self, key, float(value))


def _decoder(value: Any) -> DetrConfig:
    """A decoder's configuration from itself, its dictionary, or nothing."""
    if isinstance(value, DetrConfig):
        return value
    content = value.to_dict() if isinstance(value, PreTrainedConfig) else value
    if content is not None and (not isinstance(content, Mapping) or content.get("model_type", "detr") != "detr"):
        kind = content.get("model_type") if isinstance(content, Mapping) else content
        raise ValueError(
            f"decoder_config of model_type {kind!r}: MaskFormer's transformer decoder is DETR's; pass DetrConfig(…) or its "
            f"dictionary, model_type 'detr'."
        )
    return DetrConfig.from_dict(content or {})


def _check_whole(holder: str, name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r} of {holder} must be a whole number, 1 or more.")
