"""AutoModel, the Auto classes for tasks on images, and AutoImageProcessor."""

from __future__ import annotations

from typing import Any

from vertebra.auto.config import refuse_remote_code
from vertebra.auto.factory import AutoModelFactory
from vertebra.auto.registry import has_image_processor, image_processor_class, register_processor
from vertebra.config import CONFIG_NAME, PreTrainedConfig, Source
from vertebra.hub import HubOptions, read_json
from vertebra.resolve import Located, locate


class AutoModel(AutoModelFactory):
    """Chooses the class without a head. Not constructed itself."""

    task = "model"


class AutoModelForImageClassification(AutoModelFactory):
    """Chooses the class with an image classifier. Not constructed itself."""

    task = "image_classification"


class AutoModelForSemanticSegmentation(AutoModelFactory):
    """Chooses the class that gives every pixel a class. Not constructed itself."""

    task = "semantic_segmentation"


class AutoModelForInstanceSegmentation(AutoModelFactory):
    """Chooses the class with a mask for every object. Not constructed itself."""

    task = "instance_segmentation"


class AutoModelForUniversalSegmentation(AutoModelFactory):
    """Chooses the class whose masks serve semantic, instance and panoptic segmentation. Not constructed itself."""

    task = "universal_segmentation"


class AutoModelForImageSegmentation(AutoModelFactory):
    """Chooses the class that segments images, whichever way. Not constructed itself."""

    task = "image_segmentation"


class AutoImageProcessor:
    """Chooses the image processor that a checkpoint names, or that its `config.json` implies. Not constructed itself."""

    def __init__(self) -> None:
        raise OSError(
            "AutoImageProcessor is not constructed itself: call AutoImageProcessor.from_pretrained(name or folder)."
        )

    @classmethod
    def from_pretrained(cls, source: Source, **kwargs: Any) -> Any:
        """Load an image processor.

        Args:
            source: A local folder (the network is never asked), a hub id, or the name of a timm architecture, whose processor
                is built from timm's own description of its weights.
            **kwargs: Hub options (`revision`, `token`, …), settings to override, and `return_unused_kwargs`.

        Raises:
            OSError: there is no such checkpoint, or it does not say how its images are prepared.
            ValueError: the processor it names is not known.
            TypeError: an override that no setting is named like.
        """
        refuse_remote_code(kwargs)
        found = locate(source, HubOptions.pop(kwargs))
        settings, model_type = _settings(found)
        from vertebra.image_processing.processor_files import processor_type

        return image_processor_class(processor_type(settings)[0], model_type).from_dict(settings, **kwargs)

    @classmethod
    def register(
        cls,
        config: type[PreTrainedConfig],
        slow_image_processor_class: type[Any] | None = None,
        fast_image_processor_class: type[Any] | None = None,
        exist_ok: bool = False,
    ) -> None:
        """Make an image processor class of one's own known for a configuration class; the fast one wins where both are given.

        Raises:
            ValueError: none is given, it does not derive from `BaseImageProcessor`, or the configuration has one already.
        """
        from vertebra.image_processing.base import BaseImageProcessor

        processor = fast_image_processor_class or slow_image_processor_class
        if processor is None or not issubclass(processor, BaseImageProcessor):
            raise ValueError(f"{processor!r} must be a class that derives from vertebra.BaseImageProcessor.")
        register_processor(config, processor, exist_ok)


def _settings(found: Located) -> tuple[dict[str, Any], str | None]:
    """The settings of a checkpoint's processor, and its `model_type` where a file has one."""
    from vertebra.image_processing.processor_files import find_settings

    stored = find_settings(found.files) if found.files else None
    path = found.files.find(CONFIG_NAME) if found.files else None
    config = read_json(path) if path else {}
    while isinstance(config.get("backbone_config"), dict) and not has_image_processor(config.get("model_type")):
        config = config["backbone_config"]  # a neck takes the images that its backbone takes
    architecture = found.architecture or config.get("architecture") or config.get("backbone")
    if stored is not None:
        return stored, config.get("model_type")
    if config.get("model_type") in (None, "timm_backbone", "timm_wrapper") and architecture:
        from vertebra.backbones.timm_models import default_cfg

        cfg = config.get("pretrained_cfg") or default_cfg(str(architecture))
        return {"pretrained_cfg": cfg, "architecture": architecture}, "timm_wrapper"
    raise FileNotFoundError(
        f"{found.files} has neither a 'preprocessor_config.json' nor a 'processor_config.json', so how its images are prepared "
        f"is not known. Build the processor in code, e.g. ViTImageProcessor(size=224), and save_pretrained() it there."
    )
