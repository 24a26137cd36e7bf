"""MaskFormer (Cheng et al. 2021) over any backbone; checkpoints of the `facebook/maskformer-*` kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vertebra.backbones.base import Backbone
from vertebra.heads.base import ComposedModel
from vertebra.heads.initial import normal, starting, xavier
from vertebra.heads.losses import check_targets
from vertebra.heads.maskformer.config import MaskFormerConfig
from vertebra.heads.maskformer.decoder import MaskFormerTransformer
from vertebra.heads.maskformer.loss import MaskFormerLoss
from vertebra.heads.maskformer.pixel_decoder import MaskFormerPixelDecoder
from vertebra.heads.mlp import mlp
from vertebra.heads.outputs import MaskFormerForInstanceSegmentationOutput, MaskFormerModelOutput
from vertebra.heads.padding import check_pixel_mask
from vertebra.heads.pixel_level import PixelLevelModule
from vertebra.heads.query_loss import Prediction
from vertebra.linear import Linear

HEAD = r"^(class_predictor|mask_embedder|criterion)\."


class MaskFormerModel(ComposedModel):
    """Backbone, pixel decoder and transformer decoder, without the head.

    Args:
        config: The configuration.
        backbone: A built backbone in the place of the one the configuration describes.
    """

    config_class = MaskFormerConfig
    config: MaskFormerConfig
    explained_unexpected = {HEAD: "the model without a head has none"}

    def __init__(self, config: MaskFormerConfig, backbone: Backbone | None = None) -> None:
        super().__init__(config)
        encoder = self.compose(backbone)
        gain, std, decoder = xavier(config.init_xavier_std), normal(config.init_std), config.decoder
        self.pixel_level_module = PixelLevelModule(
            encoder,
            MaskFormerPixelDecoder(
                encoder.channels, config.fpn_feature_size, config.mask_feature_size, pyramid=gain, projection=std
            ),
        )
        self.transformer_module = MaskFormerTransformer(
            encoder.channels[-1],
            decoder.d_model,
            decoder.num_queries,
            projection=gain,
            embedding=std,
            layers=normal(decoder.init_std),
            depth=decoder.decoder_layers,
            layerdrop=decoder.decoder_layerdrop,
            norm_always=decoder.auxiliary_loss,
            heads=decoder.decoder_attention_heads,
            hidden=decoder.decoder_ffn_dim,
            dropout=decoder.dropout,
            attention_dropout=decoder.attention_dropout,
            activation_dropout=decoder.activation_dropout,
            act=decoder.activation_function,
        )
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> MaskFormerModelOutput | tuple[Any, ...]:
        """Describe pixels and queries.

        Args:
            pixel_values: `(b, c, height, width)` images, normalised as the image processor does.
            pixel_mask: `(b, height, width)`, 0 where an image is padded; queries do not look there.
            output_hidden_states: Also return the maps of backbone and pixel decoder, and the queries before each layer.
            output_attentions: Also return the attention weights among queries.
            return_dict: False returns a plain tuple of what is not None.

        Raises:
            ValueError: pixels or a mask of a wrong shape.
        """
        hidden, attentions, as_dict = self.asked_for(output_hidden_states, output_attentions, return_dict)
        if pixel_mask is not None:
            check_pixel_mask(pixel_mask, pixel_values)
        module = self.pixel_level_module
        maps = module.encoder(pixel_values, False, False, return_dict=True).feature_maps
        pixels, pyramid = module.decoder(maps)
        states, weights = self.transformer_module(maps[-1], pixel_mask, attentions)
        output = MaskFormerModelOutput(
            encoder_last_hidden_state=maps[-1],
            pixel_decoder_last_hidden_state=pixels,
            transformer_decoder_last_hidden_state=states[-1],
            encoder_hidden_states=maps if hidden else None,
            pixel_decoder_hidden_states=pyramid if hidden else None,
            transformer_decoder_hidden_states=tuple(states) if hidden else None,
            hidden_states=(*maps, *pyramid, *states) if hidden else None,
            attentions=tuple(weights) if attentions else None,
        )
        return output if as_dict else output.to_tuple()


class MaskFormerForInstanceSegmentation(ComposedModel):
    """MaskFormer with its head: every query has a class, or none, and a mask.

    The image processor's `post_process_semantic_segmentation`, `…_instance_…` and `…_panoptic_…` turn its output into segments.

    Args:
        config: The configuration.
        backbone: A built backbone in the place of the one the configuration describes.
    """

    config_class = MaskFormerConfig
    config: MaskFormerConfig
    explained_missing = {HEAD: "the head is trained on the new task"}

    def __init__(self, config: MaskFormerConfig, backbone: Backbone | None = None) -> None:
        super().__init__(config)
        self.model = MaskFormerModel(config, backbone)
        self.config = self.model.config
        width = config.decoder.d_model
        self.class_predictor = starting(Linear(width, config.num_labels + 1), normal(config.init_std))
        self.mask_embedder = starting(
            mlp(width, width, width, config.mask_feature_size), xavier(config.init_xavier_std)
        )
        self.criterion = MaskFormerLoss(
            config.num_labels,
            config.no_object_weight,
            config.cross_entropy_weight,
            config.mask_weight,
            config.dice_weight,
        )
        self.post_init()

    def predict(self, queries: Tensor, pixels: Tensor) -> Prediction:
        """Class logits `(b, q, c + 1)` and mask logits `(b, q, h, w)` of queries `(b, q, d)` and pixels `(b, m, h, w)`."""
        masks = self.mask_embedder(queries) @ pixels.flatten(2)
        return self.class_predictor(queries), masks.view(*masks.shape[:2], *pixels.shape[-2:])

    def forward(
        self,
        pixel_values: Tensor,
        mask_labels: Sequence[Tensor] | Tensor | None = None,
        class_labels: Sequence[Tensor] | Tensor | None = None,
        pixel_mask: Tensor | None = None,
        output_auxiliary_logits: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> MaskFormerForInstanceSegmentationOutput | tuple[Any, ...]:
        """Predict a class and a mask for every query, and compute the loss where there are labels.

        Args:
            pixel_values: `(b, c, height, width)` images, normalised as the image processor does.
            mask_labels: Per image `(n, height, width)` masks from 0 to 1, padding included; n may be 0.
            class_labels: Per image `(n,)` classes from 0 to `num_labels - 1`.
            pixel_mask: `(b, height, width)`, 0 where an image is padded; queries do not look there.
            output_auxiliary_logits: Also return the predictions before each layer of the decoder.
            output_hidden_states: Also return the maps of backbone and pixel decoder, and the queries before each layer.
            output_attentions: Also return the attention weights among queries.
            return_dict: False returns a plain tuple of what is not None.

        Raises:
            ValueError: pixels, a mask or labels that do not fit, or logits that are not finite; says which.
        """
        hidden, attentions, as_dict = self.asked_for(output_hidden_states, output_attentions, return_dict)
        labelled = mask_labels is not None or class_labels is not None
        targets = check_targets(mask_labels, class_labels, pixel_values, self.config.num_labels) if labelled else None
        auxiliary = self.config.output_auxiliary_logits if output_auxiliary_logits is None else output_auxiliary_logits
        early = self.config.use_auxiliary_loss and (labelled or bool(auxiliary))
        base = self.model(pixel_values, pixel_mask, hidden or early, attentions, return_dict=True)
        states = base.transformer_decoder_hidden_states[:-1] if early else ()
        predictions = [
            self.predict(queries, base.pixel_decoder_last_hidden_state)
            for queries in (base.transformer_decoder_last_hidden_state, *states)
        ]
        loss = None
        if targets is not None:
            loss = torch.stack(tuple(self.criterion(predictions, *targets).values())).sum()
        (classes, masks), *others = predictions
        output = MaskFormerForInstanceSegmentationOutput(
            loss=loss,
            class_queries_logits=classes,
            masks_queries_logits=masks,
            auxiliary_logits=[{"masks_queries_logits": m, "class_queries_logits": c} for c, m in others]
            if auxiliary
            else None,
            **{name: value for name, value in base.items() if hidden or not name.endswith("hidden_states")},
        )
        return output if as_dict else output.to_tuple()
