"""ConvNeXt."""

import math
from dataclasses import replace

from backbone_rows import Default, Row, silent

CONVNEXT = Row(
    "convnext",
    "ConvNext",
    {"hidden_sizes": [8, 12, 16], "depths": [2, 1, 2], "num_stages": 3, "drop_path_rate": 0.5, "hidden_act": "relu"},
    (("stem", 8, 4), ("stage1", 8, 4), ("stage2", 12, 8), ("stage3", 16, 16)),
    silent(r"pwconv2\."),
    sizes=((64, 64), (37, 51), (33, 70), (17, 16)),
    cells=math.floor,
    refused=(5, 90),
    missing=(r"^hidden_states_norms\.",),
    unexpected=(r"^classifier\.", r"^(convnext\.)?layernorm\."),
    default=Default(
        (96, 96, 192, 384, 768),
        (4, 4, 8, 16, 32),
        27_821_664,
        variants=({"hidden_sizes": [128, 256, 512, 1024], "depths": [3, 3, 27, 3]},),
    ),
)
ROWS = {
    "convnext": CONVNEXT,
    "convnext-oblong": replace(
        CONVNEXT,
        kwargs={**CONVNEXT.kwargs, "patch_size": [2, 3], "layer_scale_init_value": 0.0, "layer_norm_eps": 1e-2},
        stages=(("stem", 8, (2, 3)), ("stage1", 8, (2, 3)), ("stage2", 12, (4, 6)), ("stage3", 16, (8, 12))),
        default=None,
    ),
}
