"""Mask2Former (Cheng et al. 2022) over any backbone; checkpoints of the `facebook/mask2former-*` kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vertebra.backbones.base import Backbone
from vertebra.heads.base import ComposedModel
from vertebra.heads.initial import normal, starting, xavier
from vertebra.heads.losses import check_targets
from vertebra.heads.mask2former.config import LEVELS, Mask2FormerConfig
from vertebra.heads.mask2former.decoder import Mask2FormerTransformer
from vertebra.heads.mask2former.loss import Mask2FormerLoss
from vertebra.heads.mask2former.pixel_decoder import Mask2FormerPixelDecoder
from vertebra.heads.outputs import Mask2FormerForUniversalSegmentationOutput, Mask2FormerModelOutput
from vertebra.heads.padding import check_pixel_mask, real_cells
from vertebra.heads.pixel_level import PixelLevelModule
from vertebra.linear import Linear

HEAD = r"^(class_predictor|criterion)\."


class Mask2FormerModel(ComposedModel):
    """Backbone, pixel decoder and transformer decoder, without the classes.

    Args:
        config: The configuration.
        backbone: A built backbone in the place of the one the configuration describes.
    """

    config_class = Mask2FormerConfig
    config: Mask2FormerConfig
    explained_unexpected = {HEAD: "the model without a head has none"}

    def __init__(self, config: Mask2FormerConfig, backbone: Backbone | None = None) -> None:
        super().__init__(config)
        encoder = self.compose(backbone)
        decoder = Mask2FormerPixelDecoder(
            encoder.channels,
            width=config.feature_size,
            mask_width=config.mask_feature_size,
            fpn_levels=config.fpn_levels,
            depth=config.encoder_layers,
            heads=config.num_attention_heads,
            hidden=config.encoder_feedforward_dim,
            dropout=config.dropout,
            start=normal(config.init_std),
        )
        self.pixel_level_module = PixelLevelModule(encoder, decoder)
        self.transformer_module = Mask2FormerTransformer(
            config.feature_size,
            config.hidden_dim,
            queries=config.num_queries,
            project=config.enforce_input_projection,
            start=xavier(config.init_xavier_std),
            mask_width=config.mask_feature_size,
            depth=config.decoder_layers - 1,
            layerdrop=config.dropout,
            heads=config.num_attention_heads,
            hidden=config.dim_feedforward,
            dropout=config.dropout,
            act=config.activation_function,
            pre_norm=config.pre_norm,
        )
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        every_mask: bool = True,
    ) -> Mask2FormerModelOutput | tuple[Any, ...]:
        """Describe pixels and queries.

        Args:
            pixel_values: `(b, c, height, width)` images, normalised as the image processor does.
            pixel_mask: `(b, height, width)`, 0 where an image is padded; neither pixels nor queries look there.
            output_hidden_states: Also return the maps of backbone and pixel decoder, and the queries before each layer.
            output_attentions: Also return the attention weights among queries.
            return_dict: False returns a plain tuple of what is not None.
            every_mask: Return the masks before each layer too, and not the last ones alone.

        Raises:
            ValueError: pixels or a mask of a wrong shape.
        """
        hidden, attentions, as_dict = self.asked_for(output_hidden_states, output_attentions, return_dict)
        if pixel_mask is not None:
            check_pixel_mask(pixel_mask, pixel_values)
        module = self.pixel_level_module
        maps = module.encoder(pixel_values, False, False, return_dict=True).feature_maps
        real = None
        if pixel_mask is not None:
            real = [real_cells(pixel_mask, x.shape[-2], x.shape[-1]) for x in reversed(maps[-LEVELS:])]
        pixels = module.decoder(maps, real)
        decoded = self.transformer_module(pixels, real, attentions)
        flat = pixels.masks.flatten(2)
        output = Mask2FormerModelOutput(
            encoder_last_hidden_state=maps[-1],
            pixel_decoder_last_hidden_state=pixels.masks,
            transformer_decoder_last_hidden_state=decoded.states[-1],
            encoder_hidden_states=maps if hidden else None,
            pixel_decoder_hidden_states=pixels.levels if hidden else None,
            transformer_decoder_hidden_states=_queries_first(decoded.states) if hidden else None,
            transformer_decoder_intermediate_states=_queries_first(decoded.normed) if hidden else None,
            masks_queries_logits=tuple(
                (embeddings @ flat).view(*embeddings.shape[:2], *pixels.masks.shape[-2:])
                for embeddings in (decoded.embeddings if every_mask else decoded.embeddings[-1:])
            ),
            attentions=tuple(decoded.attentions) if attentions else None,
        )
        return output if as_dict else output.to_tuple()


def _queries_first(states: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """`(b, q, width)` to `(q, b, width)`, as transformers returns them."""
    return tuple(state.transpose(0, 1) for state in states)


class Mask2FormerForUniversalSegmentation(ComposedModel):
    """Mask2Former with its head: every query has a class, or none, and a mask.

    The image processor's `post_process_semantic_segmentation`, `…_instance_…` and `…_panoptic_…` turn its output into segments.

    Args:
        config: The configuration.
        backbone: A built backbone in the place of the one the configuration describes.
    """

    config_class = Mask2FormerConfig
    config: Mask2FormerConfig
    explained_missing = {HEAD: "the head is trained on the new task"}

    def __init__(self, config: Mask2FormerConfig, backbone: Backbone | None = None) -> None:
        super().__init__(config)
        self.model = Mask2FormerModel(config, backbone)
        self.config = self.model.config
        self.class_predictor = starting(Linear(config.hidden_dim, config.num_labels + 1), normal(config.init_std))
        self.criterion = Mask2FormerLoss(
            config.num_labels,
            config.no_object_weight,
            config.class_weight,
            config.mask_weight,
            config.dice_weight,
            points=config.train_num_points,
            oversample_ratio=config.oversample_ratio,
            importance_ratio=config.importance_sample_ratio,
        )
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        mask_labels: Sequence[Tensor] | Tensor | None = None,
        class_labels: Sequence[Tensor] | Tensor | None = None,
        pixel_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_auxiliary_logits: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> Mask2FormerForUniversalSegmentationOutput | tuple[Any, ...]:
        """Predict a class and a mask for every query, and compute the loss where there are labels.

        Args:
            pixel_values: `(b, c, height, width)` images, normalised as the image processor does.
            mask_labels: Per image `(n, height, width)` masks from 0 to 1, padding included; n may be 0.
            class_labels: Per image `(n,)` classes from 0 to `num_labels - 1`.
            pixel_mask: `(b, height, width)`, 0 where an image is padded; neither pixels nor queries look there.
            output_hidden_states: Also return the maps of backbone and pixel decoder, and the queries before each layer.
            output_auxiliary_logits: Also return the predictions before each layer of the decoder.
            output_attentions: Also return the attention weights among queries.
            return_dict: False returns a plain tuple of what is not None.

        Raises:
            ValueError: pixels, a mask or labels that do not fit, or logits that are not finite; says which.
        """
        hidden, attentions, as_dict = self.asked_for(output_hidden_states, output_attentions, return_dict)
        labelled = mask_labels is not None or class_labels is not None
        targets = check_targets(mask_labels, class_labels, pixel_values, self.config.num_labels) if labelled else None
        auxiliary = self.config.output_auxiliary_logits if output_auxiliary_logits is None else output_auxiliary_logits
        early = bool(auxiliary) or (labelled and self.config.use_auxiliary_loss)
        base = self.model(pixel_values, pixel_mask, hidden or early, attentions, return_dict=True, every_mask=early)
        if early:
            states = [state.transpose(0, 1) for state in base.transformer_decoder_intermediate_states]
        else:
            states = [self.model.transformer_module.decoder.layernorm(base.transformer_decoder_last_hidden_state)]
        predictions = [
            (self.class_predictor(state), masks) for state, masks in zip(states, base.masks_queries_logits, strict=True)
        ]
        *others, last = predictions
        loss = None
        if targets is not None:
            counted = [last, *others] if self.config.use_auxiliary_loss else [last]
            loss = torch.stack(tuple(self.criterion(counted, *targets).values())).sum()
        output = Mask2FormerForUniversalSegmentationOutput(
            loss=loss,
            class_queries_logits=last[0],
            masks_queries_logits=last[1],
            auxiliary_logits=[{"masks_queries_logits": m, "class_queries_logits": c} for c, m in others]
            if auxiliary
            else None,
            encoder_last_hidden_state=base.encoder_last_hidden_state,
            pixel_decoder_last_hidden_state=base.pixel_decoder_last_hidden_state,
            transformer_decoder_last_hidden_state=base.transformer_decoder_last_hidden_state,
            encoder_hidden_states=base.encoder_hidden_states if hidden else None,
            pixel_decoder_hidden_states=base.pixel_decoder_hidden_states if hidden else None,
            transformer_decoder_hidden_states=base.transformer_decoder_hidden_states if hidden else None,
            attentions=base.attentions,
        )
        return output if as_dict else output.to_tuple()
