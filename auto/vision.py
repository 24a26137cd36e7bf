"""The Auto classes for tasks on images, and AutoImageProcessor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vertebra.auto.config import refuse_remote_code
from vertebra.auto.factory import AutoModelFactory
from vertebra.auto.preparers import has_preparer, preparer_class, register_preparer
from vertebra.auto.registry import FAMILIES
from vertebra.config import CONFIG_NAME, PreTrainedConfig, Source
from vertebra.hub import CheckpointFiles, HubOptions, read_json
from vertebra.preprocessor_files import find_settings
from vertebra.resolve import Located, locate

KIND = "image_processor"


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


class AutoModelForDepthEstimation(AutoModelFactory):
    """Chooses the class that gives every pixel a distance. Not constructed itself."""

    task = "depth_estimation"


class AutoModelForVideoClassification(AutoModelFactory):
    """Chooses the class with a classifier of videos. Not constructed itself."""

    task = "video_classification"


class AutoModelForMaskedImageModeling(AutoModelFactory):
    """Chooses the class that fills in masked parts of images. Not constructed itself."""

    task = "masked_image_modeling"


class AutoModelForObjectDetection(AutoModelFactory):
    """Chooses the class with a box for every object. Not constructed itself."""

    task = "object_detection"


class AutoModelForImageToImage(AutoModelFactory):
    """Chooses the class that turns images into images. Not constructed itself."""

    task = "image_to_image"


class AutoModelForMaskGeneration(AutoModelFactory):
    """Chooses the class with masks for points and boxes. Not constructed itself."""

    task = "mask_generation"


class AutoModelForZeroShotImageClassification(AutoModelFactory):
    """Chooses the class that compares images with labels in words. Not constructed itself."""

    task = "zero_shot_image_classification"


class AutoModelForZeroShotObjectDetection(AutoModelFactory):
    """Chooses the class with boxes for labels in words. Not constructed itself."""

    task = "zero_shot_object_detection"


class AutoModelForDocumentQuestionAnswering(AutoModelFactory):
    """Chooses the class that answers questions about pages. Not constructed itself."""

    task = "document_question_answering"


class AutoModelForVisualQuestionAnswering(AutoModelFactory):
    """Chooses the class that answers questions about images. Not constructed itself."""

    task = "visual_question_answering"


class AutoModelForVision2Seq(AutoModelFactory):
    """Chooses the class that puts images into words. Not constructed itself."""

    task = "vision2seq"


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
            source: A local folder (the network is never asked), a hub id, the path of the JSON file itself, or the name of a
                timm architecture, whose processor is built from timm's own description of its weights.
            **kwargs: Hub options (`revision`, `token`, …), settings to override, and `return_unused_kwargs`.

        Raises:
            OSError: there is no such checkpoint, or it does not say how its images are prepared.
            ValueError: the processor it names is not known.
            TypeError: an override that no setting is named like.
        """
        refuse_remote_code(kwargs)
        options = HubOptions.pop(kwargs)
        model_type: str | None = None
        if not isinstance(source, CheckpointFiles) and Path(source).expanduser().is_file():
            content = read_json(Path(source).expanduser())
            settings = content[KIND] if isinstance(content.get(KIND), dict) else content
        else:
            settings, model_type = _settings(locate(source, options))
        from vertebra.image_processing.processor_files import processor_type

        processor = preparer_class(KIND, processor_type(settings)[0], model_type)
        return processor.from_dict(settings, **kwargs)

    @classmethod
    def register(
        cls,
        config_class: type[PreTrainedConfig],
        slow_image_processor_class: type[Any] | None = None,
        fast_image_processor_class: type[Any] | None = None,
        image_processor_classes: Mapping[str, type[Any]] | None = None,
        exist_ok: bool = False,
    ) -> None:
        """Make an image processor class of one's own known for a configuration class and under its own name.

        Args:
            config_class: The configuration class.
            slow_image_processor_class: The class.
            fast_image_processor_class: The same; it wins where both are given.
            image_processor_classes: The same as transformers 5 has it, `{"torchvision": …, "pil": …}`; the first one counts, since
                here one class has both backends.
            exist_ok: Replace what there is.

        Raises:
            ValueError: none is given, it does not derive from `BaseImageProcessor`, or the configuration has one already.
        """
        from vertebra.image_processing.base import BaseImageProcessor

        by_backend = next(iter((image_processor_classes or {}).values()), None)
        processor = fast_image_processor_class or slow_image_processor_class or by_backend
        if not (isinstance(processor, type) and issubclass(processor, BaseImageProcessor)):
            raise ValueError(f"{processor!r} must be a class that derives from vertebra.BaseImageProcessor.")
        register_preparer(KIND, config_class, processor, exist_ok)


def _settings(found: Located) -> tuple[dict[str, Any], str | None]:
    """The settings of a checkpoint's processor, and its `model_type` where a file has one."""
    stored = find_settings(found.files, KIND) if found.files else None
    path = found.files.find(CONFIG_NAME) if found.files else None
    config = read_json(path) if path else {}
    while isinstance(config.get("backbone_config"), dict) and not has_preparer(KIND, config.get("model_type")):
        config = config["backbone_config"]  # a neck takes the images that its backbone takes
    architecture = found.architecture or config.get("architecture") or config.get("backbone")
    if stored is not None:
        return stored, config.get("model_type")
    if config.get("model_type") in (None, "timm_backbone", "timm_wrapper") and architecture:
        from vertebra.backbones.timm_models import default_cfg

        cfg = config.get("pretrained_cfg") or default_cfg(str(architecture))
        return {"pretrained_cfg": cfg, "architecture": architecture}, "timm_wrapper"
    raise FileNotFoundError(
        f"{found.files} has neither a 'preprocessor_config.json' nor a 'processor_config.json' with an {KIND!r}, so how its "
        f"images are prepared is not known. {_what_to_do(found.name, config.get('model_type'))}"
    )


def _what_to_do(name: str, model_type: str | None) -> str:
    """What helps where a checkpoint does not say how its images are prepared."""
    family = FAMILIES.get(model_type or "")
    if has_preparer(KIND, model_type):
        usual = preparer_class(KIND, None, model_type)
        call = f"{usual.__name__}({usual._example})"
        return f"Models of type {model_type!r} usually have a {usual.__name__}: build it, {call}, and save_pretrained() it there."
    if family is not None and (family.tokenizer or family.feature_extractor):
        return f"Models of type {model_type!r} take no images: AutoProcessor.from_pretrained({name!r}) loads what they take."
    return "Build the processor in code, e.g. ViTImageProcessor(size=224), and save_pretrained() it there."
