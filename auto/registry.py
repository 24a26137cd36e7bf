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
        module: Module of all classes but those that prepare inputs; a class elsewhere is written `module:Name`.
        config: Configuration class.
        backbone: Class with multi-scale maps.
        model: Class without a head.
        image_processor: Name in `preparers.KINDS`, for checkpoints that do not name theirs.
        heads: Task to the class with a head for it.
        feature_extractor: As `image_processor`.
        tokenizer: As `image_processor`.
        processor: As `image_processor`.
    """

    module: str
    config: str
    backbone: str | None = None
    model: str | None = None
    image_processor: str | None = None
    heads: Mapping[str, str] = field(default_factory=dict)
    feature_extractor: str | None = None
    tokenizer: str | None = None
    processor: str | None = None

    def class_name(self, task: str) -> str | None:
        """Name of the class for `task`: `"backbone"`, `"model"`, or a task with a head."""
        return {"backbone": self.backbone, "model": self.model, **self.heads}.get(task)

    @property
    def tasks(self) -> list[str]:
        """The tasks that the family has a class for."""
        return [task for task in ("model", "backbone", *self.heads) if self.class_name(task)]


ACRONYMS = {"ctc": "CTC", "lm": "LM", "xvector": "XVector"}
"""Words of tasks that are not written with one capital."""


def task_name(task: str) -> str:
    """A column of the table as the name of its Auto class ends: `ctc` is `CTC`, `image_classification` `ImageClassification`."""
    return "".join(ACRONYMS.get(word, word.title()) for word in task.split("_"))


def auto_name(task: str) -> str:
    """Name of the Auto class of a task."""
    return {"model": "AutoModel", "backbone": "AutoBackbone"}.get(task, f"AutoModelFor{task_name(task)}")


TIMM, WRAPPER = "vertebra.backbones.timm_backbone", "vertebra.backbones.timm_wrapper"
BACKBONES = "vertebra.backbones"
RESNET, SWIN = "vertebra.backbones.resnet", "vertebra.backbones.swin"
NECKS, HEADS = "vertebra.backbones.necks", "vertebra.heads"
AUDIO = "vertebra.audio"
BERT, DISTILBERT = "vertebra.text.bert_heads", "vertebra.text.distilbert"


def _classifier(name: str) -> dict[str, str]:
    return {"image_classification": name}


def _segmenter(name: str, *tasks: str) -> dict[str, str]:
    """A head for segmentation: the tasks transformers has it under, and the one that takes all of them."""
    return dict.fromkeys((*(f"{task}_segmentation" for task in tasks), "image_segmentation"), name)


def _heads(family: str, tasks: str) -> dict[str, str]:
    """Heads whose classes are called after their tasks."""
    return {task: f"{family}For{task_name(task)}" for task in tasks.split()}


TEXT = "masked_lm sequence_classification token_classification question_answering multiple_choice"

# fmt: off
FAMILIES: dict[str, Family] = {
    # model_type       module   config                  backbone                  model               image_processor              heads
    "beit":            Family(f"{BACKBONES}.beit", "BeitConfig", "BeitBackbone", "BeitModel", "BeitImageProcessor", _classifier("BeitForImageClassification")),
    "bit":             Family(f"{BACKBONES}.bit", "BitConfig", "BitBackbone", "BitModel", "BitImageProcessor", _classifier("BitForImageClassification")),
    "clip":            Family(f"{BACKBONES}.clip_vision", "CLIPConfig", "CLIPVisionBackbone", None, "CLIPImageProcessor", _classifier("CLIPForImageClassification")),
    "clip_vision_model": Family(f"{BACKBONES}.clip_vision", "CLIPVisionConfig", "CLIPVisionBackbone", "CLIPVisionModel", "CLIPImageProcessor"),
    "convnext":        Family(f"{BACKBONES}.convnext", "ConvNextConfig", "ConvNextBackbone", "ConvNextModel", "ConvNextImageProcessor", _classifier("ConvNextForImageClassification")),
    "convnextv2":      Family(f"{BACKBONES}.convnextv2", "ConvNextV2Config", "ConvNextV2Backbone", "ConvNextV2Model", "ConvNextImageProcessor", _classifier("ConvNextV2ForImageClassification")),
    "deit":            Family(f"{BACKBONES}.deit", "DeiTConfig", "DeiTBackbone", "DeiTModel", "DeiTImageProcessor", _classifier("DeiTForImageClassification")),
    "dinov2":          Family(f"{BACKBONES}.dinov2", "Dinov2Config", "Dinov2Backbone", "Dinov2Model", "BitImageProcessor", _classifier("Dinov2ForImageClassification")),
    "dinov2_with_registers": Family(f"{BACKBONES}.dinov2_with_registers", "Dinov2WithRegistersConfig", "Dinov2WithRegistersBackbone", "Dinov2WithRegistersModel", "BitImageProcessor", _classifier("Dinov2WithRegistersForImageClassification")),
    "dinov3_convnext": Family(f"{BACKBONES}.dinov3_convnext", "DINOv3ConvNextConfig", "DINOv3ConvNextBackbone", "DINOv3ConvNextModel"),
    "dinov3_vit":      Family(f"{BACKBONES}.dinov3_vit", "DINOv3ViTConfig", "DINOv3ViTBackbone", "DINOv3ViTModel", "DINOv3ViTImageProcessor"),
    "focalnet":        Family(f"{BACKBONES}.focalnet", "FocalNetConfig", "FocalNetBackbone", "FocalNetModel", "BitImageProcessor", _classifier("FocalNetForImageClassification")),
    "hiera":         Family(f"{BACKBONES}.hiera", "HieraConfig", "HieraBackbone", "HieraModel", "BitImageProcessor", _classifier("HieraForImageClassification")),
    "pvt_v2":        Family(f"{BACKBONES}.pvt_v2", "PvtV2Config", "PvtV2Backbone", "PvtV2Model", "PvtImageProcessor", _classifier("PvtV2ForImageClassification")),
    "hgnet_v2":        Family(f"{BACKBONES}.hgnet_v2", "HGNetV2Config", "HGNetV2Backbone", "HGNetV2Backbone", heads=_classifier("HGNetV2ForImageClassification")),
    "maskformer-swin": Family(SWIN, "MaskFormerSwinConfig", "MaskFormerSwinBackbone", None,           "ViTImageProcessor"),
    "resnet":          Family(RESNET, "ResNetConfig",       "ResNetBackbone",     "ResNetModel",      "ConvNextImageProcessor",    _classifier("ResNetForImageClassification")),
    "segformer":     Family(f"{BACKBONES}.segformer", "SegformerConfig", "SegformerBackbone", "SegformerModel", "SegformerImageProcessor", _classifier("SegformerForImageClassification")),
    "rt_detr_resnet":  Family(f"{BACKBONES}.rt_detr_resnet", "RTDetrResNetConfig", "RTDetrResNetBackbone"),
    "siglip":          Family(f"{BACKBONES}.siglip_vision", "SiglipConfig", "SiglipVisionBackbone", None, "SiglipImageProcessor", _classifier("SiglipForImageClassification")),
    "siglip_vision_model": Family(f"{BACKBONES}.siglip_vision", "SiglipVisionConfig", "SiglipVisionBackbone", "SiglipVisionModel", "SiglipImageProcessor"),
    "swin":            Family(SWIN, "SwinConfig",           "SwinBackbone",       "SwinModel",        "ViTImageProcessor",         _classifier("SwinForImageClassification")),
    "swinv2":        Family(f"{BACKBONES}.swinv2", "Swinv2Config", "Swinv2Backbone", "Swinv2Model", "ViTImageProcessor", _classifier("Swinv2ForImageClassification")),
    "timm_backbone":   Family(TIMM, "TimmBackboneConfig",   "TimmBackbone",       "TimmBackbone",     "TimmWrapperImageProcessor"),
    "timm_wrapper":    Family(WRAPPER, "TimmWrapperConfig", f"{TIMM}:TimmBackbone", "TimmWrapperModel", "TimmWrapperImageProcessor", _classifier("TimmWrapperForImageClassification")),
    "vit":             Family(f"{BACKBONES}.vit", "ViTConfig", "ViTBackbone", "ViTModel", "ViTImageProcessor", _classifier("ViTForImageClassification")),
    "vitdet":          Family(f"{BACKBONES}.vitdet", "VitDetConfig", "VitDetBackbone", "VitDetModel"),
    # necks: backbones over the backbone that their configuration holds
    "vertebra_fpn":                    Family(f"{NECKS}.fpn", "FPNConfig", "FPN"),
    "vertebra_interpolate":            Family(f"{NECKS}.interpolate", "InterpolateConfig", "Interpolate"),
    "vertebra_pafpn":                  Family(f"{NECKS}.pafpn", "PAFPNConfig", "PAFPN"),
    "vertebra_projection":             Family(f"{NECKS}.projection", "ProjectionConfig", "Projection"),
    "vertebra_reassemble":             Family(f"{NECKS}.reassemble", "ReassembleConfig", "Reassemble"),
    "vertebra_simple_feature_pyramid": Family(f"{NECKS}.simple", "SimpleFeaturePyramidConfig", "SimpleFeaturePyramid"),
    # text
    "bert":       Family(BERT, "BertConfig", None, "BertModel", heads={"text_encoding": "BertModel", **_heads("Bert", f"{TEXT} next_sentence_prediction pre_training")}, tokenizer="BertTokenizer"),
    "distilbert": Family(DISTILBERT, "DistilBertConfig", None, "DistilBertModel", heads={"text_encoding": "DistilBertModel", "pre_training": "DistilBertForMaskedLM", **_heads("DistilBert", TEXT)}, tokenizer="DistilBertTokenizer"),
    # models composed of a backbone and a head
    "maskformer":  Family(f"{HEADS}.maskformer.model", "MaskFormerConfig", None, "MaskFormerModel", "MaskFormerImageProcessor", _segmenter("MaskFormerForInstanceSegmentation", "instance", "universal")),
    "mask2former": Family(f"{HEADS}.mask2former.model", "Mask2FormerConfig", None, "Mask2FormerModel", "Mask2FormerImageProcessor", _segmenter("Mask2FormerForUniversalSegmentation", "universal")),
    "upernet":     Family(f"{HEADS}.upernet.model", "UperNetConfig", None, None, "SegformerImageProcessor", _segmenter("UperNetForSemanticSegmentation", "semantic")),
    "vertebra_fpn_segmentation": Family(f"{HEADS}.fpn_segmentation.model", "FPNSegmentationConfig", None, None, "SegformerImageProcessor", _segmenter("FPNForSemanticSegmentation", "semantic")),
    "vertebra_linear_probe":     Family(f"{HEADS}.linear_probe.model", "LinearProbeConfig", None, None, "SegformerImageProcessor", _segmenter("LinearProbeForSemanticSegmentation", "semantic")),
    # speech
    "wav2vec2": Family(f"{AUDIO}.wav2vec2_heads", "Wav2Vec2Config", None, "Wav2Vec2Model", heads={"audio_classification": "Wav2Vec2ForSequenceClassification", "audio_xvector": "Wav2Vec2ForXVector", **_heads("Wav2Vec2", "ctc audio_frame_classification")}, feature_extractor="Wav2Vec2FeatureExtractor", tokenizer="Wav2Vec2CTCTokenizer", processor="Wav2Vec2Processor"),
    "whisper": Family(f"{AUDIO}.whisper_generation", "WhisperConfig", None, "WhisperModel", heads={"speech_seq2seq": "WhisperForConditionalGeneration"}, feature_extractor="WhisperFeatureExtractor", tokenizer="WhisperTokenizer", processor="WhisperProcessor"),
}
# fmt: on

_configs: dict[str, type[PreTrainedConfig]] = {}
_models: dict[str, dict[type[PreTrainedConfig], type[Any]]] = {}


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


def model_class(config: type[PreTrainedConfig], task: str, asked: str) -> type[Any]:
    """Return the class that the Auto class `asked` builds from a class of configurations; `task` is a column of the table.

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
            f"{asked} has no class for {config.__name__} (model_type {config.model_type!r}).{_elsewhere(family, task)} It has one "
            f"for {listing(sorted(have))}. A class of your own is made known by {asked}.register({config.__name__}, YourModel)."
        )
    return _find(family.module, name)


