"""Which class prepares a model's inputs (images, audio, text or several), by its name in a file or by the model's type."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vertebra.auto.registry import FAMILIES
from vertebra.config import PreTrainedConfig
from vertebra.errors import did_you_mean, listing


@dataclass(frozen=True)
class Kind:
    """One kind of class that prepares inputs.

    Args:
        title: What errors call it, with a capital.
        auto: Its Auto class.
        modules: Class name to module.
    """

    title: str
    auto: str
    modules: Mapping[str, str] = field(default_factory=dict)


IMAGES, AUDIO = "vertebra.image_processing", "vertebra.audio"
TOKENS = "vertebra.text.tokenization"

KINDS: dict[str, Kind] = {
    "image_processor": Kind(
        "Image processor",
        "AutoImageProcessor",
        {
            "BeitImageProcessor": f"{IMAGES}.beit",
            "BitImageProcessor": f"{IMAGES}.bit",
            "CLIPImageProcessor": f"{IMAGES}.clip",
            "ConvNextImageProcessor": f"{IMAGES}.convnext",
            "DINOv3ViTImageProcessor": f"{IMAGES}.dinov3_vit",
            "DeiTImageProcessor": f"{IMAGES}.deit",
            "LayoutLMv2ImageProcessor": f"{IMAGES}.layoutlmv2",
            "Mask2FormerImageProcessor": f"{IMAGES}.mask2former",
            "MaskFormerImageProcessor": f"{IMAGES}.maskformer",
            "PvtImageProcessor": f"{IMAGES}.pvt",
            "SegformerImageProcessor": f"{IMAGES}.segformer",
            "SiglipImageProcessor": f"{IMAGES}.siglip",
            "TimmWrapperImageProcessor": f"{IMAGES}.timm",
            "ViTImageProcessor": f"{IMAGES}.vit",
        },
    ),
    "feature_extractor": Kind(
        "Feature extractor",
        "AutoFeatureExtractor",
        {
            "Wav2Vec2FeatureExtractor": f"{AUDIO}.waveforms",
            "WhisperFeatureExtractor": f"{AUDIO}.spectrograms",
        },
    ),
    "tokenizer": Kind(
        "Tokenizer",
        "AutoTokenizer",
        {
            "BertTokenizer": f"{TOKENS}.bert",
            "BertTokenizerFast": f"{TOKENS}.bert",
            "CLIPTokenizer": f"{TOKENS}.clip",
            "CLIPTokenizerFast": f"{TOKENS}.clip",
            "DistilBertTokenizer": f"{TOKENS}.distilbert",
            "DistilBertTokenizerFast": f"{TOKENS}.distilbert",
            "GPT2Tokenizer": f"{TOKENS}.gpt2",
            "GPT2TokenizerFast": f"{TOKENS}.gpt2",
            "LayoutLMv2Tokenizer": f"{TOKENS}.layoutlmv2",
            "LayoutLMv2TokenizerFast": f"{TOKENS}.layoutlmv2",
            "PreTrainedTokenizerFast": f"{TOKENS}.fast",
            "Wav2Vec2CTCTokenizer": f"{TOKENS}.wav2vec2_ctc",
        },
    ),
    "processor": Kind(
        "Processor",
        "AutoProcessor",
        {
            "CLIPProcessor": "vertebra.auto.image_text_processors",
            "LayoutLMv2Processor": "vertebra.auto.image_text_processors",
            "Wav2Vec2Processor": "vertebra.auto.speech_processors",
            "WhisperProcessor": "vertebra.auto.speech_processors",
        },
    ),
}
"""The keys are columns of `Family`, which say what checkpoints of a family have that do not name theirs."""

_registered: dict[str, dict[str, type[Any]]] = {}


def preparer_class(kind: str, name: str | None, model_type: str | None = None) -> type[Any]:
    """Return the class of a kind called `name`, or the one of a `model_type` where a file names none.

    Args:
        kind: A key of `KINDS`.
        name: Class name.
        model_type: The `model_type` in `config.json`.

    Raises:
        ValueError: there is none; names the nearest.
    """
    own, table = _registered.get(kind, {}), KINDS[kind]
    key = name or (model_type if model_type in own else None) or _usual(kind, model_type)
    if key in own:
        return own[key]
    if key is None or key not in table.modules:
        known = sorted({*table.modules, *(cls.__name__ for cls in own.values())})
        raise ValueError(
            f"{table.title} {key!r} (model_type {model_type!r}) is not known.{did_you_mean(str(key), known)} Known are "
            f"{listing(known)}. One of your own is made known by {table.auto}.register(YourConfig, Your{table.auto[4:]})."
        )
    found: type[Any] = getattr(importlib.import_module(table.modules[key]), key)
    return found


def has_preparer(kind: str, model_type: str | None) -> bool:
    """Whether a `model_type` has a class of this kind."""
    return model_type in _registered.get(kind, {}) or _usual(kind, model_type) is not None


def register_preparer(kind: str, config: type[PreTrainedConfig], cls: type[Any], exist_ok: bool = False) -> None:
    """Make a class known for a configuration class and under its own name.

    Raises:
        ValueError: the configuration has one already, and `exist_ok` is False.
    """
    if not exist_ok and has_preparer(kind, config.model_type):
        title = KINDS[kind].title.lower()
        article = "an" if title[0] in "aeiou" else "a"
        raise ValueError(f"{config.__name__} has {article} {title} already; pass exist_ok=True to replace it.")
    own = _registered.setdefault(kind, {})
    own[config.model_type] = own[cls.__name__] = cls


def _usual(kind: str, model_type: str | None) -> str | None:
    family = FAMILIES.get(model_type or "")
    found: str | None = getattr(family, kind) if family else None
    return found
