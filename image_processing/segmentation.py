"""What the processors for segmentation share: images with their maps, and the names that older files have for settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from PIL.Image import Resampling

from vertebra.batch_feature import BatchFeature
from vertebra.image_processing.base import BaseImageProcessor
from vertebra.image_processing.inputs import ImageInput
from vertebra.image_processing.segmentation_maps import MapInput, read_maps

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class SegmentationImageProcessor(BaseImageProcessor):
    """Images, and with them segmentation maps, which go through the same geometry.

    `compat=True` gives transformers' numbers where this library's are deliberately others; each method says where.
    """

    do_resize = True
    resample = Resampling.BILINEAR
    do_rescale = True
    do_normalize = True
    image_mean = IMAGENET_MEAN
    image_std = IMAGENET_STD
    do_reduce_labels: bool | None = False
    compat: bool | None = None

    old_names: ClassVar[Mapping[str, str]] = {"reduce_labels": "do_reduce_labels"}
    crops: ClassVar[bool] = False
    """Whether images, and their maps with them, may be cropped."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**self._renamed(settings))

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any], **overrides: Any) -> Any:
        """Build a processor from stored settings, also with the names of older files; else as `from_pretrained`.

        Where a file has a setting under both names, today's counts: transformers (4.57 and 5.23) keeps the old one of the file
        it read, but works with today's.
        """
        both = {old for old, new in cls.old_names.items() if settings.keys() >= {old, new}}
        stored = {name: value for name, value in settings.items() if name not in both}
        return super().from_dict(cls._renamed(stored), **cls._renamed(overrides))

    @classmethod
    def _renamed(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Settings with today's names.

        Raises:
            ValueError: a setting is there under its old and its new name, with different values.
        """
        renamed = {name: value for name, value in given.items() if name not in cls.old_names}
        for old in given.keys() & cls.old_names.keys():
            new = cls.old_names[old]
            if renamed.setdefault(new, given[old]) != given[old]:
                raise ValueError(f"{old}={given[old]!r} is the old name of {new}={renamed[new]!r}; pass one of them.")
        return renamed

    def _settings(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        settings = super()._settings(self._renamed(overrides))
        if settings["do_center_crop"] and not self.crops:
            raise ValueError(
                f"do_center_crop=True: {type(self).__name__} does not crop, since its predictions are for the whole image; "
                f"crop the image and its map before."
            )
        return settings

    def _with_maps(
        self, images: ImageInput, segmentation_maps: MapInput | None, overrides: Mapping[str, Any], **more: Any
    ) -> BatchFeature:
        """Run the steps on images and their maps; `_preprocess` gets the maps and `more` beside the settings."""
        processor, settings = self._for_call(overrides)
        tensors = processor._read(images, settings)
        maps = None if segmentation_maps is None else read_maps(segmentation_maps, tensors)
        return processor._in_format(processor._preprocess(tensors, maps=maps, **more, **settings), settings)
