"""The models that train_segmentation.py builds: four heads over any backbone, and their image processors."""

import argparse
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from accelerate import PartialState
from segmentation_data import VOID
from torch import nn

import vertebra
from vertebra import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageSegmentation,
    Neck,
    ResNetConfig,
    SwinConfig,
)

SMALL = {  # backbones with random weights that a CPU trains in minutes
    "swin": SwinConfig(embed_dim=32, depths=[2, 2, 2, 2], num_heads=[1, 2, 4, 8], drop_path_rate=0.0),
    "resnet": ResNetConfig(embedding_size=32, hidden_sizes=[32, 64, 128, 256], depths=[2, 2, 2, 2], layer_type="basic"),
}
WITH_MASKS = ("maskformer", "mask2former")


def maskformer(width: int = 256, queries: int = 100, layers: int = 6, dropout: float = 0.1) -> dict[str, Any]:
    decoder = {
        "d_model": width,
        "decoder_ffn_dim": 8 * width,
        "decoder_layers": layers,
        "num_queries": queries,
        "dropout": dropout,
    }
    sizes = {"fpn_feature_size": width, "mask_feature_size": width}
    return {"model_type": "maskformer", **sizes, "use_auxiliary_loss": True, "decoder_config": decoder}


def mask2former(width: int = 256, queries: int = 100, layers: int = 9) -> dict[str, Any]:
    sizes = {"feature_size": width, "mask_feature_size": width, "hidden_dim": width}
    hidden = {"encoder_feedforward_dim": 4 * width, "dim_feedforward": 8 * width}
    decoder = {"decoder_layers": layers + 1, "num_queries": queries}  # dropout would leave out whole layers
    return {"model_type": "mask2former", **sizes, **hidden, **decoder}


def upernet(width: int = 512) -> dict[str, Any]:
    return {"model_type": "upernet", "hidden_size": width, "auxiliary_channels": width // 2}


def fpn(width: int = 256) -> dict[str, Any]:
    return {"model_type": "vertebra_fpn_segmentation", "pyramid_channels": width, "hidden_size": width // 2}


HEADS: dict[str, Callable[..., dict[str, Any]]] = {f.__name__: f for f in (maskformer, mask2former, upernet, fpn)}


def build_model(args: argparse.Namespace, labels: Sequence[str]) -> nn.Module:
    head = HEADS[args.model]
    keys = {name: getattr(args, name) for name in inspect.signature(head).parameters if getattr(args, name) is not None}
    backbone = {
        "backbone": args.backbone,
        "use_pretrained_backbone": args.pretrained,
        "backbone_kwargs": args.backbone_kwargs,
    }
    if args.backbone in SMALL:
        backbone = {"backbone_config": SMALL[args.backbone]}
    config = AutoConfig.for_model(**head(**keys), **backbone, id2label=dict(enumerate(labels)))
    model = AutoModelForImageSegmentation.from_config(config).train()
    if args.freeze is not None:
        backbone = model.get_submodule(model.backbone_path)
        while isinstance(backbone, Neck):
            backbone = backbone.backbone
        PartialState().print(backbone.freeze(upto=args.freeze))
    return model


def build_processor(args: argparse.Namespace) -> Any:
    """What prepares photos: with the mean and deviation the weights of the backbone were trained with, or ImageNet's."""
    names = {"maskformer": "MaskFormerImageProcessor", "mask2former": "Mask2FormerImageProcessor"}
    settings: dict[str, Any] = {"size": {"height": args.size, "width": args.size}}
    if args.pretrained:
        own = AutoImageProcessor.from_pretrained(args.backbone)
        settings |= {"image_mean": own.image_mean, "image_std": own.image_std}
    if args.model in WITH_MASKS:
        settings["ignore_index"] = VOID
    return getattr(vertebra, names.get(args.model, "SegformerImageProcessor"))(**settings)
