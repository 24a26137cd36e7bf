"""MaskFormer's processor: targets are masks with a class each, and so are predictions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from PIL.Image import Resampling

from vertebra import huge_pages
from vertebra.batch_feature import BatchFeature
from vertebra.image_processing import transforms
from vertebra.image_processing.inputs import ImageInput
from vertebra.image_processing.post_inputs import Size
from vertebra.image_processing.query_post_processing import QueryPostProcessing
from vertebra.image_processing.segmentation import SegmentationImageProcessor
from vertebra.image_processing.segmentation_maps import (
    ClassOf,
    MapInput,
    binary_masks,
    classes_as_transformers,
    classes_by_id,
    resize_map,
)
from vertebra.image_processing.sizes import is_whole, output_size

LONGEST_EDGE = 1333
"""The limit that goes with a shortest edge where nobody sets one."""


class MaskFormerImageProcessor(QueryPostProcessing, SegmentationImageProcessor):
    """Scale the shortest edge to 800 pixels and the longest to 1333 at most (bilinear), normalise with ImageNet's values, pad.

    Both edges are then rounded up to a multiple of `size_divisor`. `size` may be any that `sizes.output_size` knows; an int is the
    shortest edge, and the limit of the longest stays. Images are always padded to one size, that of the largest or `pad_size`.
    `num_labels` is kept for files that have it; nothing reads it. MaskFormer: https://arxiv.org/abs/2107.06278; checkpoints such
    as facebook/maskformer-swin-base-ade.

    Args:
        max_size: The longest edge that goes with an int or a shortest edge as `size`, as older versions have it.
        **settings: The others.
    """

    default_to_square = False
    size = {"shortest_edge": 800, "longest_edge": LONGEST_EDGE}
    size_divisor: int | None = 32
    ignore_index: int | None = None
    num_labels: int | None = None

    model_input_names: ClassVar[list[str]] = ["pixel_values", "pixel_mask"]
    old_names: ClassVar[Mapping[str, str]] = {
        **SegmentationImageProcessor.old_names,
        "size_divisibility": "size_divisor",
    }

    def __init__(self, max_size: int | None = None, **settings: Any) -> None:
        size = settings.pop("size", None)
        super().__init__(**settings, size=with_limit(type(self).size if size is None else size, max_size))

    def __setattr__(self, name: str, value: Any) -> None:
        limit = (self.__dict__.get("size") or {}).get("longest_edge")
        super().__setattr__(name, with_limit(value, None, limit) if name == "size" else value)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any], **overrides: Any) -> Any:
        """Build a processor from stored settings, also from files of older versions; else as `from_pretrained`."""
        stored = {name: value for name, value in settings.items() if name != "_max_size"}
        if is_whole(stored.get("size")) and "max_size" not in stored:
            stored["max_size"] = settings.get("_max_size")
        return super().from_dict(stored, **overrides)

    def _settings(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        given = dict(overrides)
        size, max_size = given.pop("size", None), given.pop("max_size", None)
        own = self.size or {}
        given["size"] = with_limit(own if size is None else size, max_size, own.get("longest_edge")) or None
        return super()._settings(given)

    def __call__(
        self,
        images: ImageInput,
        segmentation_maps: MapInput | None = None,
        instance_id_to_semantic_id: ClassOf | Sequence[ClassOf] | None = None,
        **overrides: Any,
    ) -> BatchFeature:
        """Call `preprocess`."""
        return self.preprocess(images, segmentation_maps, instance_id_to_semantic_id, **overrides)

    def preprocess(
        self,
        images: ImageInput,
        segmentation_maps: MapInput | None = None,
        instance_id_to_semantic_id: ClassOf | Sequence[ClassOf] | None = None,
        **overrides: Any,
    ) -> BatchFeature:
        """Turn images into `pixel_values` of one size, and maps into masks with a class each.

        Args:
            images: As in `BaseImageProcessor.preprocess`.
            segmentation_maps: The class, or the segment's id, of each pixel, as `segmentation_maps.read_maps` takes it; one map for
                each image. Pixels of class `ignore_index` belong to no segment.
            instance_id_to_semantic_id: The class of each id, where the maps hold ids: one mapping for all images or one for each.
                An id that has no class must be background: `ignore_index`, or 0 with `do_reduce_labels`.
            **overrides: Any setting, for this call only. `do_reduce_labels=True`: 0, as id and as class, is the background and no
                target, and other classes are counted without it. `compat=True`: see below.

        Returns:
            `BatchFeature` with `pixel_values` `(n, 3, h, w)`, padded with zeros at the bottom and right; `pixel_mask` int64
            `(n, h, w)`, 1 where the image is; and, with maps, two lists with an entry for each image whatever `return_tensors` is:
            `mask_labels` float32 `(segments, h, w)`, and `class_labels` int64 `(segments,)`, by rising id.

            With `compat=True` as in transformers, where padded pixels of masks have the value `ignore_index`, and only ids (less 1
            with `do_reduce_labels`) are compared with it: with 255, the void of a map becomes class 254, segment 256 is lost, and
            classes that are background are targets, as class -1.

        Raises:
            TypeError: an unknown setting, or an item that is no image or no map.
            ValueError: as in `BaseImageProcessor.preprocess`, a map that is not one for its image, or an id without a class.
        """
        return self._with_maps(images, segmentation_maps, overrides, class_of=instance_id_to_semantic_id)

    def encode_inputs(
        self,
        pixel_values_list: ImageInput,
        segmentation_maps: MapInput | None = None,
        instance_id_to_semantic_id: ClassOf | Sequence[ClassOf] | None = None,
        ignore_index: int | None = None,
        do_reduce_labels: bool | None = None,
        return_tensors: str | None = None,
        input_data_format: str | None = None,
        pad_size: Any = None,
    ) -> BatchFeature:
        """Pad images that are transformed already, and encode their maps, as transformers 4 has it.

        `pixel_values_list` holds `(3, h, w)` floats; the others are as in `preprocess`, and so is the result.
        """
        return self.preprocess(
            pixel_values_list,
            segmentation_maps,
            instance_id_to_semantic_id,
            ignore_index=ignore_index,
            do_reduce_labels=do_reduce_labels,
            return_tensors=return_tensors,
            input_data_format=input_data_format,
            pad_size=pad_size,
            do_convert_rgb=False,
            do_resize=False,
            do_rescale=False,
            do_normalize=False,
        )

    def resize_and_crop(
        self,
        images: torch.Tensor,
        *,
        do_resize: bool | None,
        size: Mapping[str, int],
        resample: Resampling,
        size_divisor: int | None = None,
        **other: Any,
    ) -> torch.Tensor:
        """Resize `(n, c, h, w)` images to what `size` asks for, both edges rounded up to a multiple of `size_divisor`."""
        if not do_resize:
            return images
        step = size_divisor or 1
        height, width = (
            math.ceil(edge / step) * step for edge in output_size(images.shape[-2], images.shape[-1], size)
        )
        return self.resize(images, {"height": height, "width": width}, resample)

    def _preprocess(
        self,
        images: list[torch.Tensor],
        *,
        maps: list[torch.Tensor] | None = None,
        class_of: ClassOf | Sequence[ClassOf] | None = None,
        **settings: Any,
    ) -> BatchFeature:
        tensor_type = settings["return_tensors"]
        resized = self._resized(images, settings)
        pixels = self._finished(resized, {**settings, "do_pad": True})
        size = (pixels[0].shape[-2], pixels[0].shape[-1])
        parts = {"pixel_values": pixels, "pixel_mask": _real(resized, size)}
        batch = BatchFeature({name: part if tensor_type else list(part) for name, part in parts.items()}, tensor_type)
        if maps is not None:
            found = [resize_map(one, image.shape[-2:], self.backend) for one, image in zip(maps, resized, strict=True)]
            masks, classes = self._targets(found, size, class_of, settings)
            batch["mask_labels"] = [mask.numpy(force=True) for mask in masks] if tensor_type == "np" else masks
            batch["class_labels"] = [label.numpy(force=True) for label in classes] if tensor_type == "np" else classes
        return batch

    def _targets(
        self, maps: list[torch.Tensor], size: Size, class_of: Any, settings: Mapping[str, Any]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The masks `(segments, *size)` and classes `(segments,)` of each map."""
        ignored, reduce, compat = settings["ignore_index"], bool(settings["do_reduce_labels"]), settings["compat"]
        fill = ignored if compat and ignored is not None else 0
        masks, classes = [], []
        for index, (found, mapping) in enumerate(zip(maps, _mappings(class_of, len(maps)), strict=True)):
            classes_of = classes_as_transformers if compat else classes_by_id
            labels = classes_of(found, mapping, ignored, reduce, f"Segmentation map {index}")
            masks.append(binary_masks(found, list(labels), size, fill, beside=len(maps)))
            classes.append(torch.tensor(list(labels.values()), dtype=torch.int64, device=found.device))
        return masks, classes


