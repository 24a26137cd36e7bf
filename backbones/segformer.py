"""SegFormer's encoder, MiT (Xie et al. 2021): checkpoints of the `nvidia/mit-*` and `nvidia/segformer-*` kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from vertebra.backbones.layers import start_normal
from vertebra.backbones.pvt_base import HEAD, Pyramid, PyramidBackbone, PyramidClassifier, PyramidConfig, PyramidModel
from vertebra.backbones.pvt_layers import Spelling
from vertebra.outputs import BaseModelOutput

DECODER = {r"^decode_head\.": "the head of SegFormer for semantic segmentation"}


class SegformerConfig(PyramidConfig):
    """Configuration of a SegFormer's encoder; the defaults are MiT-B0.

    Args:
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
        classifier_dropout_prob: Kept for the segmentation head; unused here.
        initializer_range: Standard deviation of initial weights.
        drop_path_rate: Drop path of the last block; it grows linearly from 0 at the first.
        layer_norm_eps: Kept for files; all norms have an epsilon of 1e-5, whatever it says, as the checkpoints were trained.
        decoder_hidden_size: Kept for the segmentation head; unused here.
        semantic_loss_ignore_index: Kept for the segmentation head; unused here.
        reshape_last_stage: Whether the last state of the model without a head is a map; else it is tokens. Backbones give maps.
    """

    model_type = "segformer"
    attribute_map = {"num_hidden_layers": "num_encoder_blocks"}

    num_channels: int = 3
    num_encoder_blocks: int = 4
    depths: Sequence[int] = (2, 2, 2, 2)
    sr_ratios: Sequence[int] = (8, 4, 2, 1)
    hidden_sizes: Sequence[int] = (32, 64, 160, 256)
    patch_sizes: Sequence[int] = (7, 3, 3, 3)
    strides: Sequence[int] = (4, 2, 2, 2)
    num_attention_heads: Sequence[int] = (1, 2, 5, 8)
    mlp_ratios: Sequence[float] = (4, 4, 4, 4)
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    classifier_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    drop_path_rate: float = 0.1
    layer_norm_eps: float = 1e-6
    decoder_hidden_size: int = 256
    semantic_loss_ignore_index: int = 255
    reshape_last_stage: bool = True


class SegformerWeights(Pyramid):
    """What all SegFormer classes share."""

    config_class = SegformerConfig
    base_model_prefix: ClassVar[str] = "segformer"
    patches_path = "encoder.patch_embeddings.{}"
    blocks_path = "encoder.block.{}"
    norm_path = "encoder.layer_norm.{}"
    spelling = Spelling("self.query", "self.key", "self.value", "self.sr", "self.layer_norm", "output.dense")

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        start_normal(module, self.config.initializer_range)


class SegformerBackbone(SegformerWeights, PyramidBackbone):
    """SegFormer's encoder as a backbone: stages `stage1` (stride 4), `stage2` (8), … , and no stem; see `PyramidBackbone`."""

    config: SegformerConfig
    explained_unexpected = {**HEAD, **DECODER}


class SegformerModel(SegformerWeights, PyramidModel):
    """SegFormer's encoder without a head."""

    config: SegformerConfig
    explained_unexpected = {**HEAD, **DECODER}

    def encode(self, pixel_values: Tensor, output_hidden_states: bool, output_attentions: bool) -> BaseModelOutput:
        """As for PVT v2; without `reshape_last_stage` the last state is tokens `(b, n, c)`."""
        output = super().encode(pixel_values, output_hidden_states, output_attentions)
        if not self.config.reshape_last_stage and output.last_hidden_state is not None:
            output.last_hidden_state = output.last_hidden_state.flatten(2).mT
            if output.hidden_states is not None:
                output.hidden_states = (*output.hidden_states[:-1], output.last_hidden_state)
        return output


class SegformerForImageClassification(SegformerWeights, PyramidClassifier):
    """SegFormer's encoder with a linear classifier on the mean of the last map."""

    config: SegformerConfig
    base_class = SegformerModel
    explained_unexpected = DECODER
