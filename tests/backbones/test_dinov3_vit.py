"""What is particular to DINOv3's vision transformers: positions as rotations, moved at random in training."""

import copy
import re
from typing import Any

import pytest
import torch
import transformers
from oracle import close, same, save_with_transformers

from vertebra import DINOv3ViTBackbone, DINOv3ViTConfig, DINOv3ViTModel

TINY: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "patch_size": 8,
    "num_register_tokens": 2,
}
MOVES: tuple[dict[str, Any], ...] = (
    {"pos_embed_rescale": 2.0},
    {"pos_embed_shift": 0.3, "pos_embed_rescale": None},
    {"pos_embed_jitter": 1.5, "pos_embed_shift": 0.3, "pos_embed_rescale": 1.2},
)


@pytest.mark.parametrize("moves", MOVES, ids=str)
def test_random_positions_are_those_of_transformers(moves: dict[str, Any], tmp_path: Any) -> None:
    config = transformers.DINOv3ViTConfig(**TINY, **moves)
    theirs = save_with_transformers(transformers.DINOv3ViTModel(config), tmp_path).train()
    ours = DINOv3ViTModel.from_pretrained(tmp_path).train()
    x, found = torch.randn(2, 3, 37, 51), []
    for model in (theirs, ours, theirs, ours):
        torch.manual_seed(len(found) // 2)
        with torch.no_grad():
            found.append(model(x).last_hidden_state)
    close(found[1], found[0])
    close(found[3], found[2])
    assert (found[0] - found[2]).abs().max() > 1e-2


def test_positions_stay_in_evaluation_frozen_and_without_moves() -> None:
    x = torch.randn(1, 3, 32, 32)
    moved = DINOv3ViTBackbone(DINOv3ViTConfig(**TINY))
    still = DINOv3ViTBackbone(DINOv3ViTConfig(**TINY, pos_embed_rescale=None)).train()
    frozen = copy.deepcopy(moved)
    frozen.freeze()
    for model in (moved.eval(), still, frozen.train()):
        same(model(x).feature_maps, model(x).feature_maps)


def test_heads_of_a_width_that_cannot_turn() -> None:
    text = "hidden_size=36 and num_attention_heads=2 make heads of 18 channels; rotary positions need a multiple of 4."
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        DINOv3ViTConfig(hidden_size=36, num_attention_heads=2)
