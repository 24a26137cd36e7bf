"""Segments of every image of a source: pictures, masks and annotations in COCO's formats."""

from __future__ import annotations

import inspect
import json
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from vertebra.errors import listing
from vertebra.extraction.extract import pick_device
from vertebra.extraction.sources import Source, find_images
from vertebra.files import atomic_path, write_text
from vertebra.image_processing.base import BaseImageProcessor
from vertebra.image_processing.coco import coco_annotations
from vertebra.image_processing.drawing import draw_segmentation, palette_colour
from vertebra.image_processing.inputs import read_images

TASKS = ("semantic", "instance", "panoptic")
ANNOTATIONS, MASKS, OVERLAYS = "annotations.json", "masks", "overlays"


@dataclass(frozen=True)
class Segmentation:
    """What `segment` did.

    Args:
        out: The folder written.
        task: `"semantic"`, `"instance"` or `"panoptic"`.
        images: Id to the names of what was found in it, with how many there are of each.
        failed: Id to reason, of the images that could not be segmented.
        seconds: Wall time.
        device: Where the model ran.
    """

    out: Path
    task: str
    images: Mapping[str, Mapping[str, int]]
    failed: Mapping[str, str]
    seconds: float
    device: str

    @property
    def exit_code(self) -> int:
        """0 when every image was segmented, 3 when some failed, 1 when all did."""
        if not self.failed:
            return 0
        return 3 if self.images else 1


def tasks_of(processor: BaseImageProcessor) -> list[str]:
    """The tasks that the post-processing of a processor serves."""
    return [task for task in TASKS if hasattr(processor, f"post_process_{task}_segmentation")]


def segment(
    source: Source,
    out: str | os.PathLike[str],
    model: Any,
    processor: BaseImageProcessor,
    *,
    task: str | None = None,
    alpha: float = 0.55,
    device: str | torch.device | None = None,
    progress: bool = True,
    **thresholds: Any,
) -> Segmentation:
    """Segment every image of `source` into the folder `out`.

    `overlays/` has a picture of each image, `masks/` a PNG of its size, and `annotations.json` all of it in COCO's format:

    | task | mask | annotations |
    | --- | --- | --- |
    | semantic | a class for every pixel, 8 bits with a palette (16 bits beyond 256 classes) | an encoded mask for each class |
    | instance | 16 bits, 0 for none, k for the image's k-th annotation | an encoded mask for each object, with its score |
    | panoptic | COCO panoptic's: id = red + 256 green + 65536 blue, 0 for none | its `segments_info`, with scores |

    Args:
        source: A folder, a glob pattern, an image file, a `.txt` list, or a list of files; see `find_images`.
        out: Made when it does not exist; files of the same names are replaced. Pictures in its `overlays/` and `masks/` are never
            segmented, so it may lie inside `source`.
        model: A segmentation model in evaluation mode. It is moved to `device`.
        processor: The image processor that belongs to it.
        task: One of `tasks_of(processor)`; None takes panoptic segmentation where there is one.
        alpha: How much of the colours shows in the pictures, 0..1.
        device: Where the model runs; None takes a GPU where there is one.
        progress: Show a bar on a terminal.
        **thresholds: Of the task's post-processing: `threshold`, `mask_threshold`, `overlap_mask_area_threshold`, ….

    Raises:
        ValueError: a task that the model does not serve, or a threshold that the task lacks or that is out of range.
        OSError: the source holds no image, or `out` cannot be written.
    """
    started = time.monotonic()
    task = _check_task(task, processor)
    if model.training:
        raise ValueError("The model is in training mode, in which results depend on chance; call model.eval().")
    post_process = getattr(processor, f"post_process_{task}_segmentation")
    _check_thresholds(thresholds, post_process, task)
    folder = Path(out).expanduser()
    if folder.is_file():
        raise NotADirectoryError(f"out={str(out)!r} is a file; segment writes a folder.")
    images = [image for image in find_images(source) if not _is_inside(image.path, folder)]
    if not images:
        raise FileNotFoundError(f"All images of {str(source)!r} are inside out={str(out)!r}, which this writes.")
    names = _names([image.id for image in images])
    chosen = pick_device(device)
    model.to(chosen)
    labels = model.config.labels
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    found: dict[str, dict[str, int]] = {}
    failed: dict[str, str] = {}
    for image in tqdm(images, unit="image", disable=None if progress else True):
        try:
            photo = read_images(image.path, convert_rgb=True)[0]
        except (ValueError, OSError) as error:
            failed[image.id] = str(error).replace(str(image.path), image.id)
            continue
        size = (int(photo.shape[-2]), int(photo.shape[-1]))
        with torch.inference_mode():
            inputs = processor(photo, input_data_format="channels_first", return_tensors="pt")
            outputs = model(**{key: _to(value, chosen, model.dtype) for key, value in inputs.items()}, return_dict=True)
            (result,) = post_process(outputs, target_sizes=[size], **thresholds)
        ids, segments = _segments(result)
        entry = {"id": len(entries), "file_name": image.id, "height": size[0], "width": size[1]}
        entries.append(entry)
        mask = PurePosixPath(MASKS, names[image.id])
        annotations += _annotate(task, ids, segments, len(entries) - 1, mask.name, len(annotations))
        found[image.id] = dict(Counter(labels[info["label_id"]] for info in segments))
        _write(_as_mask(task, ids, len(labels)), folder / mask)
        overlay = draw_segmentation(photo.permute(1, 2, 0), ids, segments, labels, alpha=alpha)
        _write(overlay, folder / OVERLAYS / names[image.id])
    categories = [{"id": label, "name": name} for label, name in labels.items()]
    content = {"images": entries, "categories": categories, "annotations": annotations}
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / ANNOTATIONS, json.dumps(content))
    return Segmentation(folder, task, found, failed, time.monotonic() - started, str(chosen))


