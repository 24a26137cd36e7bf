"""ResNet."""

from dataclasses import replace

from backbone_rows import Default, Row, all_positive

RESNET = Row(
    "resnet",
    "ResNet",
    {"embedding_size": 8, "hidden_sizes": [16, 32, 48], "depths": [1, 2, 1]},
    (("stem", 8, 4), ("stage1", 16, 4), ("stage2", 32, 8), ("stage3", 48, 16)),
    all_positive,
    unexpected=(r"^classifier\.1\.",),
    default=Default(
        (64, 256, 512, 1024, 2048),
        (4, 4, 8, 16, 32),
        23_508_032,
        variants=(
            {"hidden_sizes": [64, 128, 256, 512], "depths": [2] * 4, "layer_type": "basic"},
            {"depths": [3, 4, 23, 3]},
        ),
    ),
)
ROWS = {
    "resnet-bottleneck": RESNET,
    "resnet-v1": replace(
        RESNET,
        kwargs={**RESNET.kwargs, "downsample_in_bottleneck": True, "downsample_in_first_stage": True},
        stages=(("stem", 8, 4), ("stage1", 16, 8), ("stage2", 32, 16), ("stage3", 48, 32)),
        default=None,
    ),
    "resnet-basic": replace(
        RESNET, kwargs={**RESNET.kwargs, "layer_type": "basic", "hidden_act": "silu"}, default=None
    ),
}
