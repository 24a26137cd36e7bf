"""One line of a config changes the backbone; the dense head, which reads the contract alone, is not touched.

python examples/swap_backbone.py                       # random weights: runs offline
python examples/swap_backbone.py demo/lite0 resnet50   # pretrained: folders, hub ids, timm names
"""

import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vertebra import AutoBackbone, Backbone, SwinConfig, TimmBackboneConfig

SELECTION = {"out_strides": (8, 16, 32)}  # means the same everywhere, unlike indices: timm's 1 may be native's 2

BACKBONES = {
    "Swin-T (native)": SwinConfig(**SELECTION),
    "ResNet-18 (timm)": TimmBackboneConfig("resnet18", use_pretrained_backbone=False, **SELECTION),
    "ConvNeXt-T (timm)": TimmBackboneConfig("convnext_tiny", use_pretrained_backbone=False, **SELECTION),
}


class DenseHead(nn.Module):
    """Predicts `classes` scores per cell of the finest map, from all maps of a backbone."""

    def __init__(self, backbone: Backbone, classes: int, width: int = 64) -> None:
        super().__init__()
        self.backbone = backbone
        self.lateral = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in backbone.channels)
        self.scales = [stride / backbone.strides[0] for stride in backbone.strides]
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """`(b, 3, h, w)` images to `(b, classes, h / stride, w / stride)` scores."""
        maps = [
            layer(level) for layer, level in zip(self.lateral, self.backbone(pixel_values).feature_maps, strict=True)
        ]
        size = maps[0].shape[-2:]
        return self.classifier(sum(F.interpolate(level, size, mode="bilinear") for level in maps))


def main(names: list[str]) -> None:
    """Build the same head on every backbone, run it, and print a table."""
    torch.manual_seed(0)
    if names:
        backbones = {name: AutoBackbone.from_pretrained(name, **SELECTION) for name in names}
    else:
        backbones = {name: AutoBackbone.from_config(config).eval() for name, config in BACKBONES.items()}
    pixels = torch.randn(1, 3, 224, 224)
    print(f"{'backbone':<20} {'strides':<14} {'channels':<18} {'head parameters':>15}  output")
    for name, backbone in backbones.items():
        model = DenseHead(backbone, classes=21)
        with torch.inference_mode():
            output = model(pixels)
        own = sum(p.numel() for part in (model.lateral, model.classifier) for p in part.parameters())
        print(f"{name:<20} {backbone.strides!s:<14} {backbone.channels!s:<18} {own:>15,}  {tuple(output.shape)}")


if __name__ == "__main__":
    main(sys.argv[1:])
