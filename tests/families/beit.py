"""BEiT."""

import math
from dataclasses import replace

from backbone_rows import RANDOM, Default, Row, silent

BEIT = Row(
    "beit",
    "Beit",
    {
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "image_size": 32,
        "patch_size": 8,
        "layer_norm_eps": 1e-2,
        "use_mask_token": True,
        "use_relative_position_bias": True,
        **RANDOM,
    },
    tuple((name, 16, 8) for name in ("stem", "stage1", "stage2", "stage3")),
    silent(r"lambda_[12]$"),
    attentions=(0, 1, 1, 1),
    sizes=((32, 32), (37, 51), (33, 70), (8, 90)),
    cells=math.floor,
    refused=(7, 40),
    tokens=1,
    unexpected=(r"^classifier\.", r"^beit\.pooler\."),
    only_in_model=r"pooler\.layernorm\.",
    default=Default(
        (768,) * 13, (16,) * 13, 85_655_040, variants=({"use_relative_position_bias": True, "image_size": 384},)
    ),
)
ROWS = {
    "beit": BEIT,
    "beit-plain": replace(
        BEIT,
        kwargs={
            **BEIT.kwargs,
            "use_mask_token": False,
            "use_relative_position_bias": False,
            "use_absolute_position_embeddings": True,
            "use_mean_pooling": False,
            "layer_scale_init_value": 0.0,
        },
        bare=silent(r"\boutput\.dense\."),
        unexpected=(r"^classifier\.", r"^beit\.layernorm\."),
        dead=r"^(beit\.)?layernorm\.",
        only_in_model=r"^(beit\.)?layernorm\.",
        default=None,
        parity_only=True,
    ),
    "beit-shared": replace(
        BEIT,
        kwargs={**BEIT.kwargs, "use_shared_relative_position_bias": True},
        default=None,
        parity_only=True,
        exceptions={
            "test_transformers_reads_what_vertebra_saved": "transformers 5 writes another name; see test_beit.py"
        },
    ),
}
