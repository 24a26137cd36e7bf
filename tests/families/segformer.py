"""SegFormer's encoder."""

from types import SimpleNamespace
from typing import Any

from backbone_rows import RANDOM, Default, Row, silent


def states(model: Any, x: Any, **asked: bool) -> Any:
    """The maps of transformers' Model are its hidden states, as they are."""
    output = model(x, **{**asked, "output_hidden_states": True})
    return SimpleNamespace(
        feature_maps=output.hidden_states, hidden_states=output.hidden_states, attentions=output.attentions
    )


ROWS = {
    "segformer": Row(
        "segformer",
        "Segformer",
        {
            "hidden_sizes": [8, 16, 16, 32],
            "depths": [2, 1, 1, 2],
            "sr_ratios": [4, 2, 1, 1],
            "num_attention_heads": [1, 2, 2, 4],
            "strides": [4, 2, 2, 1],
            "mlp_ratios": [2, 3, 1, 2],
            "layer_norm_eps": 1e-2,
            **RANDOM,
        },
        (("stage1", 8, 4), ("stage2", 16, 8), ("stage3", 16, 16), ("stage4", 32, 16)),
        silent(r"output\.dense\.|dense2\."),
        attentions=(2, 1, 1, 2),
        sizes=((32, 32), (37, 51), (33, 70), (90, 17)),
        refused=(5, 90),
        divisor=16,
        oracle=states,
        default=Default((32, 64, 160, 256), (4, 8, 16, 32), 3_319_392),
    )
}
