"""Image sizes of timm's architectures: what makes them flexible, and what no run on the meta device tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from vertebra.backbones.sizes import Size

_DYNAMIC = (
    {"dynamic_img_size": True},
    "its position table is resampled to the image at hand; at its own size it is not touched",
)
_WINDOWS = (
    {"strict_img_size": False},
    "only the check of the size goes; maps are padded to whole windows inside, masks follow",
)
FLEXIBLE: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "vision_transformer": _DYNAMIC,
    "vision_transformer_hybrid": _DYNAMIC,
    "vitamin": _DYNAMIC,
    "deit": _DYNAMIC,
    "eva": _DYNAMIC,
    "swin_transformer": _WINDOWS,
    "swin_transformer_v2": _WINDOWS,
    "swin_transformer_v2_cr": _WINDOWS,
}
"""Arguments by file of timm with which other image sizes run, and why they change nothing else: parameters keep their names
and shapes, and maps at the native size their bits. Given at every build, never stored."""
_OWN_RULE = {"dynamic_img_size", "strict_img_size"}

RESIZES_INPUT = {"CrossVit": "it resizes every image to the size it was built for, so that cells would lie elsewhere"}
"""Classes by name that run at any size and would give wrong maps."""
NO_META_RUN = {"Gemma4VitEncoder": 48, "Gemma4VitClassifier": 16}
"""Classes whose forward reads values, so that shapes cannot be found out on the meta device, and what sides are multiples of."""


def flexible_args(module: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the constructors of a file of timm get so that other sizes run; nothing where `given` has a rule of its own."""
    return {} if _OWN_RULE & given.keys() else dict(FLEXIBLE.get(module, ({}, ""))[0])


def cuts_patches(model: Any, size: Any) -> bool:
    """Whether a model built for `size` would leave out what is no whole patch: flexible models refuse that."""
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if size is None or patch is None:
        return False
    height, width = (size, size) if isinstance(size, int) else size
    return bool(height % patch[0] or width % patch[1])


def fixed_size_reason(model: nn.Module, height: int, width: int, built_for: Size | None) -> str | None:
    """Why a model does not run at a size, where its class alone tells; None where it does or only running tells."""
    kind = type(model).__name__
    if kind in RESIZES_INPUT and built_for != (height, width):
        return RESIZES_INPUT[kind]
    side = NO_META_RUN.get(kind, 1)
    return f"sides must be multiples of {side}" if height % side or width % side else None
