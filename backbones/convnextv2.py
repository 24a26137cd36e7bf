"""ConvNeXt V2 (Woo et al. 2023): checkpoints of the `facebook/convnextv2-*` kind."""

from __future__ import annotations

from collections.abc import Sequence

from vertebra.backbones.convnext import (
    ConvNextBackbone,
    ConvNextForImageClassification,
    ConvNextModel,
    ConvNextShape,
)


class ConvNextV2Config(ConvNextShape):
    """Configuration of a ConvNeXt V2; the defaults are ConvNeXt V2-T.

    Args:
        drop_path_rate: Drop path of the last block; it grows linearly from 0 at the first.
        image_size: Size the checkpoint was trained at; nothing depends on it.

    The others are those of `ConvNextShape`.
    """

    model_type = "convnextv2"
    no_dilation = (
        "ConvNeXt V2 scales every channel by its strength over all cells of a map, and a dilated map has other cells."
    )
    response_norm = True

    drop_path_rate: float = 0.0
    image_size: int | Sequence[int] = 224


class ConvNextV2Backbone(ConvNextBackbone):
    """ConvNeXt V2 as a backbone: stages, sizes and norms on the maps as in `ConvNextBackbone`."""

    config_class = ConvNextV2Config
    base_model_prefix = "convnextv2"


class ConvNextV2Model(ConvNextModel):
    """ConvNeXt V2 without a head."""

    config_class = ConvNextV2Config
    base_model_prefix = "convnextv2"


class ConvNextV2ForImageClassification(ConvNextForImageClassification):
    """ConvNeXt V2 with a linear classifier on the normed mean of the last map."""

    config_class = ConvNextV2Config
    base_model_prefix = "convnextv2"
    base_class = ConvNextV2Model
