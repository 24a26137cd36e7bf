"""Copy five real photos out of the installed packages scikit-image and scikit-learn, no network needed.

python examples/offline_photos.py demo/photos
"""

import argparse
import importlib.util
import shutil
from pathlib import Path

PHOTOS = {
    "cat.png": ("skimage", "data/chelsea.png"),
    "espresso.png": ("skimage", "data/coffee.png"),
    "moped.png": ("skimage", "data/motorcycle_left.png"),
    "daisy.jpg": ("sklearn", "datasets/images/flower.jpg"),
    "palace.jpg": ("sklearn", "datasets/images/china.jpg"),
}


def copy_photos(folder: Path) -> Path:
    """Copy the photos into `folder` under the names of what they show, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (package, path) in PHOTOS.items():
        found = importlib.util.find_spec(package)
        if found is None:
            raise SystemExit("The photos are not installed: pip install scikit-image scikit-learn")
        shutil.copyfile(Path(found.origin).parent / path, folder / name)
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Copy five real photos.")
    parser.add_argument("folder", type=Path)
    print(copy_photos(parser.parse_args().folder))
