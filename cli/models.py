"""From arguments to a backbone and its image processor."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from vertebra.cli.arguments import selection

if TYPE_CHECKING:
    from vertebra.backbones.base import Backbone
    from vertebra.image_processing.base import BaseImageProcessor


def load(args: argparse.Namespace, default: Callable[[Backbone], Sequence[int]]) -> tuple[Backbone, BaseImageProcessor]:
    """Load the backbone that the arguments ask for and the image processor that belongs to it.

    Args:
        args: What `add_model` parses.
        default: Indices of the stages to take where the arguments choose none; it gets the backbone without weights.

    Raises:
        OSError: there is no such model; names the nearest of timm's.
        ValueError: a selection of stages that do not exist.
    """
    import torch

    from vertebra import AutoBackbone, AutoImageProcessor
    from vertebra.environment import check_torchvision

    check_torchvision()
    where: dict[str, Any] = {"revision": args.revision, "local_files_only": args.local_files_only}
    chosen = selection(args)
    if not chosen:
        with torch.device("meta"):
            outline = AutoBackbone.from_pretrained(args.model, use_pretrained_backbone=False, **where)
        chosen = {"out_indices": list(default(outline))}
    processor = AutoImageProcessor.from_pretrained(args.model, **where)
    return AutoBackbone.from_pretrained(args.model, **chosen, **where), processor


def every_stage(backbone: Backbone) -> list[int]:
    """Indices of all stages that can be selected."""
    return list(range(backbone.first_map, len(backbone.stages)))


def deepest_of_each_stride(backbone: Backbone) -> list[int]:
    """Indices of the deepest stage of each stride: one for a flat vision transformer, a pyramid for the others."""
    return sorted({backbone.stages[index].stride: index for index in every_stage(backbone)}.values())
