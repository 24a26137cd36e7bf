"""What the models of `vertebra.heads` return."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vertebra.outputs import ModelOutput, Tensors


@dataclass(repr=False)
class SemanticSegmenterOutput(ModelOutput):
    """What a model returns that gives every pixel a class.

    Args:
        loss: A scalar, when labels were given.
        logits: `(b, num_labels, height, width)` scores before softmax.
        hidden_states: On request, the backbone's.
        attentions: On request, the backbone's.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@dataclass(repr=False)
class MaskFormerModelOutput(ModelOutput):
    """What MaskFormer without its head returns.

    Args:
        encoder_last_hidden_state: `(b, c, h, w)`, the coarsest map of the backbone.
        pixel_decoder_last_hidden_state: `(b, mask_feature_size, h, w)` at the size of the finest map.
        transformer_decoder_last_hidden_state: `(b, queries, d_model)`.
        encoder_hidden_states: On request, the maps of the backbone, the finest first.
        pixel_decoder_hidden_states: On request, the maps of the pixel decoder's pyramid, the finest last.
        transformer_decoder_hidden_states: On request, the queries before each layer, and at the end.
        hidden_states: On request, these three in one tuple.
        attentions: On request, `(b, heads, queries, queries)` weights among queries, per layer.
    """

    encoder_last_hidden_state: torch.Tensor | None = None
    pixel_decoder_last_hidden_state: torch.Tensor | None = None
    transformer_decoder_last_hidden_state: torch.Tensor | None = None
    encoder_hidden_states: Tensors | None = None
    pixel_decoder_hidden_states: Tensors | None = None
    transformer_decoder_hidden_states: Tensors | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@dataclass(repr=False)
class MaskFormerForInstanceSegmentationOutput(ModelOutput):
    """What MaskFormer returns; the fields after the auxiliary predictions are those of `MaskFormerModelOutput`.

    Args:
        loss: A scalar, when labels were given.
        class_queries_logits: `(b, queries, num_labels + 1)` scores before softmax, the null class last.
        masks_queries_logits: `(b, queries, h, w)` scores before sigmoid, at the size of the backbone's finest map.
        auxiliary_logits: On request, the predictions before each layer of the decoder: dictionaries with the two logits.
        encoder_last_hidden_state: As there.
        pixel_decoder_last_hidden_state: As there.
        transformer_decoder_last_hidden_state: As there.
        encoder_hidden_states: As there.
        pixel_decoder_hidden_states: As there.
        transformer_decoder_hidden_states: As there.
        hidden_states: As there.
        attentions: As there.
    """

    loss: torch.Tensor | None = None
    class_queries_logits: torch.Tensor | None = None
    masks_queries_logits: torch.Tensor | None = None
    auxiliary_logits: list[dict[str, torch.Tensor]] | None = None
    encoder_last_hidden_state: torch.Tensor | None = None
    pixel_decoder_last_hidden_state: torch.Tensor | None = None
    transformer_decoder_last_hidden_state: torch.Tensor | None = None
    encoder_hidden_states: Tensors | None = None
    pixel_decoder_hidden_states: Tensors | None = None
    transformer_decoder_hidden_states: Tensors | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@dataclass(repr=False)
class Mask2FormerModelOutput(ModelOutput):
    """What Mask2Former without its head returns.

    Args:
        encoder_last_hidden_state: `(b, c, h, w)`, the coarsest map of the backbone.
        pixel_decoder_last_hidden_state: `(b, mask_feature_size, h, w)` at the stride of the masks.
        transformer_decoder_last_hidden_state: `(b, queries, hidden_dim)`.
        encoder_hidden_states: On request, the maps of the backbone, the finest first.
        pixel_decoder_hidden_states: On request, the pixel decoder's three levels, the coarsest first.
        transformer_decoder_hidden_states: On request, `(queries, b, hidden_dim)` before each layer, and at the end.
        transformer_decoder_intermediate_states: On request, the same after the final norm.
        masks_queries_logits: `(b, queries, h, w)` scores before sigmoid, before the first layer and after each.
        attentions: On request, `(b, heads, queries, queries)` weights among queries, per layer.
    """

    encoder_last_hidden_state: torch.Tensor | None = None
    pixel_decoder_last_hidden_state: torch.Tensor | None = None
    transformer_decoder_last_hidden_state: torch.Tensor | None = None
    encoder_hidden_states: Tensors | None = None
    pixel_decoder_hidden_states: Tensors | None = None
    transformer_decoder_hidden_states: Tensors | None = None
    transformer_decoder_intermediate_states: Tensors | None = None
    masks_queries_logits: Tensors | None = None
    attentions: Tensors | None = None


@dataclass(repr=False)
class Mask2FormerForUniversalSegmentationOutput(ModelOutput):
    """What Mask2Former returns; the fields after the auxiliary predictions are those of `Mask2FormerModelOutput`.

    Args:
        loss: A scalar, when labels were given.
        class_queries_logits: `(b, queries, num_labels + 1)` scores before softmax, the null class last.
        masks_queries_logits: `(b, queries, h, w)` scores before sigmoid, at the stride of the masks.
        auxiliary_logits: On request, the predictions before each layer of the decoder: dictionaries with the two logits.
        encoder_last_hidden_state: As there.
        pixel_decoder_last_hidden_state: As there.
        transformer_decoder_last_hidden_state: As there.
        encoder_hidden_states: As there.
        pixel_decoder_hidden_states: As there.
        transformer_decoder_hidden_states: As there.
        attentions: As there.
    """

    loss: torch.Tensor | None = None
    class_queries_logits: torch.Tensor | None = None
    masks_queries_logits: torch.Tensor | None = None
    auxiliary_logits: list[dict[str, torch.Tensor]] | None = None
    encoder_last_hidden_state: torch.Tensor | None = None
    pixel_decoder_last_hidden_state: torch.Tensor | None = None
    transformer_decoder_last_hidden_state: torch.Tensor | None = None
    encoder_hidden_states: Tensors | None = None
    pixel_decoder_hidden_states: Tensors | None = None
    transformer_decoder_hidden_states: Tensors | None = None
    attentions: Tensors | None = None
