"""What the processors with one class a pixel share: maps of classes beside the images, and logits that become such maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from PIL.Image import Resampling

from vertebra.batch_feature import BatchFeature
from vertebra.image_processing import transforms
from vertebra.image_processing.backends import load_backend
from vertebra.image_processing.inputs import ImageInput
from vertebra.image_processing.post_inputs import TargetSizes, read_logits, read_target_sizes
from vertebra.image_processing.post_semantic import SemanticMaps, semantic_maps
from vertebra.image_processing.segmentation import SegmentationImageProcessor
from vertebra.image_processing.segmentation_maps import MapInput, reduce_labels, resize_map
from vertebra.image_processing.sizes import height_and_width, output_size
from vertebra.image_processing.threads import each

IGNORED = 255
"""The label that is no target."""


class SemanticImageProcessor(SegmentationImageProcessor):
    """Images, and with them the class of each pixel.

    `do_reduce_labels=True` takes 1 from every label of a segmentation map; 0, the background then, becomes 255, which stays
    255.
    """

    def __call__(self, images: ImageInput, segmentation_maps: MapInput | None = None, **overrides: Any) -> BatchFeature:
        """Call `preprocess`."""
        return self.preprocess(images, segmentation_maps, **overrides)

    def preprocess(
        self, images: ImageInput, segmentation_maps: MapInput | None = None, **overrides: Any
    ) -> BatchFeature:
        """Turn images into `pixel_values`, and maps of classes into `labels`.

        Args:
            images: As in `BaseImageProcessor.preprocess`.
            segmentation_maps: The class of each pixel, as `segmentation_maps.read_maps` takes it, one map for each image.
            **overrides: Any setting, for this call only.

        Returns:
            `BatchFeature` with `pixel_values` `(n, 3, h, w)` and, with maps, `labels`: int64 `(n, h, w)`, resized by nearest
            pixels; 255 beyond the image, where `do_pad` or a crop larger than it adds pixels.

        Raises:
            TypeError: an unknown setting, or an item that is no image or no map.
            ValueError: as in `BaseImageProcessor.preprocess`, or a map that is not one for its image.
        """
        return self._with_maps(images, segmentation_maps, overrides)

    def _preprocess(
        self, images: list[torch.Tensor], *, maps: list[torch.Tensor] | None = None, **settings: Any
    ) -> BatchFeature:
        batch = super()._preprocess(images, **settings)
        if maps is None:
            return batch
        labels = each(lambda found: self._labels(found, **settings), maps)
        if settings["do_pad"]:
            pad_size = settings["pad_size"]
            size = None if pad_size is None else height_and_width(pad_size, "pad_size")
            labels = transforms.pad(labels, size, fill=IGNORED)
        if settings["return_tensors"] and len({one.shape for one in labels}) == 1:
            batch["labels"] = torch.stack(labels).long()  # at once, from what may be 8 bits
        else:
            batch["labels"] = [one.long() for one in labels]
        return batch.convert_to_tensors(settings["return_tensors"], {"pixel_values"})

    def _labels(
        self,
        segmentation_map: torch.Tensor,
        *,
        do_reduce_labels: bool | None,
        do_resize: bool | None,
        size: Mapping[str, int],
        resample: Resampling,
        do_center_crop: bool | None,
        crop_size: Mapping[str, int] | None,
        compat: bool | None,
        **other: Any,
    ) -> torch.Tensor:
        """Take a map `(h, w)` of classes through what its image goes through. `other` holds the remaining settings."""
        labels = reduce_labels(segmentation_map, IGNORED) if do_reduce_labels else segmentation_map
        if do_resize:
            target = output_size(labels.shape[-2], labels.shape[-1], size)
            labels = self._resize_labels(labels, target, resample, bool(compat))
        if do_center_crop and crop_size is not None:
            labels = labels.long()
            beyond = 0 if compat else IGNORED  # what a crop finds where the image has ended
            crop = load_backend(self.backend).center_crop
            labels = crop(labels[None] - beyond, height_and_width(crop_size, "crop_size"))[0] + beyond
        return labels

    def _resize_labels(
        self, labels: torch.Tensor, size: tuple[int, int], resample: Resampling, compat: bool
    ) -> torch.Tensor:
        return resize_map(labels, size, self.backend)

    def post_process_semantic_segmentation(
        self,
        outputs: Any,
        target_sizes: TargetSizes | None = None,
        return_segmentation_scores: bool = False,
    ) -> list[torch.Tensor] | list[SemanticMaps]:
        """Turn logits into a class for each pixel.

        Args:
            outputs: What the model returned: anything with `logits` `(b, classes, h, w)`.
            target_sizes: `(height, width)` for each image, as tuples or a tensor `(b, 2)`; None keeps the size of the logits.
            return_segmentation_scores: Also return the scores; all of them are in memory then.

        Returns:
            For each image an int64 map `(height, width)` of classes; with `return_segmentation_scores` a `SemanticMaps` with
            this map as `segmentation` and `segmentation_scores` `(classes, height, width)`.

        Raises:
            TypeError: `outputs` has no such logits.
            ValueError: logits that are not finite, or another number of target sizes than of images.
        """
        logits = read_logits(outputs)
        sizes = read_target_sizes(target_sizes, logits)
        return semantic_maps(logits, sizes, return_segmentation_scores)
