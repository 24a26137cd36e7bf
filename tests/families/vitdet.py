"""ViTDet."""

import math
from dataclasses import replace

from backbone_rows import Default, Row, silent

VITDET = Row(
    "vitdet",
    "VitDet",
    {
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "mlp_ratio": 3,
        "image_size": 32,
        "pretrain_image_size": 24,
        "patch_size": 8,
        "layer_norm_eps": 1e-2,
        "window_size": 3,
        "window_block_indices": [0, 2],
        "residual_block_indices": [1],
        "use_relative_position_embeddings": True,
        "dropout_prob": 0.5,
        "drop_path_rate": 0.5,
    },
    tuple((name, 16, 8) for name in ("stem", "stage1", "stage2", "stage3")),
    silent(r"\b(proj|fc2|norm3)\."),
    attentions=(0, 1, 1, 1),
    sizes=((32, 32), (37, 51), (33, 70), (8, 90)),
    cells=math.floor,
    refused=(7, 40),
    kinds=("Model",),
    default=Default(
        (768,) * 13,
        (16,) * 13,
        85_796_352,
        variants=(
            {
                "use_relative_position_embeddings": True,
                "window_size": 14,
                "window_block_indices": [0, 1, 3, 4, 6, 7, 9, 10],
                "residual_block_indices": [2, 5, 8, 11],
                "image_size": 512,
            },
        ),
    ),
)
ROWS = {
    "vitdet": VITDET,
    "vitdet-plain": replace(
        VITDET,
        kwargs={
            **VITDET.kwargs,
            "use_relative_position_embeddings": False,
            "qkv_bias": False,
            "residual_block_indices": [],
        },
        default=None,
        parity_only=True,
    ),
}
