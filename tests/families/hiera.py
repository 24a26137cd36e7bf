"""Hiera."""

from dataclasses import replace
from functools import cache
from typing import Any

from backbone_rows import Default, Row, silent


@cache
def unrolling(cls: Any) -> Any:
    """The Backbone of transformers with the step that it leaves out and its Model does not: cells in the order of mask units."""
    from transformers.models.hiera.modeling_hiera import unroll

    def in_order(stem: Any, pixels: tuple[Any], output: Any) -> Any:
        size = tuple(pixels[0].shape[-2:])
        return unroll(output[0], size, stem.patch_stride, stem.schedule), *output[1:]

    def __init__(self: Any, config: Any) -> None:
        cls.__init__(self, config)
        self.embeddings.schedule = [config.query_stride] * len(config.depths[:-1])
        self.embeddings.register_forward_hook(in_order)

    return type(cls.__name__, (cls,), {"__init__": __init__})


class Unrolling(Row):
    """A row whose Backbone of transformers computes what its Model computes."""

    def their_class(self, kind: str) -> Any:
        cls = super().their_class(kind)
        return unrolling(cls) if kind == "Backbone" else cls


HIERA = Unrolling(
    "hiera",
    "Hiera",
    {
        "embed_dim": 8,
        "image_size": [64, 64],
        "depths": [2, 1, 2],
        "num_heads": [1, 2, 4],
        "num_query_pool": 2,
        "masked_unit_size": [4, 4],
        "masked_unit_attention": [True, True, False],
        "mlp_ratio": 2.0,
        "layer_norm_eps": 1e-2,
        "drop_path_rate": 0.5,
    },
    (("stem", 8, 4), ("stage1", 8, 4), ("stage2", 16, 8), ("stage3", 32, 16)),
    silent(r"attn\.proj\.|fc2\."),
    attentions=(0, 1, 1, 1),
    sizes=((64, 64), (48, 80), (61, 16), (16, 125)),
    theirs=((64, 64),),
    refused=(37, 51),
    divisor=16,
    states=False,  # transformers' are unrolled cells
    missing=(r"^hidden_states_norms\.",),
    unexpected=(r"^classifier\.", r"^hiera\.pooler\."),
    dead=r"^(hiera\.)?pooler\.",
    default=Default((96, 96, 192, 384, 768), (4, 4, 8, 16, 32), 50_757_504, sizes=((224, 224),)),
)
ROWS = {
    "hiera": HIERA,
    "hiera-oblong": replace(
        HIERA,
        kwargs={
            **HIERA.kwargs,
            "image_size": [48, 32],
            "patch_size": [3, 5],
            "patch_stride": [3, 4],
            "patch_padding": [1, 2],
            "query_stride": [2, 1],
            "num_query_pool": 1,
            "masked_unit_size": [8, 2],
            "masked_unit_attention": [True, False, True],
            "embed_dim_multiplier": 1.5,
            "num_heads": [1, 2, 3],
        },
        stages=(("stem", 8, (3, 4)), ("stage1", 8, (3, 4)), ("stage2", 12, (6, 4)), ("stage3", 18, (6, 4))),
        theirs=((48, 32),),
        parity_only=True,
        default=None,
    ),
}
