"""PVT v2 (Wang et al. 2021): checkpoints of the `OpenGVLab/pvt_v2_*` kind."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from vertebra.backbones.patches import two
from vertebra.backbones.pvt_base import Pyramid, PyramidBackbone, PyramidClassifier, PyramidConfig, PyramidModel
from vertebra.backbones.pvt_layers import Spelling


class PvtV2Config(PyramidConfig):
    """Configuration of a PVT v2; the defaults are PVT v2-B0.

    Args:
        image_size: Size the checkpoint was trained at: one side, `(height, width)`, or a dictionary of both; nothing depends on it.
        num_channels: Channels of the input.
        num_encoder_blocks: How many stages there are.
        depths: Blocks in each stage.
        sr_ratios: Side of the squares that become one cell to attend to, in each stage.
        hidden_sizes: Channels of each stage.
        patch_sizes: Kernel of the convolution that leads to each stage.
        strides: Its stride.
        num_attention_heads: Attention heads in each stage.
        mlp_ratios: Width of the hidden layer of an MLP over that of its input, in each stage.
        hidden_act: Name of the activation.
        hidden_dropout_prob: Dropout in and after the MLP, and after attention.
        attention_probs_dropout_prob: Dropout on attention weights.
        initializer_range: Standard deviation of initial weights of linear layers.
        drop_path_rate: Drop path of the last block; it grows linearly from 0 at the first.
        layer_norm_eps: Epsilon of all norms.
        qkv_bias: Whether queries, keys and values have a bias.
        linear_attention: Whether each stage attends to an average of 7x7 cells instead of what `sr_ratios` says.
    """

    model_type = "pvt_v2"

    image_size: int | Sequence[int] | Mapping[str, int] = (224, 224)
    num_channels: int = 3
    num_encoder_blocks: int = 4
    depths: Sequence[int] = (2, 2, 2, 2)
    sr_ratios: Sequence[int] = (8, 4, 2, 1)
    hidden_sizes: Sequence[int] = (32, 64, 160, 256)
    patch_sizes: Sequence[int] = (7, 3, 3, 3)
    strides: Sequence[int] = (4, 2, 2, 2)
    num_attention_heads: Sequence[int] = (1, 2, 5, 8)
    mlp_ratios: Sequence[float] = (8, 8, 4, 4)
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    drop_path_rate: float = 0.0
    layer_norm_eps: float = 1e-6
    qkv_bias: bool = True
    linear_attention: bool = False

    def _settle(self, given: dict[str, Any]) -> None:
        size = self.image_size
        self.image_size = (size["height"], size["width"]) if isinstance(size, Mapping) else two(size)
        super()._settle(given)

    @property
    def eps(self) -> float:
        """Of all norms."""
        return self.layer_norm_eps

    @property
    def biased(self) -> bool:
        """Whether queries, keys and values have a bias."""
        return self.qkv_bias

    @property
    def linear(self) -> bool:
        """Whether attention is to 7x7 cells."""
        return self.linear_attention


class PvtV2Weights(Pyramid):
    """What all PVT v2 classes share."""

    config_class = PvtV2Config
    base_model_prefix: ClassVar[str] = "pvt_v2"
    patches_path = "encoder.layers.{}.patch_embedding"
    blocks_path = "encoder.layers.{}.blocks"
    norm_path = "encoder.layers.{}.layer_norm"
    spelling = Spelling("query", "key", "value", "spatial_reduction", "layer_norm", "proj")

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, nn.Conv2d):
            outputs = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2.0 / outputs))
        if isinstance(module, (nn.Linear, nn.Conv2d)) and module.bias is not None:
            nn.init.zeros_(module.bias)


class PvtV2Backbone(PvtV2Weights, PyramidBackbone):
    """PVT v2 as a backbone: stages `stage1` (stride 4), `stage2` (8), … , and no stem; see `PyramidBackbone`."""

    config: PvtV2Config


class PvtV2Model(PvtV2Weights, PyramidModel):
    """PVT v2 without a head."""

    config: PvtV2Config


class PvtV2ForImageClassification(PvtV2Weights, PyramidClassifier):
    """PVT v2 with a linear classifier on the mean of the last map."""

    config: PvtV2Config
    base_class = PvtV2Model
