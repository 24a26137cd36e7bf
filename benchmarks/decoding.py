"""Photos of 640x480 pixels decoded and resized to 224x224, 8 bits: ours against torchvision's and timm's transform on Pillow.

Both sides start at the bytes of JPEG files and end at `(3, 224, 224)` tensors; these are compared first. Ours is what
extraction does for an image, with the settings of its processor read anew for each.

Run: python benchmarks/decoding.py [rounds]
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from pairs import alternate, row
from photo_files import jpegs
from PIL import Image
from torch import Tensor
from torchvision import transforms

from vertebra import ViTImageProcessor
from vertebra.image_processing.decode import decode_image

COUNT = 48
SIZES = ((640, 480), (1280, 960))
PROCESSOR = ViTImageProcessor(
    size={"height": 224, "width": 224}, resample="bicubic", do_rescale=False, do_normalize=False
)
TRANSFORM = transforms.Compose(
    [transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC), transforms.PILToTensor()]
)


def ours(data: bytes, decoder: str) -> Tensor:
    batch = PROCESSOR(decode_image(data, decoder), input_data_format="channels_first", return_tensors="pt")
    return batch["pixel_values"][0]


def theirs(data: bytes) -> Tensor:
    with Image.open(io.BytesIO(data)) as picture:
        return TRANSFORM(picture.convert("RGB"))


def over(run: Callable[[bytes], Tensor], files: tuple[bytes, ...], threads: ThreadPoolExecutor | None) -> None:
    for _ in map(run, files) if threads is None else threads.map(run, files):
        pass


def check(files: tuple[bytes, ...], decoder: str) -> None:
    for data in files:
        difference = (ours(data, decoder).int() - theirs(data).int()).abs()
        assert difference.amax() <= 1, f"{decoder}: pixels differ by {difference.amax()}"
        assert difference.float().mean() < 0.01, f"{decoder}: pixels differ by {difference.float().mean()} in the mean"


def main(rounds: int = 9) -> None:
    torch.set_num_threads(1)  # decoding has threads of its own
    print(f"torch {torch.__version__}, {COUNT} JPEGs to 224x224, medians of {rounds}, milliseconds for all of them")
    print(f"{'':<44} {'vertebra':>11} {'Pillow':>11}   ratio  (quartiles)")
    for width, height in SIZES:
        files = jpegs(COUNT, width, height)
        for decoder in ("fast", "pillow"):
            check(files, decoder)
            for count in (1, 2):
                with ThreadPoolExecutor(count) as pool:
                    threads = pool if count > 1 else None
                    sides = (
                        partial(over, partial(ours, decoder=decoder), files, threads),
                        partial(over, theirs, files, threads),
                    )
                    here, there, ratios = alternate(*sides, rounds)
                name = f"{width}x{height}, {decoder}, {count} thread{'s' if count > 1 else ''}"
                print(row(name, here, there, ratios), f"{COUNT / here:7.0f} images/s", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
