"""PVT v2."""

from dataclasses import replace
from functools import cache
from typing import Any

from backbone_rows import RANDOM, Default, Row, silent


@cache
def flat(cls: Any) -> Any:
    """A class of transformers that returns attention weights as we do: one flat tuple, and from the Backbone as well."""

    def forward(self: Any, pixel_values: Any, *args: Any, **kwargs: Any) -> Any:
        output = cls.forward(self, pixel_values, *args, **kwargs)
        if kwargs.get("output_attentions") and not isinstance(output, tuple):
            nested = output.attentions or self.encoder(pixel_values, output_attentions=True).attentions
            output.attentions = tuple(weights for stage in nested for weights in stage)
        return output

    return type(cls.__name__, (cls,), {"forward": forward})


class Flat(Row):
    """A row whose classes of transformers return flat attention weights."""

    def their_class(self, kind: str) -> Any:
        return flat(super().their_class(kind))


PVT_V2 = Flat(
    "pvt_v2",
    "PvtV2",
    {
        "hidden_sizes": [8, 16, 16, 32],
        "depths": [2, 1, 1, 2],
        "sr_ratios": [4, 2, 1, 1],
        "num_attention_heads": [1, 2, 2, 4],
        "strides": [4, 2, 2, 1],
        "mlp_ratios": [2, 3, 1, 2],
        "image_size": 32,
        "layer_norm_eps": 1e-2,
        **RANDOM,
    },
    (("stage1", 8, 4), ("stage2", 16, 8), ("stage3", 16, 16), ("stage4", 32, 16)),
    silent(r"attention\.proj\.|dense2\."),
    attentions=(2, 1, 1, 2),
    sizes=((32, 32), (37, 51), (33, 70), (90, 17)),
    refused=(5, 90),
    divisor=16,
    default=Default((32, 64, 160, 256), (4, 8, 16, 32), 3_409_760),
)
ROWS = {
    "pvt_v2": PVT_V2,
    "pvt_v2-linear": replace(
        PVT_V2,
        kwargs={
            **PVT_V2.kwargs,
            "linear_attention": True,
            "qkv_bias": False,
            "hidden_act": "relu",
            "patch_sizes": [5, 3, 2, 3],
            "strides": [3, 2, 1, 2],
        },
        stages=(("stage1", 8, 3), ("stage2", 16, 6), ("stage3", 16, 6), ("stage4", 32, 12)),
        sizes=((32, 32), (37, 51), (5, 90)),
        refused=None,
        divisor=1,
        parity_only=True,
        default=None,
    ),
}
