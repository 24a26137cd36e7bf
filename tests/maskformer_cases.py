"""Tiny MaskFormers over the backbones that transformers has too, and labelled batches for them."""

from pathlib import Path
from typing import Any

import torch
import transformers
from oracle import save_with_transformers
from torch import Tensor

from vertebra.heads.maskformer.config import DetrConfig, MaskFormerConfig
from vertebra.heads.maskformer.model import MaskFormerForInstanceSegmentation

SIZE = (64, 96)
CLASSES = 4
STAGES = ["stage1", "stage2", "stage3", "stage4"]
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 2, 1, 1], "layer_type": "basic"}
SWIN = {"embed_dim": 8, "depths": [1, 2, 1, 1], "num_heads": [1, 2, 2, 4], "window_size": 3, "image_size": 32}
DECODER = {
    "d_model": 32,
    "decoder_layers": 3,
    "decoder_ffn_dim": 48,
    "decoder_attention_heads": 4,
    "num_queries": 7,
    "encoder_attention_heads": 2,
    "encoder_layers": 5,
}
HEAD = {"fpn_feature_size": 64, "mask_feature_size": 20, "num_labels": CLASSES}


def backbones() -> dict[str, Any]:
    """Transformers' configurations: Swin with drop path off, ResNet whose last map needs no projection, and a timm ResNet."""
    return {
        "swin": transformers.SwinConfig(**SWIN, drop_path_rate=0.0),
        "resnet": transformers.ResNetConfig(**RESNET, out_features=STAGES),
        "timm": transformers.TimmBackboneConfig(backbone="test_resnet", out_indices=[1, 2, 3, 4]),
    }


def theirs(backbone: str = "resnet", decoder: dict[str, Any] | None = None, **changes: Any) -> Any:
    """A MaskFormer of transformers with random weights."""
    config = transformers.MaskFormerConfig(
        backbone_config=backbones()[backbone],
        decoder_config=transformers.DetrConfig(**{**DECODER, **(decoder or {})}),
        **{**HEAD, **changes},
    )
    return transformers.MaskFormerForInstanceSegmentation(config)


def both(folder: Path, backbone: str = "resnet", double: bool = True, **changes: Any) -> tuple[Any, Any]:
    """The same weights in transformers and here, in evaluation mode."""
    model = theirs(backbone, **changes)
    model = save_with_transformers(model.double() if double else model, folder)
    return model, MaskFormerForInstanceSegmentation.from_pretrained(folder)


def tiny(backbone_config: Any = None, decoder: dict[str, Any] | None = None, **changes: Any) -> Any:
    """A MaskFormer of vertebra with random weights."""
    from vertebra import ResNetConfig

    config = MaskFormerConfig(
        backbone_config=ResNetConfig(**RESNET) if backbone_config is None else backbone_config,
        decoder_config=DetrConfig(**{**DECODER, **(decoder or {})}),
        **{**HEAD, **changes},
    )
    return MaskFormerForInstanceSegmentation(config)


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
