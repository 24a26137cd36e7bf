"""UperNet and MaskFormer over any backbone: one entry of the configuration says which; train a step, save, load.

python examples/compose_segmenter.py                       # random weights: runs offline
python examples/compose_segmenter.py resnet50 demo/lite0   # pretrained: timm names, folders, hub ids
"""

import sys
import tempfile
from typing import Any

import torch
from torch import Tensor

from vertebra import (
    AutoModelForImageSegmentation,
    DetrConfig,
    MaskFormerConfig,
    MaskFormerForInstanceSegmentation,
    SwinConfig,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

SIZE, LABELS = 160, 3
BACKBONES: dict[str, dict[str, Any]] = {
    "Swin (native)": {"backbone_config": SwinConfig(embed_dim=24, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8))},
    "ResNet (timm)": {"backbone": "test_resnet"},
    "ViT (timm)": {"backbone": "test_vit"},  # one stride alone: a simple feature pyramid makes the others
}


def scenes(count: int = 2) -> dict[str, Tensor]:
    """Noise with a bright rectangle and a dark one; what they are, pixel by pixel, is background, bright or dark: 0, 1, 2."""
    images, labels = torch.rand(count, 3, SIZE, SIZE), torch.zeros(count, SIZE, SIZE, dtype=torch.long)
    for label, side in ((1, 0), (2, SIZE // 2)):
        labels[:, 30:110, side + 10 : side + 70] = label
        images[:, :, 30:110, side + 10 : side + 70] += 2 * (label == 1) - 1
    return {"pixel_values": images, "labels": labels}


def masks(scene: dict[str, Tensor]) -> dict[str, Any]:
    """The same for models that predict one mask a segment: a list of masks and a list of classes for every image."""
    classes = torch.arange(LABELS)
    return {
        "pixel_values": scene["pixel_values"],
        "mask_labels": [(image == classes[:, None, None]).float() for image in scene["labels"]],
        "class_labels": [classes for _ in scene["labels"]],
    }


def compose(backbone: dict[str, Any]) -> dict[str, Any]:
    """Both models over the backbone that these keys of a configuration name."""
    upernet = UperNetConfig(**backbone, num_labels=LABELS, hidden_size=64, auxiliary_channels=32)
    decoder = DetrConfig(decoder_layers=2, num_queries=10, d_model=64, decoder_ffn_dim=128, decoder_attention_heads=4)
    maskformer = MaskFormerConfig(
        **backbone, num_labels=LABELS, decoder_config=decoder, fpn_feature_size=64, mask_feature_size=64
    )
    return {
        "UperNet": UperNetForSemanticSegmentation(upernet),
        "MaskFormer": MaskFormerForInstanceSegmentation(maskformer),
    }


def main(names: list[str]) -> None:
    """Compose, train a step, save, load, compare, and print a table."""
    torch.manual_seed(0)
    backbones = {name: {"backbone": name, "use_pretrained_backbone": True} for name in names} or BACKBONES
    scene = scenes()
    print(f"{'backbone':<20} {'head':<12} {'channels of strides 4 to 32':<28} {'parameters':>10} {'loss':>6}  reloaded")
    for name, keys in backbones.items():
        for head, model in compose(keys).items():
            inputs = scene if head == "UperNet" else masks(scene)
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
            loss = model.train()(**inputs).loss
            loss.backward()
            optimizer.step()
            with tempfile.TemporaryDirectory() as folder, torch.no_grad():
                model.eval().save_pretrained(folder)
                again = AutoModelForImageSegmentation.from_pretrained(folder)
                equal = torch.equal(again(**inputs).loss, model(**inputs).loss)
            size = sum(parameter.numel() for parameter in model.parameters())
            verdict = "equal" if equal else "NOT EQUAL"
            print(f"{name:<20} {head:<12} {model.backbone.channels!s:<28} {size:>10,} {loss:6.3f}  {verdict}")


if __name__ == "__main__":
    main(sys.argv[1:])
