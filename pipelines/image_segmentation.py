"""Images to masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vertebra.errors import listing
from vertebra.image_processing.inputs import read_images
from vertebra.pipelines.base import Piece, Row
from vertebra.pipelines.images import ImagePipeline

RGB = 3
SUBTASKS = ("panoptic", "instance", "semantic")


class ImageSegmentationPipeline(ImagePipeline):
    """Where things are in an image: `[{"score": float or None, "label": str, "mask": PIL image}, …]`.

    Masks have mode `L` and the image's size: 255 inside, 0 outside. Semantic masks have no score.
    """

    task = "image-segmentation"

    def prepare(self, item: Any, *, allow_urls: bool = False, timeout: float | None = None) -> Sequence[Piece]:
        """Prepare an image.

        Args:
            item: A path, a PIL image, an array or tensor, the bytes of a file, or an address.
            allow_urls: Whether addresses are fetched.
            timeout: Seconds to wait for an address.
        """
        bands = self.image_processor.num_channels or RGB
        (image,) = read_images(self.opened(item, allow_urls, timeout), channels=bands)
        return [Piece(self.pixels(image), context=tuple(image.shape[-2:]))]

    def answer(
        self,
        rows: Sequence[Row],
        *,
        subtask: str | None = None,
        threshold: float = 0.9,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.5,
    ) -> list[dict[str, Any]]:
        """Find the segments.

        Args:
            rows: What the model said.
            subtask: `"panoptic"`, `"instance"` or `"semantic"`; None for the first of these that the model can do.
            threshold: The least score of a segment.
            mask_threshold: The least score of a pixel of a mask.
            overlap_mask_area_threshold: What part of a mask must be left when others have taken theirs.

        Raises:
            ValueError: the model cannot do the subtask; lists what it can do.
        """
        name = self._subtask(subtask)
        (row,) = rows
        process = getattr(self.image_processor, f"post_process_{name}_segmentation")
        if name == "semantic":
            (classes,) = process(row.output, target_sizes=[row.context])
            return [self._segment(classes == label, int(label)) for label in classes.unique()]
        (found,) = process(
            row.output,
            threshold=threshold,
            mask_threshold=mask_threshold,
            overlap_mask_area_threshold=overlap_mask_area_threshold,
            target_sizes=[row.context],
        )
        return [
            self._segment(found["segmentation"] == segment["id"], segment["label_id"], segment["score"])
            for segment in found["segments_info"]
        ]

    def _subtask(self, asked: str | None) -> str:
        able = [name for name in SUBTASKS if hasattr(self.image_processor, f"post_process_{name}_segmentation")]
        if asked not in (None, *able) or not able:
            raise ValueError(
                f"subtask={asked!r}: {type(self.model).__name__} with {type(self.image_processor).__name__} does "
                f"{listing(map(repr, able)) or 'no segmentation'}; leave subtask out for the first of these."
            )
        return asked or able[0]

    def _segment(self, inside: Tensor, label: int, score: float | None = None) -> dict[str, Any]:
        mask = Image.fromarray(inside.to(torch.uint8).mul_(255).cpu().numpy())
        return {"score": score, "label": self.model.config.labels[label], "mask": mask}
