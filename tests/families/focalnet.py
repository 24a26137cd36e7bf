"""FocalNet."""

from dataclasses import replace

from backbone_rows import Default, Row, silent

FOCALNET = Row(
    "focalnet",
    "FocalNet",
    {
        "embed_dim": 8,
        "hidden_sizes": [16, 32, 32],
        "depths": [2, 1, 2],
        "focal_levels": [2, 1, 3],
        "focal_windows": [5, 3, 3],
        "hidden_act": "relu",
        "hidden_dropout_prob": 0.5,
        "drop_path_rate": 0.5,
        "mlp_ratio": 2.0,
    },
    (("stem", 8, 4), ("stage1", 16, 8), ("stage2", 32, 16), ("stage3", 32, 16)),
    silent(r"projection_out\.|fc2\."),
    unexpected=(r"^classifier\.", r"^focalnet\.layernorm\."),
    dead=r"^(focalnet\.)?layernorm\.",
    default=Default(
        (96, 192, 384, 768, 768),
        (4, 8, 16, 32, 32),
        27_656_580,
        variants=(
            {
                "embed_dim": 192,
                "hidden_sizes": [384, 768, 1536, 1536],
                "depths": [2, 2, 18, 2],
                "focal_levels": [3, 3, 3, 3],
                "focal_windows": [5, 5, 5, 5],
                "use_conv_embed": True,
                "use_layerscale": True,
                "use_post_layernorm": True,
            },
        ),
    ),
)
ROWS = {
    "focalnet": FOCALNET,
    "focalnet-overlapping": replace(
        FOCALNET,
        kwargs={**FOCALNET.kwargs, "use_conv_embed": True, "use_layerscale": True, "normalize_modulator": True},
        default=None,
    ),
    "focalnet-post-norm": replace(
        FOCALNET,
        kwargs={
            **FOCALNET.kwargs,
            "patch_size": [2, 3],
            "layer_norm_eps": 1e-2,
            "use_post_layernorm": True,
            "use_post_layernorm_in_modulation": True,
        },
        stages=(("stem", 8, (2, 3)), ("stage1", 16, (4, 6)), ("stage2", 32, (8, 12)), ("stage3", 32, (8, 12))),
        parity_only=True,
        default=None,
    ),
}
