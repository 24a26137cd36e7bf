"""Which tables of timm's names each native family has."""

from __future__ import annotations

from collections.abc import Mapping

from vertebra.backbones import timm_plain, timm_pyramids
from vertebra.backbones.timm_family import Table

TABLES: Mapping[str, tuple[Table, ...]] = {
    "beit": (timm_plain.BEIT,),
    "convnext": (timm_pyramids.CONVNEXT,),
    "convnextv2": (timm_pyramids.CONVNEXT_V2,),
    "deit": (timm_plain.DEIT,),
    "dinov2": (timm_plain.DINOV2, timm_plain.DINOV2_GATED),
    "dinov2_with_registers": (timm_plain.DINOV2_WITH_REGISTERS, timm_plain.DINOV2_WITH_REGISTERS_GATED),
    "dinov3_convnext": (timm_pyramids.DINOV3_CONVNEXT,),
    "dinov3_vit": (timm_plain.DINOV3,),
    "hiera": (timm_pyramids.HIERA,),
    "maskformer-swin": (timm_pyramids.SWIN,),
    "pvt_v2": (timm_pyramids.PVT_V2,),
    "resnet": (timm_pyramids.RESNET,),
    "swin": (timm_pyramids.SWIN,),
    "swinv2": (timm_pyramids.SWIN_V2,),
    "vit": (timm_plain.VIT,),
}
"""By `model_type`; of several the first that fits."""
