"""DINOv3's vision transformers."""

import math
from dataclasses import replace

from backbone_rows import Default, Row, silent

DINOV3 = Row(
    "dinov3_vit",
    "DINOv3ViT",
    {
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 32,
        "patch_size": 8,
        "layerscale_value": 0.3,
        "layer_norm_eps": 1e-2,
        "num_register_tokens": 3,
        "attention_dropout": 0.5,
        "drop_path_rate": 0.5,
        "pos_embed_shift": 0.1,
        "pos_embed_jitter": 1.5,
        "pos_embed_rescale": 2.0,
    },
    tuple((name, 24, 8) for name in ("stem", "stage1", "stage2", "stage3")),
    silent(r"lambda1$"),
    attentions=(0, 1, 1, 1),
    sizes=((32, 32), (37, 51), (33, 70), (8, 90)),
    cells=math.floor,
    refused=(7, 40),
    tokens=4,
    kinds=("Model",),
    default=Default((384,) * 13, (16,) * 13, 21_594_624),
    exceptions={"test_training_mode_of_norms": "positions are random in training; test_dinov3_vit.py compares these"},
)
ROWS = {
    "dinov3": DINOV3,
    "dinov3-gated": replace(
        DINOV3,
        kwargs={
            **DINOV3.kwargs,
            "use_gated_mlp": True,
            "num_register_tokens": 0,
            "key_bias": True,
            "proj_bias": False,
            "mlp_bias": False,
        },
        tokens=1,
        default=None,
        parity_only=True,
    ),
}
