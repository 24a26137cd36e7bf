"""DINOv2."""

import math
from dataclasses import replace

from backbone_rows import RANDOM, Default, Row, silent

DINOV2 = Row(
    "dinov2",
    "Dinov2",
    {
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "mlp_ratio": 3,
        "image_size": 32,
        "patch_size": 8,
        "layerscale_value": 0.3,
        "layer_norm_eps": 1e-2,
        **RANDOM,
    },
    tuple((name, 16, 8) for name in ("stem", "stage1", "stage2", "stage3")),
    silent(r"lambda1$"),
    attentions=(0, 1, 1, 1),
    # float64 is compared at the second: transformers resizes positions in float32, and does not where the sides are equal
    sizes=((32, 32), (37, 37), (33, 70), (8, 90)),
    cells=math.floor,
    refused=(7, 40),
    tokens=1,
    default=Default((768,) * 13, (14,) * 13, 85_724_928),
)
ROWS = {
    "dinov2": DINOV2,
    "dinov2-gated": replace(
        DINOV2,
        kwargs={**DINOV2.kwargs, "use_swiglu_ffn": True, "use_mask_token": False, "qkv_bias": False},
        default=None,
        parity_only=True,
    ),
}
