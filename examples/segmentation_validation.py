"""How good the predictions of train_segmentation.py are: mIoU, PQ, and pictures of them beside the labels."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from segmentation_data import VOID, Photo, Prepared
from segmentation_pictures import sheet, write_png
from torch import Tensor
from torchmetrics.classification import MulticlassJaccardIndex
from torchmetrics.detection import PanopticQuality

from vertebra.image_processing.drawing import draw_segmentation

Prediction = tuple[Tensor, dict[str, Any] | None]


class Validation:
    """Predicts the photos of a set, and compares with their labels at the photos' own size."""

    def __init__(self, prepared: Prepared, args: argparse.Namespace) -> None:
        self.prepared, self.photos, self.processor, self.args = prepared, prepared.photos, prepared.processor, args

    @torch.no_grad()
    def predict(self, training: Any, indices: Sequence[int], photos: Sequence[Photo]) -> Iterator[Prediction]:
        """Classes `(h, w)`, and with masks the panoptic segments, of each of the photos that have these indices."""
        model = training.model if training.ema is None else training.ema.module
        pixels = torch.stack([self.prepared[index]["pixel_values"] for index in indices])
        with training.accelerator.autocast():
            outputs = model.eval()(pixel_values=pixels.to(training.accelerator.device))
        model.train()
        sizes = [photo.classes.shape for photo in photos]
        classes = self.processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)
        if not self.prepared.masks:
            return zip(classes, [None] * len(classes), strict=True)
        panoptic = self.processor.post_process_panoptic_segmentation(outputs, label_ids_to_fuse={0}, target_sizes=sizes)
        return zip(classes, panoptic, strict=True)

    def measure(self, training: Any) -> dict[str, float]:
        """MIoU over the classes that labels or predictions have, and with masks PQ; over the photos of all processes."""
        accelerator, count = training.accelerator, len(self.photos.labels)
        miou = MulticlassJaccardIndex(count, ignore_index=VOID).to(accelerator.device)
        pq = PanopticQuality(things=set(range(1, count)), stuffs={0}).to(accelerator.device)
        mine = range(accelerator.process_index, len(self.photos), accelerator.num_processes)
        for start in range(0, len(mine), self.args.batch):
            indices = mine[start : start + self.args.batch]
            photos = [self.photos[index] for index in indices]
            for photo, (classes, panoptic) in zip(photos, self.predict(training, indices, photos), strict=True):
                miou.update(classes[None], torch.from_numpy(photo.classes).to(classes)[None])
                if panoptic is not None:
                    class_of = {segment["id"]: segment["label_id"] for segment in panoptic["segments_info"]}
                    labelled = torch.from_numpy(photo.segments).to(classes)
                    pq.update(pairs(panoptic["segmentation"], class_of, 0), pairs(labelled, photo.class_of, VOID))
        return {"miou": miou.compute().item()} | ({"pq": pq.compute().item()} if self.prepared.masks else {})

    def draw(self, training: Any, path: Path) -> None:
        """Write photos, their labels and the predictions beside each other."""
        indices = range(min(self.args.pictures, len(self.photos)))
        photos = [shrink(self.photos[index]) for index in indices]
        rows = [
            [photo.image, *drawings(photo, *found, self.photos.labels)]
            for photo, found in zip(photos, self.predict(training, indices, photos), strict=True)
        ]
        write_png(sheet(rows, ("photo", "labels", f"prediction, step {training.step}")), path)


def shrink(photo: Photo, height: int = 240) -> Photo:
    """The photo and its labels at another size."""
    size = round(photo.image.width * height / photo.image.height), height
    classes, segments = (
        np.array(Image.fromarray(x).resize(size, Image.Resampling.NEAREST)) for x in (photo.classes, photo.segments)
    )
    return photo._replace(image=photo.image.resize(size), classes=classes, segments=segments)


def drawings(
    photo: Photo, classes: Tensor, panoptic: dict[str, Any] | None, labels: Sequence[str]
) -> tuple[Image.Image, Image.Image]:
    """The labels of a photo and a prediction, both over the photo; the background is left as it is."""
    draw = partial(draw_segmentation, photo.image, labels=labels, alpha=0.6, ignore=(0, VOID))
    if panoptic is None:
        return draw(photo.classes), draw(classes)
    objects = [{"id": number, "label_id": label} for number, label in photo.class_of.items() if label]
    found = [segment for segment in panoptic["segments_info"] if segment["label_id"]]
    return draw(photo.segments, objects), draw(panoptic["segmentation"], found)


def pairs(segments: Tensor, class_of: Mapping[int, int], other: int) -> Tensor:
    """`(1, h, w, 2)` class and number of each pixel's segment, for torchmetrics; pixels without one have class `other`."""
    segments = segments.long()
    table = torch.full((max([VOID, *class_of]) + 2,), other, device=segments.device)
    for number, label in class_of.items():
        table[number] = label
    return torch.stack([table[segments], segments], -1)[None]  # -1, where nothing was found, is the last row
