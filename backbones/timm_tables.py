"""Weights for another image size than the checkpoint's, where timm's own loader does not resample them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from vertebra.loading import match_keys
from vertebra.weights import WeightFiles

if TYPE_CHECKING:
    from vertebra.backbones.timm_backbone import TimmBackbone

POSITIONS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "Cait": ("tokens", ("pos_embed",)),
    "Hiera": ("tokens", ("pos_embed",)),
    "VOLO": ("channels last", ("pos_embed",)),
    "PoolingVisionTransformer": ("channels first", ("pos_embed",)),
    "Visformer": ("channels first", ("pos_embed1", "pos_embed2", "pos_embed3")),
}
"""Absolute position tables by class that timm's loader leaves as they are: layout `(1, h * w, c)`, `(1, h, w, c)` or
`(1, c, h, w)`, and names."""
UNRESAMPLED: Mapping[str, str] = {
    "EfficientFormerV2": "its attention biases are one number per pair of distances, without a rule for distances it never saw",
    "GlobalContextVit": "its windows grow with the image, and its bias tables with them",
    "Levit": "its attention biases are one number per pair of distances, without a rule for distances it never saw",
    "LevitDistilled": "its attention biases are one number per pair of distances, without a rule for distances it never saw",
    "MlpMixer": "its layers mix positions with weights of their own for each",
    "ByobNet": "its attention has tables of distances for one size of map",
}
"""Classes with weights that belong to one image size and that nobody resamples, with the reason."""


def fitted_tables(backbone: TimmBackbone, weights: WeightFiles) -> WeightFiles:
    """The weights with the position tables that `POSITIONS` names resampled to the backbone's, bicubic with antialiasing.

    Raises:
        ValueError: the class is one of `UNRESAMPLED`, and the backbone is built for another size.
    """
    kind = type(backbone.timm_model).__name__
    wanted = {name: tuple(tensor.shape) for name, tensor in backbone.state_dict().items()}
    source = {target: name for name, target in match_keys(weights.shapes, wanted, "", backbone.key_renames).items()}
    differ = [name for name in wanted if name in source and weights.shapes[source[name]] != wanted[name]]
    if differ and kind in UNRESAMPLED:
        size = (backbone.config.model_args or {})["img_size"]
        raise ValueError(
            f"The weights of timm's {backbone.config.backbone} cannot be used for images of {size}: {UNRESAMPLED[kind]} "
            f"({len(differ)} tensors differ, {differ[0]} first). Load it without a size of images, or pass "
            f"ignore_mismatched_sizes=True to initialise these tensors anew."
        )
    layout, names = POSITIONS.get(kind, ("", ()))
    if not set(names) & set(differ):
        return weights
    tensors = weights.read(weights.shapes)
    side = (backbone.config.model_args or {})["img_size"]
    height, width = (side, side) if isinstance(side, int) else side
    hop = backbone.stages[0].stride
    grid = (int(height // hop[0]), int(width // hop[1]))
    for name in set(names) & set(differ):
        tensors[source[name]] = _resampled(tensors[source[name]], layout, wanted[name], grid)
    return WeightFiles.of(tensors)


def _resampled(table: Tensor, layout: str, shape: tuple[int, ...], grid: tuple[int, int]) -> Tensor:
    """A position table at another size; tables of tokens are of square images, as timm's checkpoints of these classes are."""
    if layout == "tokens":
        side = math.isqrt(table.shape[1])
        if side**2 != table.shape[1]:
            raise ValueError(
                f"The checkpoint's position table has {table.shape[1]} positions, which are no square, so that its rows are "
                f"not known. Load it with the image_size it was saved for."
            )
        planes = table.view(1, side, side, -1).permute(0, 3, 1, 2)
    else:
        planes = table if layout == "channels first" else table.permute(0, 3, 1, 2)
        grid = (shape[2], shape[3]) if layout == "channels first" else (shape[1], shape[2])
    planes = F.interpolate(planes.float(), size=grid, mode="bicubic", antialias=True).to(table.dtype)
    return (planes if layout == "channels first" else planes.permute(0, 2, 3, 1)).reshape(shape)
