"""DINOv2 with registers."""

from dataclasses import replace

from backbone_rows import Default
from families.dinov2 import DINOV2

ROWS = {
    "dinov2-registers": replace(
        DINOV2,
        module="dinov2_with_registers",
        family="Dinov2WithRegisters",
        kwargs={**DINOV2.kwargs, "num_register_tokens": 3},
        tokens=4,
        default=Default((768,) * 13, (16,) * 13, 85_820_160),
    )
}
