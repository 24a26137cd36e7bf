"""Swin."""

from dataclasses import replace

from backbone_rows import RANDOM, Default, Row, silent

SWIN = Row(
    "swin",
    "Swin",
    {"embed_dim": 8, "depths": [2, 1, 2], "num_heads": [1, 2, 4], "window_size": 3, "image_size": 32, **RANDOM},
    (("stem", 8, 4), ("stage1", 8, 4), ("stage2", 16, 8), ("stage3", 32, 16)),
    silent(r"blocks\.\d+\.(attention\.)?output\.dense"),
    attentions=(0, 1, 1, 1),
    theirs=((48, 48), (37, 51), (33, 70)),  # its Model does not run where a map is smaller than a window
    missing=(r"^hidden_states_norms\.",),
    unexpected=(r"^classifier\.", r"^swin\.layernorm\."),
    dead=r"^(swin\.)?layernorm\.|relative_position_index$",
    default=Default(
        (96, 96, 192, 384, 768),
        (4, 4, 8, 16, 32),
        27_520_890,
        variants=(
            {"depths": [2, 2, 18, 2]},
            {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32]},
        ),
    ),
)
ROWS = {
    "swin": SWIN,
    "swin-oblong": replace(
        SWIN,
        kwargs={**SWIN.kwargs, "patch_size": (2, 3), "window_size": 4, "layer_norm_eps": 1e-2},
        stages=(("stem", 8, (2, 3)), ("stage1", 8, (2, 3)), ("stage2", 16, (4, 6)), ("stage3", 32, (8, 12))),
        default=None,
    ),
    # with position embeddings transformers' backbone runs at the trained size alone
    "swin-positions": replace(
        SWIN,
        kwargs={**SWIN.kwargs, "use_absolute_embeddings": True, "qkv_bias": False, "image_size": [36, 52]},
        theirs=((36, 52),),
        default=None,
    ),
}
