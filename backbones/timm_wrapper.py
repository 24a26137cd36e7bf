"""timm models with their own head, as transformers' `timm_wrapper` files describe them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vertebra.backbones import timm_models
from vertebra.backbones.models import ImageClassifier, ImageModel
from vertebra.backbones.timm_module import TimmModule
from vertebra.card import CardFacts
from vertebra.config import PreTrainedConfig
from vertebra.outputs import BaseModelOutput


class TimmWrapperConfig(PreTrainedConfig):
    """Configuration of a timm model with its head; reads timm's own `config.json` as well.

    Args:
        architecture: Name of timm's architecture.
        initializer_range: Kept for files; timm initialises its weights itself.
        do_pooling: Whether `TimmWrapperModel` pools its last state.
        model_args: Further arguments of timm's constructor.
        pretrained_cfg: timm's description of the weights.

    Labels come from the file (`label_names`); where it has none, from timm's table of ImageNet.
    """

    model_type = "timm_wrapper"

    architecture: str = "resnet50"
    initializer_range: float = 0.02
    do_pooling: bool = True
    model_args: Mapping[str, Any] | None = None
    pretrained_cfg: Mapping[str, Any] | None = None

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], return_unused_kwargs: bool = False, **overrides: Any) -> Any:
        """Read a `timm_wrapper` file or timm's own `config.json`, and give the classes their names."""
        content = dict(content)
        cfg = content.get("pretrained_cfg") or timm_models.default_cfg(content.get("architecture", cls.architecture))
        content["pretrained_cfg"] = {key: value for key, value in cfg.items() if key != "num_classes"}
        classes = content.pop("num_classes", None)
        classes = cfg.get("num_classes") if classes is None else classes
        names = content.pop("label_names", None)
        if "id2label" not in overrides and "num_labels" not in overrides:
            names = names or timm_models.imagenet_labels(content, classes)
            labels = {} if names is None else {"id2label": dict(enumerate(names))}
            content |= labels or ({} if classes is None else {"num_labels": classes})
        return super().from_dict(content, return_unused_kwargs=return_unused_kwargs, **overrides)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as a dictionary; labels as timm writes them, `num_classes` and `label_names`."""
        content = super().to_dict()
        content.pop("id2label", None)
        content.pop("label2id", None)
        return {**content, "num_classes": self.num_labels, "label_names": list(self.labels.values())}


class TimmWrapper(TimmModule):
    """A timm model with `classes` outputs, or without its classifier for 0."""

    config_class = TimmWrapperConfig
    config: TimmWrapperConfig

    def __init__(self, config: TimmWrapperConfig, classes: int) -> None:
        super().__init__(config)
        self.classes = classes
        arguments = self.timm_arguments()
        self.adopt(timm_models.build(arguments["name"], in_chans=arguments["in_chans"], args=arguments["args"]))

    def timm_arguments(self) -> dict[str, Any]:
        """Name, input channels, constructor arguments and cfg of the timm model."""
        config = self.config
        args = {**(config.model_args or {}), "num_classes": self.classes}
        in_chans, cfg = args.pop("in_chans", 3), dict(config.pretrained_cfg or {})
        return {"name": config.architecture, "in_chans": in_chans, "args": args, "cfg": cfg}

    def shapes_with(self, channels: int) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor, if images had this many channels."""
        arguments = self.timm_arguments()
        with torch.device("meta"):
            twin = timm_models.build(arguments["name"], in_chans=channels, args=arguments["args"])
        return {name: tuple(tensor.shape) for name, tensor in twin.state_dict().items()}

    def card_facts(self) -> CardFacts:
        """What a model card says, for images of the size timm made the weights for."""
        size = timm_models.native_size(self.timm_model) or (224, 224)
        return replace(super().card_facts(), pixels=(self.timm_arguments()["in_chans"], *size))

    def _features(self, pixel_values: Tensor, hidden: bool, attentions: bool) -> BaseModelOutput:
        if attentions:
            raise ValueError("timm models do not give their attention weights; leave output_attentions out.")
        self.forget_attention_biases()
        if not hidden:
            return BaseModelOutput(last_hidden_state=self.timm_model.forward_features(pixel_values))
        last, states = self.timm_model.forward_intermediates(pixel_values, output_fmt="NCHW")
        return BaseModelOutput(last_hidden_state=last, hidden_states=tuple(states))


class TimmWrapperModel(TimmWrapper, ImageModel):
    """A timm model without its classifier."""

    explained_unexpected = {
        r"(^|\.)(head|fc|classifier|head_dist|last_linear)\.": "a classification head",
    }

    def __init__(self, config: TimmWrapperConfig) -> None:
        super().__init__(config, classes=0)

    def encode(self, pixel_values: Tensor, output_hidden_states: bool, output_attentions: bool) -> BaseModelOutput:
        """Return timm's final state (a map or tokens, in timm's own layout), its pooled form, and on request all levels."""
        output = self._features(pixel_values, output_hidden_states, output_attentions)
        if self.config.do_pooling:
            output.pooler_output = self.timm_model.forward_head(output.last_hidden_state)
        return output


class TimmWrapperForImageClassification(TimmWrapper, ImageClassifier):
    """A timm model as a classifier."""

    explained_missing = {}

    def __init__(self, config: TimmWrapperConfig) -> None:
        if config.num_labels == 0:
            raise ValueError(
                "This checkpoint has no classifier (num_classes is 0). Name the classes, from_pretrained(…, num_labels=10), or use "
                "TimmWrapperModel for its features."
            )
        super().__init__(config, classes=config.num_labels)

    def classify(
        self, pixel_values: Tensor, output_hidden_states: bool, output_attentions: bool
    ) -> tuple[Tensor, BaseModelOutput]:
        """Compute timm's own logits."""
        base = self._features(pixel_values, output_hidden_states, output_attentions)
        return self.timm_model.forward_head(base.last_hidden_state), base
