"""HGNetV2."""

from dataclasses import replace

from backbone_rows import Default, Row, all_positive

HGNET_V2 = Row(
    "hgnet_v2",
    "HGNetV2",
    {
        "stem_channels": [3, 12, 8],
        "stage_in_channels": [8, 16, 24],
        "stage_mid_channels": [8, 6, 10],
        "stage_out_channels": [16, 24, 32],
        "stage_num_blocks": [1, 2, 1],
        "stage_downsample": [False, True, True],
        "stage_downsample_strides": [2, 2, 2],
        "stage_light_block": [False, True, False],
        "stage_kernel_size": [3, 3, 5],
        "stage_numb_of_layers": [1, 2, 1],
        "use_learnable_affine_block": True,
        "hidden_act": "silu",
        # what transformers declares, which does not follow from the shape there
        "embedding_size": 8,
        "hidden_sizes": [16, 24, 32],
        "depths": [1, 2, 1],
    },
    (("stem", 8, 4), ("stage1", 16, 4), ("stage2", 24, 8), ("stage3", 32, 16)),
    all_positive,
    kinds=("ForImageClassification",),
    unexpected=(r"^fc\.",),
    head=r"^fc\.",
    default=Default((48, 128, 512, 1024, 2048), (4, 4, 8, 16, 32), 13_553_376),
    corrected=("embedding_size", "hidden_sizes", "depths"),
)
ROWS = {
    "hgnet_v2": HGNET_V2,
    # strides as PaddlePaddle's readers of text have them
    "hgnet_v2-oblong": replace(
        HGNET_V2,
        kwargs={
            **HGNET_V2.kwargs,
            "stem_strides": [2, 1, 1, 1, 1],
            "stage_downsample": [True, True, True],
            "stage_downsample_strides": [[2, 1], [1, 2], [2, 1]],
            "stage_numb_of_layers": [1, 1, 1],
            "use_learnable_affine_block": False,
        },
        stages=(("stem", 8, 2), ("stage1", 16, (4, 2)), ("stage2", 24, 4), ("stage3", 32, (8, 4))),
        default=None,
    ),
}
