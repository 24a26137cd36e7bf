"""AutoFeatureExtractor: the feature extractor that a checkpoint names, or that its `config.json` implies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vertebra.auto.config import refuse_remote_code
from vertebra.auto.preparers import KINDS, preparer_class, register_preparer
from vertebra.config import CONFIG_NAME, PreTrainedConfig, Source
from vertebra.hub import CheckpointFiles, HubOptions, read_json
from vertebra.preprocessor_files import PREPROCESSOR_FILE, find_settings, open_settings

KIND = "feature_extractor"
TYPE_KEY = f"{KIND}_type"


class AutoFeatureExtractor:
    """Chooses the feature extractor that a checkpoint names, or that its `config.json` implies. Not constructed itself."""

    def __init__(self) -> None:
        raise OSError(
            "AutoFeatureExtractor is not constructed itself: call AutoFeatureExtractor.from_pretrained(name or folder)."
        )

    @classmethod
    def from_pretrained(cls, source: Source, **kwargs: Any) -> Any:
        """Load a feature extractor.

        Args:
            source: A local folder (the network is never asked), a hub id, or the path of the JSON file itself.
            **kwargs: Hub options (`revision`, `token`, …), settings to override, and `return_unused_kwargs`.

        Raises:
            OSError: there is no such checkpoint, or it does not say how its audio is prepared.
            ValueError: the feature extractor it names is not known, or it has an image processor instead.
            TypeError: an override that no setting is named like.
        """
        refuse_remote_code(kwargs)
        options = HubOptions.pop(kwargs)
        opened = source if isinstance(source, CheckpointFiles) else open_settings(source, options)
        settings, config = _read(opened) if isinstance(opened, CheckpointFiles) else (opened, {})
        name = settings.get(TYPE_KEY) or config.get(TYPE_KEY)
        _refuse_images(settings, name, source)
        return preparer_class(KIND, name, config.get("model_type")).from_dict(settings, **kwargs)

    @classmethod
    def register(
        cls, config: type[PreTrainedConfig], feature_extractor_class: type[Any], exist_ok: bool = False
    ) -> None:
        """Make a feature extractor class of one's own known for a configuration class and under its own name.

        Raises:
            ValueError: it does not derive from `FeatureExtractionMixin`, or the configuration has one already.
        """
        from vertebra.audio.feature_extraction import FeatureExtractionMixin

        if not (
            isinstance(feature_extractor_class, type) and issubclass(feature_extractor_class, FeatureExtractionMixin)
        ):
            raise ValueError(
                f"{feature_extractor_class!r} must be a class that derives from vertebra.FeatureExtractionMixin."
            )
        register_preparer(KIND, config, feature_extractor_class, exist_ok)


def _read(files: CheckpointFiles) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings that a checkpoint stores, and its `config.json` where it has one."""
    settings = find_settings(files, KIND)
    if settings is None:
        raise FileNotFoundError(
            f"{files} has no {PREPROCESSOR_FILE!r}, so how its audio is prepared is not known. Build the feature extractor in "
            f"code, e.g. Wav2Vec2FeatureExtractor(sampling_rate=16000), and save_pretrained() it there."
        )
    path = files.find(CONFIG_NAME)
    return settings, read_json(path) if path else {}


def _refuse_images(settings: Mapping[str, Any], name: str | None, source: Any) -> None:
    """Say so where the settings are those of images; files of transformers 4 call these feature extractors, too."""
    today = str(name).replace("FeatureExtractor", "ImageProcessor")
    if "image_processor_type" in settings or today in KINDS["image_processor"].modules:
        raise ValueError(
            f"{str(source)!r} prepares images, not audio: AutoImageProcessor.from_pretrained({str(source)!r}) reads it."
        )
