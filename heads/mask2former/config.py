"""Configuration of Mask2Former, with the keys of the hub's checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

from vertebra.activations import activation
from vertebra.heads.config import ComposedConfig

LEVELS = 3
"""How many maps the deformable encoder and the decoder work on, the last ones."""

WHOLE = {
    "feature_size": 1,
    "mask_feature_size": 1,
    "hidden_dim": 1,
    "encoder_feedforward_dim": 1,
    "encoder_layers": 0,
    "decoder_layers": 1,
    "num_attention_heads": 1,
    "dim_feedforward": 1,
    "num_queries": 1,
    "train_num_points": 1,
}
"""Keys that count something, and the least they may be."""
FLOATS = (
    "dropout",
    "no_object_weight",
    "class_weight",
    "mask_weight",
    "dice_weight",
    "oversample_ratio",
    "importance_sample_ratio",
    "init_std",
    "init_xavier_std",
)


class Mask2FormerConfig(ComposedConfig):
    """Configuration of a Mask2Former; the defaults are those of the checkpoints with a Swin-S.

    Args:
        feature_size: Channels inside the pixel decoder, a multiple of 32.
        mask_feature_size: Channels of the map that queries are multiplied with.
        hidden_dim: Channels of the queries, a multiple of 4.
        encoder_feedforward_dim: Hidden channels of the MLPs of the pixel decoder's encoder.
        activation_function: Of the MLPs of the transformer decoder.
        encoder_layers: Deformable layers of the pixel decoder.
        decoder_layers: Predictions of the transformer decoder: one before its first layer and one after each, so that it has one
            layer fewer. Layers take turns at three levels; what belongs to levels that fewer layers never get to is not trained.
        num_attention_heads: Of encoder and decoder.
        dropout: Everywhere, and the probability with which a layer of the decoder is skipped while training.
        dim_feedforward: Hidden channels of the MLPs of the transformer decoder.
        pre_norm: Whether layers of the transformer decoder norm before each branch, instead of after it.
        enforce_input_projection: Whether the decoder projects the maps even where their channels fit.
        common_stride: Stride of the masks: the first of `feature_strides`, or the third last for no level above the encoder's.
        ignore_value: What the image processor writes where a label is to be ignored; unused here.
        num_queries: How many masks are proposed.
        no_object_weight: Weight of the null class in the loss of classes.
        class_weight: Weight of the classes, in the loss and in the matching.
        mask_weight: Weight of the cross entropy of masks.
        dice_weight: Weight of the dice loss of masks.
        train_num_points: Points at which a mask is compared with a label.
        oversample_ratio: So many times as many are drawn first.
        importance_sample_ratio: Fraction that is taken where masks are uncertain.
        init_std: Standard deviation of initial weights.
        init_xavier_std: Gain of initial weights of the transformer decoder.
        use_auxiliary_loss: Whether the predictions before the last count in the loss.
        feature_strides: Strides of the backbone's maps, in pixels, each twice the one before; at least three.
        output_auxiliary_logits: Whether forwards return the predictions before the last.

    Raises:
        ValueError: strides that the pixel decoder cannot run, or numbers that do not fit each other.
    """

    model_type = "mask2former"
    attribute_map = {"hidden_size": "hidden_dim", "num_hidden_layers": "decoder_layers"}
    default_backbone: ClassVar[Mapping[str, Any]] = {
        "model_type": "swin",
        "depths": [2, 2, 18, 2],
        "drop_path_rate": 0.3,
    }

    feature_size: int = 256
    mask_feature_size: int = 256
    hidden_dim: int = 256
    encoder_feedforward_dim: int = 1024
    activation_function: str = "relu"
    encoder_layers: int = 6
    decoder_layers: int = 10
    num_attention_heads: int = 8
    dropout: float = 0.0
    dim_feedforward: int = 2048
    pre_norm: bool = False
    enforce_input_projection: bool = False
    common_stride: int = 4
    ignore_value: int = 255
    num_queries: int = 100
    no_object_weight: float = 0.1
    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    train_num_points: int = 12544
    oversample_ratio: float = 3.0
    importance_sample_ratio: float = 0.75
    init_std: float = 0.02
    init_xavier_std: float = 1.0
    use_auxiliary_loss: bool = True
    feature_strides: Sequence[int] = (4, 8, 16, 32)
    output_auxiliary_logits: bool | None = None

    @property
    def needed_strides(self) -> tuple[int, ...]:
        """One map for each of `feature_strides`."""
        return tuple(self.feature_strides)

    @property
    def fpn_levels(self) -> int:
        """How many maps lie above those of the encoder and are joined to them."""
        return len(self.feature_strides) - LEVELS if self.common_stride == self.feature_strides[0] else 0

    @property
    def least_maps(self) -> int:  # type: ignore[override]
        """The encoder's maps and those above."""
        return LEVELS + self.fpn_levels

    def validate(self) -> None:
        """Check strides, and that widths can be shared. Raises ValueError."""
        super().validate()
        self._check_strides()
        activation(self.activation_function)
        for name in WHOLE:
            if isinstance(value := getattr(self, name), bool) or not isinstance(value, int) or value < WHOLE[name]:
                raise ValueError(f"{name}={value!r} must be a whole number, {WHOLE[name]} or more.")
        for name in FLOATS:  # transformers reads no 2 where it expects 2.0
            if isinstance(value := getattr(self, name), bool) or not isinstance(value, (int, float)) or not value >= 0:
                raise ValueError(f"{name}={value!r} must be a number, 0 or more.")
            setattr(self, name, float(value))
        if self.dropout > 1:
            raise ValueError(f"dropout={self.dropout} is a probability, from 0 to 1.")
        for name, divisor, why in (
            ("feature_size", 32, "its norms have 32 groups"),
            ("hidden_dim", 4, "sines and cosines of rows and columns share it"),
            ("feature_size", self.num_attention_heads, "num_attention_heads share it"),
            ("hidden_dim", self.num_attention_heads, "num_attention_heads share it"),
        ):
            if getattr(self, name) % divisor:
                raise ValueError(f"{name}={getattr(self, name)} must be a multiple of {divisor}: {why}.")
        if self.importance_sample_ratio > 1 or self.oversample_ratio < self.importance_sample_ratio:
            raise ValueError(
                f"importance_sample_ratio={self.importance_sample_ratio} must be from 0 to 1, and oversample_ratio="
                f"{self.oversample_ratio} not below it: so large a fraction of the points is chosen among so many times as many."
            )

    def _check_strides(self) -> None:
        strides = list(self.feature_strides)
        if len(strides) < LEVELS or any(later != 2 * former for former, later in pairwise(strides)):
            raise ValueError(
                f"feature_strides={strides} must be at least {LEVELS} strides, each twice the one before, such as [4, 8, 16, 32]: "
                f"the pixel decoder works on the last {LEVELS} maps and enlarges by 2. neck=None takes maps of other strides as "
                f"they are."
            )
        if self.common_stride not in (strides[0], strides[-LEVELS]):
            raise ValueError(
                f"common_stride={self.common_stride} must be {strides[0]} (masks as fine as the first map) or "
                f"{strides[-LEVELS]} (as the encoder's finest map) with feature_strides={strides}; other masks need other "
                f"feature_strides."
            )
