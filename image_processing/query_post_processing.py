"""The methods that turn what a model of queries predicts into maps, objects and segments."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

import torch

from vertebra.image_processing.post_inputs import Size, TargetSizes, predictions
from vertebra.image_processing.post_instance import instance_segmentation
from vertebra.image_processing.post_panoptic import panoptic_segmentation
from vertebra.image_processing.post_semantic import SemanticMaps, class_scores, semantic_segmentation


class QueryPostProcessing:
    """Post-processing of `class_queries_logits` and `masks_queries_logits`, for processors with a setting `compat`."""

    compat: bool | None
    compat_grid: ClassVar[Size | None] = None
    """The size to which transformers resizes mask logits before all else."""

    def post_process_semantic_segmentation(
        self,
        outputs: Any,
        target_sizes: TargetSizes | None = None,
        return_segmentation_scores: bool = False,
        compat: bool | None = None,
    ) -> list[torch.Tensor] | list[SemanticMaps]:
        """Turn queries into a class for each pixel.

        Args:
            outputs: What the model returned: anything with `class_queries_logits` `(b, q, classes + 1)` and
                `masks_queries_logits` `(b, q, h, w)`.
            target_sizes: `(height, width)` for each image, as tuples or a tensor `(b, 2)`; None keeps the size of the masks.
            return_segmentation_scores: Also return the scores; all of them are in memory then.
            compat: Give transformers' numbers, for Mask2Former by way of 384 x 384 pixels; None is the processor's setting.

        Returns:
            For each image an int64 map `(height, width)` of classes; with `return_segmentation_scores` a `SemanticMaps` with
            this map as `segmentation` and `segmentation_scores` `(classes, height, width)`.

        Raises:
            TypeError: `outputs` lacks these logits.
            ValueError: logits that are NaN or do not fit each other, or another number of target sizes than of images.
        """
        return semantic_segmentation(outputs, target_sizes, return_segmentation_scores, **self._compat(compat))

    def post_process_instance_segmentation(
        self,
        outputs: Any,
        threshold: float = 0.5,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.8,
        target_sizes: TargetSizes | None = None,
        return_coco_annotation: bool = False,
        return_binary_maps: bool = False,
        compat: bool | None = None,
    ) -> list[dict[str, Any]]:
        """Turn queries into objects, each with a mask, a class and a score.

        The best pairs of a query and a class, as many as there are queries, are candidates. A mask is where the query's probability
        is above `mask_threshold`, and its score is the class's probability times the mask's mean probability. Where masks
        overlap, the better score has the pixel, and a candidate of whose area less than `overlap_mask_area_threshold` is left is
        dropped; 0 drops none.

        Args:
            outputs: As in `post_process_semantic_segmentation`.
            threshold: The least score.
            mask_threshold: As above; 0..1, as the other two.
            overlap_mask_area_threshold: As above.
            target_sizes: `(height, width)` for each image, as tuples or a tensor `(b, 2)`; None keeps the size of the masks.
            return_coco_annotation: Return each object's whole mask in COCO's run-length encoding (`coco.encode_rle`), which
                `coco.coco_annotations` makes JSON of.
            return_binary_maps: Return each object's whole mask.
            compat: Give transformers' numbers: the last two thresholds are not read, the later candidate has the pixel whatever its
                score, maps are float32, no objects give a map of -1 for `return_binary_maps`, and `return_coco_annotation` gives
                runs of the map of ids along rows, its background first. None is the processor's setting.

        Returns:
            For each image `{"segmentation", "segments_info"}`. The segmentation is a map of ids, int32 `(height, width)`, -1 where
            no object is; or binary maps, bool `(objects, height, width)`; or a list of encodings `{"size", "counts"}`. For each
            object `segments_info` has `id` (from 0), `label_id`, `was_fused` (False) and `score`.

        Raises:
            TypeError: `outputs` lacks these logits.
            ValueError: both return flags, a threshold outside 0..1, and as in `post_process_semantic_segmentation`.
        """
        return instance_segmentation(
            outputs,
            threshold,
            mask_threshold,
            overlap_mask_area_threshold,
            target_sizes,
            return_coco_annotation,
            return_binary_maps,
            **self._compat(compat),
        )

    def post_process_panoptic_segmentation(
        self,
        outputs: Any,
        threshold: float = 0.5,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.8,
        label_ids_to_fuse: Collection[int] | None = None,
        target_sizes: TargetSizes | None = None,
        compat: bool | None = None,
    ) -> list[dict[str, Any]]:
        """Turn queries into segments, of which each pixel has one at most.

        Queries whose best class is an object with a probability above `threshold` compete for each pixel with this probability
        times the mask's. A query is a segment where it wins, if it wins more than `overlap_mask_area_threshold` of the area in
        which that product is at least `mask_threshold`.

        Args:
            outputs: As in `post_process_semantic_segmentation`.
            threshold: As above; 0..1, as the other two.
            mask_threshold: As above.
            overlap_mask_area_threshold: As above.
            label_ids_to_fuse: Classes of which an image has one segment only, such as sky; None fuses none.
            target_sizes: `(height, width)` for each image, as tuples or a tensor `(b, 2)`; None keeps the size of the masks.
            compat: Give transformers' numbers: after a fused class repeats, ids are given again, and it is listed each time; an
                image without objects is a float32 map of -1. None is the processor's setting.

        Returns:
            For each image `{"segmentation", "segments_info"}`: a map of ids, int32 `(height, width)`, 0 where no segment is; and
            for each segment `id` (from 1), `label_id`, `was_fused` (whether its class is one to fuse) and `score` (the best one
            where queries were fused).

        Raises:
            TypeError: `outputs` lacks these logits.
            ValueError: a threshold outside 0..1, and as in `post_process_semantic_segmentation`.
        """
        return panoptic_segmentation(
            outputs,
            threshold,
            mask_threshold,
            overlap_mask_area_threshold,
            label_ids_to_fuse,
            target_sizes,
            **self._compat(compat),
        )

    def post_process_segmentation(self, outputs: Any, target_size: Size | None = None) -> torch.Tensor:
        """Return the scores of all classes `(b, classes, height, width)`, as transformers 4 has it.

        Mask logits are resized to `target_size` first; all of them are in memory then.
        `post_process_semantic_segmentation(…, return_segmentation_scores=True)` resizes the scores instead.
        """
        return torch.stack([class_scores(one) for one in predictions(outputs, None, grid=target_size)])

    def _compat(self, compat: bool | None) -> dict[str, Any]:
        compat = bool(self.compat if compat is None else compat)
        return {"compat": compat, "grid": self.compat_grid if compat else None}
