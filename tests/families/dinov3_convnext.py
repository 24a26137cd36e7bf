"""DINOv3's ConvNeXts."""

import math

from backbone_rows import Default, Row, silent

ROWS = {
    "dinov3_convnext": Row(
        "dinov3_convnext",
        "DINOv3ConvNext",
        {"hidden_sizes": [8, 12, 16], "depths": [2, 1, 2], "drop_path_rate": 0.5, "layer_norm_eps": 1e-2},
        (("stem", 3, 1), ("stage1", 8, 4), ("stage2", 12, 8), ("stage3", 16, 16)),
        silent(r"pointwise_conv2\."),
        sizes=((64, 64), (37, 51), (33, 70), (17, 16)),
        cells=math.floor,
        refused=(5, 90),
        kinds=("Model",),
        default=Default(
            (3, 96, 192, 384, 768),
            (1, 4, 8, 16, 32),
            27_818_592,
            variants=({"hidden_sizes": [192, 384, 768, 1536], "depths": [3, 3, 27, 3]},),
        ),
    )
}
