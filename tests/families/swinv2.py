"""Swin V2."""

from dataclasses import replace

from backbone_rows import RANDOM, Default, Row, silent

SWINV2 = Row(
    "swinv2",
    "Swinv2",
    {
        "embed_dim": 8,
        "depths": [2, 1, 2],
        "num_heads": [1, 2, 4],
        "window_size": 3,
        "image_size": 64,
        "pretrained_window_sizes": [0, 2, 5],
        **RANDOM,
    },
    (("stem", 8, 4), ("stage1", 8, 4), ("stage2", 16, 8), ("stage3", 32, 16)),
    silent(r"layernorm_before"),
    attentions=(0, 1, 1, 1),
    unexpected=(r"^classifier\.", r"^swinv2\.layernorm\."),
    dead=r"^(swinv2\.)?layernorm\.",
    default=Default((96, 96, 192, 384, 768), (4, 4, 8, 16, 32), 27_576_618),
)
ROWS = {
    "swinv2": SWINV2,
    # windows are as large as the maps of the trained size allow, and do not shift where they are
    "swinv2-large-windows": replace(
        SWINV2,
        kwargs={
            **SWINV2.kwargs,
            "patch_size": (2, 3),
            "image_size": [24, 40],
            "window_size": 7,
            "pretrained_window_sizes": [0, 0, 0],
            "qkv_bias": False,
            "layer_norm_eps": 1e-2,
        },
        stages=(("stem", 8, (2, 3)), ("stage1", 8, (2, 3)), ("stage2", 16, (4, 6)), ("stage3", 32, (8, 12))),
        parity_only=True,
        default=None,
    ),
}
