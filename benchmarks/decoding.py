"""JPEG bytes to normalised batches of 8, against Pillow and torchvision's transforms.

Both sides start at the bytes of files of 640x480 (or 1280x960) pixels and end at one float32 batch `(8, 3, 224, 224)`; before
anything is timed, pixels are compared in 8 bits: none may be further than a grey level off, and 0.01 in the mean. The peer decodes
and resizes one file after the other, as its users' loops do; beside it a peer with as many threads over files as we have. Our rows
of `"fast"` decode with simplejpeg, those of `"pillow"` with what the peer decodes with.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from pairs import Case
from photo_files import jpegs
from PIL import Image
from run import main
from torch import Tensor
from torchvision import transforms

from vertebra import ViTImageProcessor
from vertebra.image_processing.decode import decode_images

COUNT = 8
SIZES = ((640, 480), (1280, 960))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LEVEL = 1e-2
"""A grey level, which `check` allows, is 0.0175 of the deviation of blue, 0.0067 of the largest value there is."""
PROCESSOR = ViTImageProcessor(size=224, resample="bicubic", image_mean=MEAN, image_std=STD)
TRANSFORM = transforms.Compose(
    [
        transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
)


def ours(files: tuple[bytes, ...], decoder: str, threads: int) -> Tensor:
    images = decode_images(files, decoder, threads=threads)
    batch: Tensor = PROCESSOR(images, input_data_format="channels_first", return_tensors="pt")["pixel_values"]
    return batch


def prepared(data: bytes) -> Tensor:
    with Image.open(io.BytesIO(data)) as picture:
        values: Tensor = TRANSFORM(picture.convert("RGB"))
    return values


def theirs(files: tuple[bytes, ...], over: Callable[..., Iterator[Tensor]] = map) -> Tensor:
    return torch.stack(list(over(prepared, files)))


def check(files: tuple[bytes, ...], decoder: str) -> None:
    """Raise AssertionError where pixels are further apart than their last bits."""
    levels = [
        (batch * torch.tensor(STD).view(3, 1, 1) * 255).round() for batch in (ours(files, decoder, 1), theirs(files))
    ]
    difference = (levels[0] - levels[1]).abs()
    assert difference.amax() <= 1, f"{decoder}: pixels differ by {difference.amax()}"
    assert difference.mean() < 0.01, f"{decoder}: pixels differ by {difference.mean()} in the mean"


def cases() -> Iterator[Case]:
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        for size in SIZES:
            files = jpegs(COUNT, *size)
            name = f"{COUNT} of {size[0]}x{size[1]}"
            peers = {
                "Pillow + torchvision": theirs,
                f"Pillow + torchvision, {threads} threads": partial(theirs, over=pool.map),
            }
            for decoder in ("fast", "pillow"):
                check(files, decoder)
                for peer, side in peers.items():
                    yield Case(
                        f"{name}, {decoder!r}",
                        peer,
                        partial(ours, files, decoder, threads),
                        partial(side, files),
                        tolerance=LEVEL,
                        asked=2.5 if decoder == "fast" and side is theirs else None,
                        rounds=15,
                    )


if __name__ == "__main__":
    main(__file__)
