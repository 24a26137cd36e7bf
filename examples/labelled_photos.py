"""Write a folder of labelled images, DEST/{train,test}/<class>/<number>.png, no network needed.

    python examples/labelled_photos.py demo/digits                # scikit-learn's 1,797 digits of 8 x 8 pixels

Fashion-MNIST (28 x 28 pixels, 60,000 to train on and 10,000 to test) is in a package of Debian:

    apt-get download dataset-fashion-mnist && dpkg-deb -x dataset-fashion-mnist_*.deb fashion
    python examples/labelled_photos.py demo/fashion --fashion fashion/usr/share/datasets/fashion-mnist
"""

import argparse
import gzip
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

INSTALLED = "/usr/share/datasets/fashion-mnist"
CLOTHES = "t-shirt trouser pullover dress coat sandal shirt sneaker bag ankle-boot".split()
FILES = {"train": "train", "test": "t10k"}
Labelled = tuple[np.ndarray, np.ndarray]  # (n, h, w) images of 0..255, (n,) classes


def digits() -> tuple[dict[str, Labelled], list[str]]:
    """Scikit-learn's digits and the names of the classes; the last third, which others wrote than the first two, is to test on."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images, labels = (found.images * (255 / 16)).round().astype(np.uint8), found.target
    end = 2 * len(images) // 3
    return {"train": (images[:end], labels[:end]), "test": (images[end:], labels[end:])}, list("0123456789")


def fashion(folder: Path) -> tuple[dict[str, Labelled], list[str]]:
    """Fashion-MNIST out of its four files, and the names of the classes."""
    splits = {}
    for split, file in FILES.items():
        paths = [folder / f"{file}-images-idx3-ubyte.gz", folder / f"{file}-labels-idx1-ubyte.gz"]
        for path in paths:
            if not path.is_file():
                raise SystemExit(
                    f"There is no {path}; --fashion takes the folder of the files of Fashion-MNIST. {__doc__}"
                )
        images, labels = map(read_idx, paths)
        splits[split] = (images, labels)
    return splits, CLOTHES


def read_idx(path: Path) -> np.ndarray:
    """An array of bytes out of an idx.gz file: 0, 0, the type (8: bytes), the number of axes, their lengths, the values."""
    with gzip.open(path) as file:
        zeros, kind, axes = struct.unpack(">HBB", file.read(4))
        if zeros or kind != 8:
            raise SystemExit(f"{path} is no idx file of bytes.")
        shape = struct.unpack(f">{axes}I", file.read(4 * axes))
        return np.frombuffer(file.read(), np.uint8).reshape(shape)


def write(folder: Path, split: str, labelled: Labelled, names: Sequence[str], count: int, seed: int) -> int:
    """Write `count` images of a split, chosen at random, and return how many there were to write."""
    images, labels = labelled
    chosen = np.random.default_rng(seed).permutation(len(images))[:count]
    for name in names:
        (folder / split / name).mkdir(parents=True, exist_ok=True)
    for number in chosen.tolist():
        path = folder / split / names[labels[number]] / f"{number:05}.png"
        Image.fromarray(images[number]).save(path)
    return len(chosen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DEST")
    parser.add_argument(
        "--fashion", nargs="?", type=Path, const=Path(INSTALLED), metavar="DIR", help=f"Fashion-MNIST (of {INSTALLED})"
    )
    parser.add_argument("--train", type=int, default=1000, metavar="N", help="images to train on (default: 1000)")
    parser.add_argument("--test", type=int, default=500, metavar="N", help="images to test on (default: 500)")
    parser.add_argument("--seed", type=int, default=0, help="which images (default: 0)")
    args = parser.parse_args()
    if args.folder.exists() and any(args.folder.iterdir()):
        raise SystemExit(f"{args.folder} is not empty; what is there would count as labelled too. Give a new folder.")
    splits, names = fashion(args.fashion) if args.fashion else digits()
    for split, count in (("train", args.train), ("test", args.test)):
        written = write(args.folder, split, splits[split], names, count, args.seed)
        print(f"{args.folder}/{split}: {written} images of {len(names)} classes")


if __name__ == "__main__":
    main()
