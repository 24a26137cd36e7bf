"""Tiny Mask2Formers over the backbones that transformers has too, and labelled batches for them."""

from pathlib import Path
from typing import Any

import torch
import transformers
from oracle import save_with_transformers
from torch import Tensor

from vertebra import ResNetConfig
from vertebra.heads.mask2former.config import Mask2FormerConfig
from vertebra.heads.mask2former.model import Mask2FormerForUniversalSegmentation

SIZE = (64, 96)
CLASSES = 4
STAGES = ["stage1", "stage2", "stage3", "stage4"]
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 2, 1, 1], "layer_type": "basic"}
SWIN = {"embed_dim": 8, "depths": [1, 2, 1, 1], "num_heads": [1, 2, 2, 4], "window_size": 3, "image_size": 32}
HEAD = {
    "feature_size": 64,
    "mask_feature_size": 20,
    "hidden_dim": 32,
    "encoder_feedforward_dim": 48,
    "encoder_layers": 2,
    "decoder_layers": 5,
    "num_attention_heads": 4,
    "dim_feedforward": 40,
    "num_queries": 7,
    "train_num_points": 60,
    "num_labels": CLASSES,
}


def backbones() -> dict[str, Any]:
    """Transformers' configurations: Swin with drop path off, ResNet, a timm ResNet, and a ViT whose maps are all of one stride."""
    return {
        "swin": transformers.SwinConfig(**SWIN, drop_path_rate=0.0, out_features=STAGES),
        "resnet": transformers.ResNetConfig(**RESNET, out_features=STAGES),
        "timm": transformers.TimmBackboneConfig(backbone="test_resnet", out_indices=[1, 2, 3, 4]),
        "vit": transformers.TimmBackboneConfig(backbone="vit_tiny_patch16_224", out_indices=[0, 1, 2, 3]),
    }


def theirs(backbone: str = "resnet", **changes: Any) -> Any:
    """A Mask2Former of transformers with random weights."""
    config = transformers.Mask2FormerConfig(backbone_config=backbones()[backbone], **{**HEAD, **changes})
    return transformers.Mask2FormerForUniversalSegmentation(config)


def saved(model: Any, folder: Path) -> Any:
    """Perturb and save a model of transformers; Swin's plain attention would compute its softmax in float32."""
    model = save_with_transformers(model, folder)
    if model.config.backbone_config.model_type == "swin":
        model.set_attn_implementation("sdpa")
    return model


def both(
    folder: Path, backbone: str = "resnet", double: bool = True, neck: str | None = "auto", **changes: Any
) -> tuple[Any, Any]:
    """The same weights in transformers and here, in evaluation mode."""
    model = theirs(backbone, **changes)
    model = saved(model.double() if double else model, folder)
    return model, Mask2FormerForUniversalSegmentation.from_pretrained(folder, neck=neck)


def tiny(backbone_config: Any = None, **changes: Any) -> Any:
    """A Mask2Former of vertebra with random weights."""
    backbone_config = ResNetConfig(**RESNET) if backbone_config is None else backbone_config
    config = Mask2FormerConfig(backbone_config=backbone_config, **{**HEAD, **changes})
    return Mask2FormerForUniversalSegmentation(config)


def images(batch: int = 3, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Random pixels."""
    return torch.randn(batch, 3, *SIZE, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def labels(*counts: int, dtype: torch.dtype = torch.float64) -> dict[str, list[Tensor]]:
    """Random boxes as masks, so many per image, and their classes."""
    generator = torch.Generator().manual_seed(7)

    def box() -> Tensor:
        mask = torch.zeros(SIZE, dtype=dtype)
        top, left = (int(torch.randint(side // 2, (), generator=generator)) for side in SIZE)
        mask[top : top + SIZE[0] // 3, left : left + SIZE[1] // 3] = 1
        return mask

    return {
        "mask_labels": [
            torch.stack([box() for _ in range(n)]) if n else torch.zeros(0, *SIZE, dtype=dtype) for n in counts
        ],
        "class_labels": [torch.randint(CLASSES, (n,), generator=generator) for n in counts],
    }