def with_limit(size: Any, max_size: int | None, limit: int | None = None) -> Any:
    """Return `size` with a limit of the longest edge where it is an int or a shortest edge.

    `max_size` is that limit; without it a shortest edge keeps what it has, and an int gets `limit`, or `LONGEST_EDGE`.
    """
    if is_whole(size):
        return {"shortest_edge": int(size), "longest_edge": max_size or limit or LONGEST_EDGE}
    if max_size is None or not isinstance(size, Mapping) or "shortest_edge" not in size:
        return size
    return {**size, "longest_edge": max_size}


def _real(images: transforms.Images, size: Size) -> torch.Tensor | list[torch.Tensor]:
    """Where `(c, h, w)` images are in canvases of `size`: int64, 1 where there is one and 0 beyond its bottom and right."""
    shapes = [image.shape[-2:] for image in images]
    if any(image.device.type != "cpu" for image in images):
        ones = [
            torch.ones(shape, dtype=torch.int64, device=image.device)
            for shape, image in zip(shapes, images, strict=True)
        ]
        return transforms.pad(ones, size)
    make = huge_pages.empty if set(shapes) == {size} else huge_pages.zeros
    real = make((len(images), *size), torch.int64)
    for canvas, (height, width) in zip(real, shapes, strict=True):
        canvas[:height, :width] = 1
    return real


def _mappings(class_of: Any, count: int) -> Sequence[ClassOf | None]:
    """The mapping of each of `count` images."""
    if class_of is None or isinstance(class_of, Mapping):
        return [class_of] * count
    if len(class_of) != count or not all(isinstance(one, Mapping) for one in class_of):
        raise ValueError(
            f"instance_id_to_semantic_id={class_of!r} must be a mapping {{id: class}} for all images, or a list with one for each "
            f"of the {count} images."
        )
    return list(class_of)
