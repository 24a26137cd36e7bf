"""MaskFormer's spelling of Swin."""

from backbone_rows import Row
from families.swin import SWIN

ROWS = {
    "maskformer-swin": Row(
        "swin",
        "MaskFormerSwin",
        SWIN.kwargs,
        SWIN.stages,
        SWIN.bare,
        first=1,
        attentions=SWIN.attentions,
        states=False,  # transformers nests them by block and returns them under the name of attentions
        kinds=(),
        dead=r"relative_position_index$|^model\.layernorm\.",
    )
}
