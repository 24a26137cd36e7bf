"""The base of all models that hold a backbone."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from vertebra.auto.compose import build_backbone, fit_backbone, respell_backbone
from vertebra.backbones.base import Backbone
from vertebra.card import CardFacts
from vertebra.config import PreTrainedConfig
from vertebra.heads.config import ComposedConfig
from vertebra.heads.initial import draw_weights
from vertebra.hub import CheckpointFiles
from vertebra.model import PreTrainedModel


class ComposedModel(PreTrainedModel):
    """Base of models over a backbone.

    The class that owns the backbone calls `self.compose(backbone)` in its constructor and keeps what that returns; a class that
    holds such a model takes over its `config`. Weights of the backbone are initialised or loaded by itself.

    Args:
        config: The configuration; the model keeps a copy of its own, which ends up with the whole configuration of the backbone.
    """

    base_model_prefix = "model"
    pipeline_tag = "image-segmentation"
    config: ComposedConfig

    def __init__(self, config: ComposedConfig) -> None:
        super().__init__(config)
        self.config = copy.deepcopy(config)

    def compose(self, backbone: Backbone | None = None) -> Backbone:
        """Build the backbone that the configuration describes, or take one that is built, with the maps this model needs.

        A built one of a family that the model's files spell otherwise becomes one of that spelling, with the same parameters.

        Raises:
            ValueError: the maps cannot be had; says which and what would work.
            OSError: there is no checkpoint of the name in the configuration.
        """
        config, strides = self.config, self.config.needed_strides
        needs = {
            "least": config.least_maps,
            "neck": config.neck,
            "channels": config.neck_channels,
            "needed_by": type(self).__name__,
        }
        if backbone is None:
            backbone = build_backbone(config, strides=strides, **needs)  # type: ignore[arg-type]
        elif not isinstance(backbone, Backbone):
            raise TypeError(
                f"backbone={backbone!r} must be a built Backbone, such as AutoBackbone.from_pretrained(name); a name goes into the "
                f"configuration, {type(config).__name__}(backbone=name)."
            )
        else:
            backbone = respell_backbone(backbone, config.backbone_spelling)
            if strides is not None:
                backbone = fit_backbone(backbone, strides, **needs)  # type: ignore[arg-type]
        return self.hold(backbone)

    def hold(self, backbone: Backbone) -> Backbone:
        """Make a backbone's configuration part of the model's, its selection included, which the head is built for."""
        backbone.config.selection_is_chosen = True
        self.config.settle_backbone(backbone.config)
        return backbone

    def _init_weights(self, module: nn.Module) -> None:
        if not draw_weights(module):
            super()._init_weights(module)

    @property
    def backbone(self) -> Backbone:
        """The backbone, or the neck over it: to freeze it, to ask for its stages, to use it alone."""
        own = self._modules.get("backbone")
        return own if isinstance(own, Backbone) else next(part for part in self.modules() if isinstance(part, Backbone))

    @property
    def backbone_path(self) -> str:
        """Path of the backbone inside the model."""
        return next(name for name, module in self.named_modules() if isinstance(module, Backbone))

    @property
    def input_channels(self) -> int | None:
        """Channels of the images: the backbone's."""
        return self.backbone.input_channels

    def shapes_with(self, channels: int) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor, if images had this many channels."""
        path, shapes = self.backbone_path, {name: tuple(tensor.shape) for name, tensor in self.state_dict().items()}
        return shapes | {f"{path}.{name}": shape for name, shape in self.backbone.shapes_with(channels).items()}

    def unpruned_names(self) -> set[str]:
        """Names of all tensors of the model with nothing pruned of its backbone."""
        path = self.backbone_path
        return set(self.state_dict()) | {f"{path}.{name}" for name in self.backbone.unpruned_names()}

    def card_facts(self) -> CardFacts:
        """As of every model; of images, and of where its weights came from, the backbone knows."""
        facts, below = super().card_facts(), self.backbone.card_facts()
        known = {name: below.facts[name] for name in ("image channels", "image sizes", "made for", "frozen up to")}
        return replace(
            facts,
            summary=f"segments of images, from the maps of a `{type(self.backbone).__name__}`.",
            facts={**facts.facts, **known},
            pixels=below.pixels,
            show="for name, value in output.items():\n    print(name, getattr(value, 'shape', ''))",
            base_model=facts.base_model or below.base_model,
            upstream_license=facts.upstream_license or below.upstream_license,
        )

    @classmethod
    def _configure(
        cls, files: CheckpointFiles, config: PreTrainedConfig | str | os.PathLike[str] | None, kwargs: dict[str, Any]
    ) -> tuple[PreTrainedConfig, dict[str, Any]]:
        chosen: Any
        chosen, kwargs = super()._configure(files, config, kwargs)
        chosen.resolve(files.options)  # the weights of the backbone are in the files of the model
        return chosen, kwargs

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *, state_dict: Mapping[str, Tensor] | None = None, **options: Any
    ) -> None:
        """As for every model; timm's parameters stand in files under the name that transformers gives them there."""
        state = self.state_dict() if state_dict is None else state_dict
        path = f"{self.backbone_path}."
        names = {path + own: path + other for own, other in self.backbone.names_elsewhere().items()}
        state = {names.get(name, name): tensor for name, tensor in state.items()}
        super().save_pretrained(save_directory, state_dict=state, **options)
