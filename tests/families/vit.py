"""ViT."""

import math
from dataclasses import replace

from backbone_rows import Default, Row, normed_states, silent

ANY_SIZE = {"interpolate_pos_encoding": True}
VIT = Row(
    "vit",
    "ViT",
    {
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "image_size": 32,
        "patch_size": 8,
        "hidden_act": "gelu_new",
        "pooler_output_size": 12,
        "pooler_act": "gelu",
        "hidden_dropout_prob": 0.5,
        "attention_probs_dropout_prob": 0.5,
    },
    tuple((name, 16, 8) for name in ("stem", "stage1", "stage2", "stage3")),
    silent(r"\boutput\.dense\."),
    attentions=(0, 1, 1, 1),
    sizes=((32, 32), (37, 51), (33, 70), (8, 90)),
    cells=math.floor,
    refused=(7, 40),
    tokens=1,
    call=ANY_SIZE,
    oracle=normed_states("layernorm", 1, **ANY_SIZE),
    only_in_model=r"^(vit\.)?pooler\.",
    default=Default((768,) * 13, (16,) * 13, 85_798_656),
)
ROWS = {
    "vit": VIT,
    # transformers cannot run oblong patches at a size of their own
    "vit-oblong": replace(
        VIT,
        kwargs={**VIT.kwargs, "patch_size": [8, 4], "image_size": [32, 40], "qkv_bias": False, "layer_norm_eps": 1e-2},
        stages=tuple((name, 16, (8, 4)) for name in ("stem", "stage1", "stage2", "stage3")),
        sizes=((32, 40), (37, 51), (8, 4)),
        theirs=((32, 40),),
        refused=(8, 3),
        call={},
        oracle=normed_states("layernorm", 1),
        default=None,
    ),
}
