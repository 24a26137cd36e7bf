"""DeiT."""

from dataclasses import replace

from backbone_rows import Default, normed_states
from families.vit import ANY_SIZE, VIT

ROWS = {
    "deit": replace(
        VIT,
        module="deit",
        family="DeiT",
        tokens=2,
        oracle=normed_states("layernorm", 2, **ANY_SIZE),
        only_in_model=r"^(deit\.)?pooler\.",
        default=Default((768,) * 13, (16,) * 13, 85_800_192),
    )
}
