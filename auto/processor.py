"""AutoProcessor: the processor that a checkpoint names, or that its `config.json` implies. Nothing here imports torch."""

from __future__ import annotations

from typing import Any

from vertebra.auto.config import refuse_remote_code
from vertebra.auto.feature_extraction import AutoFeatureExtractor
from vertebra.auto.preparers import KINDS, has_preparer, preparer_class, register_preparer
from vertebra.auto.processing import ProcessorMixin
from vertebra.auto.processor_parts import TOKENIZER
from vertebra.auto.tokenizers import AutoTokenizer
from vertebra.config import CONFIG_NAME, PreTrainedConfig, Source
from vertebra.hub import CheckpointFiles, HubOptions, read_json
from vertebra.preprocessor_files import PREPROCESSOR_FILE, PROCESSOR_FILE, find_settings
from vertebra.resolve import is_timm_file

KIND = "processor"
CLASS_KEY = "processor_class"
TOKENIZER_CONFIG = "tokenizer_config.json"
TEXT_FILES = (TOKENIZER_CONFIG, "tokenizer.json", "vocab.txt", "vocab.json")
MODEL_TYPES = {"clip": "CLIPProcessor", "hubert": "Wav2Vec2Processor", "layoutlmv2": "LayoutLMv2Processor"}
"""Processors of families that `registry.FAMILIES` has no row of."""


class AutoProcessor:
    """Chooses the processor that a checkpoint names, or that its `config.json` implies. Not constructed itself.

    A checkpoint whose inputs are of one kind alone gives its tokenizer, image processor or feature extractor.
    """

    def __init__(self) -> None:
        raise OSError("AutoProcessor is not constructed itself: call AutoProcessor.from_pretrained(name or folder).")

    @classmethod
    def from_pretrained(cls, source: Source, *, config: PreTrainedConfig | None = None, **kwargs: Any) -> Any:
        """Load a processor.

        Args:
            source: A local folder (the network is never asked) or a hub id.
            config: Its `model_type` instead of that in `config.json`.
            **kwargs: Hub options (`revision`, `token`, …), settings of the parts to override, and `return_unused_kwargs`.

        Raises:
            OSError: there is no such checkpoint, or it does not say how its inputs are prepared.
            ValueError: a class it names is not known.
            TypeError: an override that no part has a setting for.
        """
        refuse_remote_code(kwargs)
        files = CheckpointFiles.open(source, HubOptions.pop(kwargs))
        path = None if config is not None else files.find(CONFIG_NAME)
        content = config.to_dict() if config is not None else read_json(path) if path else {}
        chosen = _processor(files, content) or _part(files, content)
        return chosen.from_pretrained(files, **kwargs)

    @classmethod
    def register(cls, config_class: type[PreTrainedConfig], processor_class: type[Any], exist_ok: bool = False) -> None:
        """Make a processor class of one's own known for a configuration class and under its own name.

        Raises:
            ValueError: it does not derive from `ProcessorMixin`, or the configuration has one already.
        """
        if not (isinstance(processor_class, type) and issubclass(processor_class, ProcessorMixin)):
            raise ValueError(f"{processor_class!r} must be a class that derives from vertebra.ProcessorMixin.")
        register_preparer(KIND, config_class, processor_class, exist_ok)


def _processor(files: CheckpointFiles, config: dict[str, Any]) -> Any:
    """The class of processor that the files name or imply; None where the checkpoint has but one kind of inputs."""
    model_type = config.get("model_type")
    for name in (PROCESSOR_FILE, PREPROCESSOR_FILE, TOKENIZER_CONFIG):
        path = files.find(name)
        named = read_json(path).get(CLASS_KEY) if path else None
        if named:
            return preparer_class(KIND, named, model_type)
    named = config.get(CLASS_KEY)
    if named:
        return preparer_class(KIND, named, model_type)
    registered, elsewhere = has_preparer(KIND, model_type), MODEL_TYPES.get(str(model_type))
    if not (registered or elsewhere):
        return None
    usual = preparer_class(KIND, None if registered else elsewhere, model_type)
    return usual if TOKENIZER not in usual.attributes or _has_text(files) else None


def _has_text(files: CheckpointFiles) -> bool:
    return any(files.find(name) for name in TEXT_FILES)


def _part(files: CheckpointFiles, config: dict[str, Any]) -> Any:
    """The Auto class of the one part that a checkpoint without a processor has."""
    if _has_text(files):
        return AutoTokenizer
    from vertebra.auto.vision import AutoImageProcessor

    settings = find_settings(files, "feature_extractor")
    if settings is not None and _is_audio(settings, config.get("model_type")):
        return AutoFeatureExtractor
    timm = is_timm_file(config) or str(config.get("model_type")).startswith("timm_")
    if timm or find_settings(files, "image_processor") is not None:
        return AutoImageProcessor
    raise FileNotFoundError(
        f"{files} has no {PROCESSOR_FILE!r} or {PREPROCESSOR_FILE!r} and none of a tokenizer's files, so how its inputs are "
        f"prepared is not known.{files.offline_hint()} Build the processor in code, e.g. Wav2Vec2Processor(feature_extractor, "
        f"tokenizer), and save_pretrained() it there."
    )


def _is_audio(settings: dict[str, Any], model_type: str | None) -> bool:
    """Whether settings are those of audio; files of transformers 4 call image processors feature extractors, too."""
    name = settings.get("feature_extractor_type")
    if name is None:
        return "image_processor_type" not in settings and has_preparer("feature_extractor", model_type)
    return str(name).replace("FeatureExtractor", "ImageProcessor") not in KINDS["image_processor"].modules