def _check_task(task: str | None, processor: BaseImageProcessor) -> str:
    served = tasks_of(processor)
    if not served:
        raise ValueError(
            f"{type(processor).__name__} has no post-processing for segmentation; MaskFormerImageProcessor, "
            f"Mask2FormerImageProcessor and SegformerImageProcessor have."
        )
    if task is not None and task not in served:
        raise ValueError(f"task={task!r} is not one that {type(processor).__name__} serves: {listing(served)}.")
    return task or served[-1]


def _check_thresholds(thresholds: Mapping[str, Any], post_process: Any, task: str) -> None:
    taken = inspect.signature(post_process).parameters
    if unknown := sorted(name for name in thresholds if name not in taken):
        raise ValueError(f"{listing(unknown)} cannot be set for task={task!r}, whose results depend on none.")


def _is_inside(path: Path, out: Path) -> bool:
    own = (out / OVERLAYS).resolve(), (out / MASKS).resolve()
    return any(folder in path.resolve().parents for folder in own)


def _names(ids: Sequence[str]) -> dict[str, str]:
    """Name of the PNGs of each image: its own with another ending, which stays where two images differ in nothing else."""
    stems = Counter(PurePosixPath(id_).with_suffix("") for id_ in ids)
    return {
        id_: str(path.with_suffix(".png") if stems[path.with_suffix("")] == 1 else f"{id_}.png")
        for id_, path in ((id_, PurePosixPath(id_)) for id_ in ids)
    }


def _to(value: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    return value.to(device, dtype if value.is_floating_point() else None)


def _segments(result: Any) -> tuple[Tensor, list[dict[str, Any]]]:
    """The map of ids `(h, w)` and what the ids are; of semantic results the classes themselves."""
    if isinstance(result, Tensor):
        ids = result.cpu()
        return ids, [{"id": label, "label_id": label} for label in np.unique(ids.numpy()).tolist()]
    return result["segmentation"].cpu(), result["segments_info"]


def _annotate(
    task: str, ids: Tensor, segments: Sequence[Mapping[str, Any]], image: int, mask: str, before: int
) -> list[dict[str, Any]]:
    """COCO's annotations of one image; of panoptic segments a single one."""
    result = {"segmentation": ids, "segments_info": [{"score": None, **info} for info in segments]}
    annotations = coco_annotations([result], [image], first_id=before + 1)
    for annotation, info in zip(annotations, segments, strict=True):
        if task == "panoptic":
            del annotation["segmentation"], annotation["image_id"]
            annotation["id"] = info["id"]
        if annotation["score"] is None:
            del annotation["score"]
    return annotations if task != "panoptic" else [{"image_id": image, "file_name": mask, "segments_info": annotations}]


def _as_mask(task: str, ids: Tensor, classes: int) -> Image.Image:
    if task == "panoptic":
        channels = [(ids >> shift) & 255 for shift in (0, 8, 16)]
        return Image.fromarray(torch.stack(channels, -1).numpy().astype(np.uint8))
    if task == "instance" or classes > 256:
        return Image.fromarray((ids + (task == "instance")).numpy().astype(np.uint16))
    mask = Image.fromarray(ids.numpy().astype(np.uint8)).convert("P")
    mask.putpalette([part for label in range(256) for part in palette_colour(label)])
    return mask


def _write(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")
