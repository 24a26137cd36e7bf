"""SigLIP's image tower."""

import math
from dataclasses import replace

from backbone_rows import Default, Row, normed_states, silent

ANY_SIZE = {"interpolate_pos_encoding": True}
SIGLIP = Row(
    "siglip_vision",
    "SiglipVision",
    {
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "image_size": 32,
        "patch_size": 8,
        "layer_norm_eps": 1e-2,
        "attention_dropout": 0.5,
    },
    tuple((name, 16, 8) for name in ("stem", "stage1", "stage2", "stage3")),
    silent(r"\b(out_proj|fc2)\."),
    attentions=(0, 1, 1, 1),
    sizes=((32, 32), (37, 51), (33, 70), (8, 90)),
    cells=math.floor,
    refused=(7, 40),
    tokens=0,
    call=ANY_SIZE,
    kinds=("Model",),
    oracle=normed_states("post_layernorm", 0, **ANY_SIZE),
    only_in_model=r"^head\.",
    spelled="vision_model.",
    default=Default((768,) * 13, (16,) * 13, 85_797_120),
)
ROWS = {
    "siglip": SIGLIP,
    "siglip-headless": replace(
        SIGLIP,
        kwargs={**SIGLIP.kwargs, "vision_use_head": False},
        only_in_model=r"^$",
        default=None,
        parity_only=True,
    ),
}
