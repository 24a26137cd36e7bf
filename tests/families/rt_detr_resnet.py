"""The ResNet of RT-DETR."""

from dataclasses import replace

from backbone_rows import Default, Row, all_positive

BASIC = {"hidden_sizes": [64, 128, 256, 512], "depths": [2] * 4, "layer_type": "basic"}
RT_DETR_RESNET = Row(
    "rt_detr_resnet",
    "RTDetrResNet",
    {"embedding_size": 8, "hidden_sizes": [16, 32, 32], "depths": [1, 2, 1], "hidden_act": "silu"},
    (("stem", 8, 4), ("stage1", 16, 4), ("stage2", 32, 8), ("stage3", 32, 16)),
    all_positive,
    kinds=(),
    default=Default((64, 256, 512, 1024, 2048), (4, 4, 8, 16, 32), 23_527_264, variants=(BASIC,)),
)
ROWS = {
    "rt_detr_resnet": RT_DETR_RESNET,
    "rt_detr_resnet-basic": replace(
        RT_DETR_RESNET,
        kwargs={**RT_DETR_RESNET.kwargs, "hidden_sizes": [8, 16, 16], "layer_type": "basic", "hidden_act": "relu"},
        stages=(("stem", 8, 4), ("stage1", 8, 4), ("stage2", 16, 8), ("stage3", 16, 16)),
        default=None,
        parity_only=True,
    ),
    "rt_detr_resnet-v1": replace(
        RT_DETR_RESNET,
        kwargs={**RT_DETR_RESNET.kwargs, "downsample_in_bottleneck": True, "downsample_in_first_stage": True},
        stages=(("stem", 8, 4), ("stage1", 16, 8), ("stage2", 32, 16), ("stage3", 32, 32)),
        default=None,
        parity_only=True,
    ),
}
