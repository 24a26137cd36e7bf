"""Which classes belong to which `model_type`: one table, names only, and what users registered on top of it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vertebra.config import PreTrainedConfig
from vertebra.errors import did_you_mean, listing


@dataclass(frozen=True)
class Family:
    """The classes of a family, as names in `module`; None where it has no such class.

    Args:
        module: Module of all classes but the image processor; a class elsewhere is written `module:Name`.
        config: Configuration class.
        backbone: Class with multi-scale maps.
        model: Class without a head.
        image_processor: Name in `IMAGE_PROCESSORS`, for checkpoints that do not name theirs.
        heads: Task to the class with a head for it.
    """

    module: str
    config: str
    backbone: str | None = None
    model: str | None = None
    image_processor: str | None = None
    heads: Mapping[str, str] = field(default_factory=dict)

    def class_name(self, task: str) -> str | None:
        """Name of the class for `task`: `"backbone"`, `"model"`, or a task with a head."""
        return {"backbone": self.backbone, "model": self.model, **self.heads}.get(task)


TIMM, WRAPPER = "vertebra.backbones.timm_backbone", "vertebra.backbones.timm_wrapper"
RESNET, SWIN = "vertebra.backbones.resnet", "vertebra.backbones.swin"
NECKS, HEADS = "vertebra.backbones.necks", "vertebra.heads"


def _classifier(name: str) -> dict[str, str]:
    return {"image_classification": name}


def _segmenter(name: str, *tasks: str) -> dict[str, str]:
    """A head for segmentation: the tasks transformers has it under, and the one that takes all of them."""
    return dict.fromkeys((*(f"{task}_segmentation" for task in tasks), "image_segmentation"), name)


# fmt: off
FAMILIES: dict[str, Family] = {
    # model_type       module   config                  backbone                  model               image_processor              heads
    "maskformer-swin": Family(SWIN, "MaskFormerSwinConfig", "MaskFormerSwinBackbone", None,           "ViTImageProcessor"),
    "resnet":          Family(RESNET, "ResNetConfig",       "ResNetBackbone",     "ResNetModel",      "ConvNextImageProcessor",    _classifier("ResNetForImageClassification")),
    "swin":            Family(SWIN, "SwinConfig",           "SwinBackbone",       "SwinModel",        "ViTImageProcessor",         _classifier("SwinForImageClassification")),
    "timm_backbone":   Family(TIMM, "TimmBackboneConfig",   "TimmBackbone",       "TimmBackbone",     "TimmWrapperImageProcessor"),
    "timm_wrapper":    Family(WRAPPER, "TimmWrapperConfig", f"{TIMM}:TimmBackbone", "TimmWrapperModel", "TimmWrapperImageProcessor", _classifier("TimmWrapperForImageClassification")),
    # necks: backbones over the backbone that their configuration holds
    "vertebra_fpn":                    Family(f"{NECKS}.fpn", "FPNConfig", "FPN"),
    "vertebra_interpolate":            Family(f"{NECKS}.interpolate", "InterpolateConfig", "Interpolate"),
    "vertebra_pafpn":                  Family(f"{NECKS}.pafpn", "PAFPNConfig", "PAFPN"),
    "vertebra_projection":             Family(f"{NECKS}.projection", "ProjectionConfig", "Projection"),
    "vertebra_reassemble":             Family(f"{NECKS}.reassemble", "ReassembleConfig", "Reassemble"),
    "vertebra_simple_feature_pyramid": Family(f"{NECKS}.simple", "SimpleFeaturePyramidConfig", "SimpleFeaturePyramid"),
    # models composed of a backbone and a head
    "maskformer":  Family(f"{HEADS}.maskformer.model", "MaskFormerConfig", None, "MaskFormerModel", "MaskFormerImageProcessor", _segmenter("MaskFormerForInstanceSegmentation", "instance", "universal")),
    "mask2former": Family(f"{HEADS}.mask2former.model", "Mask2FormerConfig", None, "Mask2FormerModel", "Mask2FormerImageProcessor", _segmenter("Mask2FormerForUniversalSegmentation", "universal")),
    "upernet":     Family(f"{HEADS}.upernet.model", "UperNetConfig", None, None, "SegformerImageProcessor", _segmenter("UperNetForSemanticSegmentation", "semantic")),
    "vertebra_fpn_segmentation": Family(f"{HEADS}.fpn_segmentation.model", "FPNSegmentationConfig", None, None, "SegformerImageProcessor", _segmenter("FPNForSemanticSegmentation", "semantic")),
    "vertebra_linear_probe":     Family(f"{HEADS}.linear_probe.model", "LinearProbeConfig", None, None, "SegformerImageProcessor", _segmenter("LinearProbeForSemanticSegmentation", "semantic")),
}
# fmt: on

IMAGE_PROCESSORS: dict[str, str] = {
    "BitImageProcessor": "vertebra.image_processing.bit",
    "ConvNextImageProcessor": "vertebra.image_processing.convnext",
    "Mask2FormerImageProcessor": "vertebra.image_processing.mask2former",
    "MaskFormerImageProcessor": "vertebra.image_processing.maskformer",
    "SegformerImageProcessor": "vertebra.image_processing.segformer",
    "TimmWrapperImageProcessor": "vertebra.image_processing.timm",
    "ViTImageProcessor": "vertebra.image_processing.vit",
}

_configs: dict[str, type[PreTrainedConfig]] = {}
_models: dict[str, dict[type[PreTrainedConfig], type[Any]]] = {}
_processors: dict[str, type[Any]] = {}


def _find(module: str, name: str) -> type[Any]:
    module, _, name = name.rpartition(":") if ":" in name else (module, "", name)
    found: type[Any] = getattr(importlib.import_module(module), name)
    return found


def config_class(model_type: str) -> type[PreTrainedConfig]:
    """Return the configuration class of a `model_type`.

    Raises:
        ValueError: nobody registered it; names the nearest.
    """
    if model_type in _configs:
        return _configs[model_type]
    if model_type not in FAMILIES:
        known = sorted({*FAMILIES, *_configs})
        raise ValueError(
            f"model_type {model_type!r} is not known.{did_you_mean(model_type, known)} Known are {listing(known)}. A class of your "
            f"own is made known by AutoConfig.register({model_type!r}, YourConfig)."
        )
    family = FAMILIES[model_type]
    return _find(family.module, family.config)


def model_class(config: type[PreTrainedConfig], task: str, auto_name: str) -> type[Any]:
    """Return the class that `auto_name` builds from a class of configurations; `task` is a column of the table.

    Raises:
        ValueError: the class of configurations has none; lists those that have.
    """
    registered = _models.get(task, {})
    if config in registered:
        return registered[config]
    family = FAMILIES.get(config.model_type)
    name = family.class_name(task) if family and config.__name__ == family.config else None
    if family is None or name is None:
        have = [row.config for row in FAMILIES.values() if row.class_name(task)] + [cls.__name__ for cls in registered]
        raise ValueError(
            f"{auto_name} has no class for {config.__name__} (model_type {config.model_type!r}).{_elsewhere(family, task)} It has one "
            f"for {listing(sorted(have))}. A class of your own is made known by {auto_name}.register({config.__name__}, YourModel)."
        )
    return _find(family.module, name)


def _elsewhere(family: Family | None, task: str) -> str:
    """Which Auto classes have a class of this family, for an error."""
    if family is None:
        return ""
    names = {"AutoModel": family.model, "AutoBackbone": family.backbone}
    heads = ["AutoModelFor" + head.title().replace("_", "") for head in family.heads]
    found = [*(name for name, there in names.items() if there), *heads]
    if task == "backbone" and "image_segmentation" in family.heads:
        return " It is a model over a backbone: AutoModelForImageSegmentation.from_pretrained(…).backbone is that."
    return f" Other Auto classes have one: {listing(found)}." if found else ""


def image_processor_class(name: str | None, model_type: str | None = None) -> type[Any]:
    """Return the image processor class called `name`, or the one of a `model_type` where a file names none.

    Raises:
        ValueError: there is none; names the nearest.
    """
    family = FAMILIES.get(model_type or "")
    key = name or (model_type if model_type in _processors else None) or (family.image_processor if family else None)
    if key in _processors:
        return _processors[key]
    if key not in IMAGE_PROCESSORS:
        known = sorted({*IMAGE_PROCESSORS, *(cls.__name__ for cls in _processors.values())})
        raise ValueError(
            f"Image processor {key!r} (model_type {model_type!r}) is not known.{did_you_mean(str(key), known)} Known are {listing(known)}. "
            f"One of your own is made known by AutoImageProcessor.register(YourConfig, YourProcessor)."
        )
    return _find(IMAGE_PROCESSORS[key], key)


def has_image_processor(model_type: str | None) -> bool:
    """Whether a `model_type` has an image processor of its own."""
    family = FAMILIES.get(model_type or "")
    return model_type in _processors or (family is not None and family.image_processor is not None)


def register_config(model_type: str, config: type[PreTrainedConfig], exist_ok: bool = False) -> None:
    """Make a configuration class known; see `AutoConfig.register`."""
    if config.model_type != model_type:
        raise ValueError(
            f"{config.__name__}.model_type is {config.model_type!r}, and it is to be registered as {model_type!r}; they must be equal. "
            f"Write model_type = {model_type!r} in the class."
        )
    if not exist_ok and (model_type in FAMILIES or model_type in _configs):
        raise ValueError(f"model_type {model_type!r} is taken; pass exist_ok=True to replace it.")
    _configs[model_type] = config


def register_model(config: type[PreTrainedConfig], model: type[Any], task: str, exist_ok: bool = False) -> None:
    """Make a model class known for a configuration class; see `AutoBackbone.register`."""
    expected = getattr(model, "config_class", None)
    if expected is None or expected.__name__ != config.__name__:
        raise ValueError(
            f"{model.__name__}.config_class is {getattr(expected, '__name__', None)}, and it is to be registered for "
            f"{config.__name__}; they must be equal. Write config_class = {config.__name__} in the class."
        )
    family = FAMILIES.get(config.model_type)
    taken = family is not None and family.config == config.__name__ and family.class_name(task) is not None
    if not exist_ok and (taken or config in _models.get(task, {})):
        raise ValueError(f"{config.__name__} has a class here already; pass exist_ok=True to replace it.")
    _models.setdefault(task, {})[config] = model


def register_processor(config: type[PreTrainedConfig], processor: type[Any], exist_ok: bool = False) -> None:
    """Make an image processor class known for a configuration class and under its own name."""
    taken = config.model_type in _processors or getattr(FAMILIES.get(config.model_type), "image_processor", None)
    if not exist_ok and taken:
        raise ValueError(f"{config.__name__} has an image processor already; pass exist_ok=True to replace it.")
    _processors[config.model_type] = _processors[processor.__name__] = processor
