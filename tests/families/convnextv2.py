"""ConvNeXt V2."""

from dataclasses import replace

from backbone_rows import Default
from families.convnext import CONVNEXT

ROWS = {
    "convnextv2": replace(
        CONVNEXT,
        module="convnextv2",
        family="ConvNextV2",
        unexpected=(r"^classifier\.", r"^(convnextv2\.)?layernorm\."),
        default=Default(
            (96, 96, 192, 384, 768),
            (4, 4, 8, 16, 32),
            27_868_032,
            variants=({"hidden_sizes": [40, 80, 160, 320], "depths": [2, 2, 6, 2]},),
        ),
    )
}