def classes_of(config: type[PreTrainedConfig]) -> dict[str, str]:
    """Task to the name of the class that is built for it from a class of configurations; registered ones win."""
    family = FAMILIES.get(config.model_type)
    tasks = family.tasks if family and config.__name__ == family.config else []
    names = {task: str(family.class_name(task)).rpartition(":")[2] for task in tasks if family}
    own = {task: models[config].__name__ for task, models in _models.items() if config in models}
    return {**names, **own}


def check_backed(task: str, asked: str) -> None:
    """Refuse an Auto class that has no model of any family.

    Raises:
        ValueError: lists the Auto classes that have models.
    """
    tasks = {task for family in FAMILIES.values() for task in family.tasks}
    tasks |= {task for task, models in _models.items() if models}
    if task not in tasks:
        raise ValueError(
            f"{asked} has no models: nothing in vertebra does this. Auto classes that have some are "
            f"{listing(sorted(map(auto_name, tasks)))}. A class of your own is made known by {asked}.register(YourConfig, YourModel)."
        )


def _elsewhere(family: Family | None, task: str) -> str:
    """Which Auto classes have a class of this family, for an error."""
    if family is None:
        return ""
    found = [auto_name(task) for task in family.tasks]
    if task == "backbone" and "image_segmentation" in family.heads:
        return " It is a model over a backbone: AutoModelForImageSegmentation.from_pretrained(…).backbone is that."
    return f" Other Auto classes have one: {listing(found)}." if found else ""


def register_config(model_type: str, config: type[PreTrainedConfig], exist_ok: bool = False) -> None:
    """Make a configuration class known; see `AutoConfig.register`."""
    _check_class(config, PreTrainedConfig)
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
    _check_class(config, PreTrainedConfig)
    _check_class(model, object)
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


def _check_class(given: Any, base: type[Any]) -> None:
    """Refuse what is no class of that base with a TypeError."""
    if not (isinstance(given, type) and issubclass(given, base)):
        kind = "class" if base is object else f"class that derives from vertebra.{base.__name__}"
        raise TypeError(f"register got {given!r}; it must be a {kind}.")
