"""Image towers: the vision transformers of models that compare images with texts, alone or inside the files of the whole."""

from __future__ import annotations

import os
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from vertebra.backbones.config import SELECTION
from vertebra.backbones.models import ImageClassifier, linear_head
from vertebra.backbones.vit_base import PlainViT
from vertebra.backbones.vit_config import PlainViTConfig
from vertebra.backbones.vit_models import PlainViTModel
from vertebra.config import PreTrainedConfig
from vertebra.hub import CheckpointFiles
from vertebra.outputs import BaseModelOutput

OTHER_TOWER = {
    r"^text_model\.|^text_projection\.|^logit_(scale|bias)$": "the tower of texts, and what compares both",
    r"^visual_projection\.": "projects images into the space that they share with texts",
}
POSITION_IDS = {r"(^|\.)position_ids$": "older files count the positions"}
HEAD = {r"^classifier\.": "a classification head"}


class TowersConfig(PreTrainedConfig, kw_only=True):
    """Configuration of a whole model with two towers, of which the one of images is built here.

    A family declares `text_config`, which is kept as the file has it, `vision_config` and `initializer_factor`.
    """

    vision_class: ClassVar[type[PlainViTConfig]]
    """Class of `vision_config`."""
    text_config: Any
    vision_config: Any
    initializer_factor: float

    def _settle(self, given: dict[str, Any]) -> None:
        if not isinstance(self.vision_config, PreTrainedConfig):
            self.vision_config = self.vision_class.from_dict(self.vision_config or {})
        super()._settle(given)

    @property
    def num_channels(self) -> int:
        """Channels of the images; assigning moves `vision_config` along."""
        return self.vision_config.num_channels  # type: ignore[no-any-return]

    @num_channels.setter
    def num_channels(self, channels: int) -> None:
        self.vision_config.num_channels = channels

    @property
    def image_size(self) -> Any:
        """Size of the images the checkpoint was trained at."""
        return self.vision_config.image_size

    def to_dict(self) -> dict[str, Any]:
        """Return everything as a dictionary; a selection of stages has no meaning here."""
        content = super().to_dict()
        vision = content["vision_config"]
        content["vision_config"] = {k: v for k, v in vision.items() if k not in (*SELECTION, "stage_names")}
        return content


class Tower(PlainViT):
    """What the classes of an image tower share: names as in files of whole models, all of them under `vision_model`."""

    base_model_prefix: ClassVar[str] = "vision_model"
    embeddings_path = "vision_model.embeddings"
    layers_path = "vision_model.encoder.layers"
    norm_path = "vision_model.post_layernorm"
    explained_unexpected = {**OTHER_TOWER, **POSITION_IDS, **HEAD}

    @classmethod
    def from_config(cls, config: PreTrainedConfig, *, dtype: torch.dtype | str | None = None, **kwargs: Any) -> Any:
        """As for every model; of the configuration of a whole model the images' part is taken."""
        return super().from_config(cls._part(config), dtype=dtype, **kwargs)

    @classmethod
    def _configure(
        cls, files: CheckpointFiles, config: PreTrainedConfig | str | os.PathLike[str] | None, kwargs: dict[str, Any]
    ) -> tuple[PreTrainedConfig, dict[str, Any]]:
        return super()._configure(files, cls._part(config), kwargs)

    @staticmethod
    def _part(config: Any) -> Any:
        return config.vision_config if isinstance(config, TowersConfig) else config


class TowerClassifier(ImageClassifier):
    """An image tower with a linear classifier on the mean of its patches; its files are those of the whole model.

    A family says what `vision_model` is: `tower`, a `PlainViTModel` whose parts stand at the top.
    """

    base_model_prefix: ClassVar[str] = "vision_model"
    config: TowersConfig
    tower: ClassVar[type[PlainViTModel]]
    explained_unexpected = {**OTHER_TOWER, **POSITION_IDS}

    def __init__(self, config: TowersConfig) -> None:
        super().__init__(config)
        self.vision_model = self.tower(config.vision_config)
        self.classifier = linear_head(config.vision_config.hidden_size, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5 * self.config.initializer_factor)
            nn.init.zeros_(module.bias)

    def classify(
        self, pixel_values: Tensor, output_hidden_states: bool, output_attentions: bool
    ) -> tuple[Tensor, BaseModelOutput]:
        """Compute the logits `(b, num_labels)`, and the tower's output."""
        base: BaseModelOutput = self.vision_model(
            pixel_values, output_hidden_states, output_attentions, return_dict=True
        )
        prefix: Any = self.vision_model.get_submodule(self.vision_model.embeddings_path)
        patches = cast(Tensor, base.last_hidden_state)[:, prefix.prefix :]
        return self.classifier(patches.mean(dim=1)), base
