"""ViTDet beyond the shared rows."""

import pytest
import torch
from oracle import close, perturb

from vertebra import VitDetBackbone, VitDetConfig

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}


def test_no_positions_are_positions_of_zero() -> None:
    """What transformers cannot be built with: no absolute positions."""
    without = perturb(VitDetBackbone(VitDetConfig(**TINY, use_absolute_position_embeddings=False))).eval()
    assert not any("position" in name for name in without.state_dict())
    placed = VitDetBackbone(VitDetConfig(**TINY)).eval()
    placed.load_state_dict(without.state_dict(), strict=False)
    placed.embeddings.position_embeddings.data.zero_()
    x = torch.randn(1, 3, 40, 24)
    close(without(x).feature_maps, placed(x).feature_maps, tol=0.0)


def test_residual_blocks_start_as_the_identity() -> None:
    torch.manual_seed(0)
    model = VitDetBackbone(VitDetConfig(**TINY, residual_block_indices=[0, 1])).eval()
    plain = VitDetBackbone(VitDetConfig(**TINY)).eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    x = torch.randn(1, 3, 40, 24)
    close(model(x).feature_maps, plain(x).feature_maps, tol=0.0)


def test_padded_images_are_cropped_with_their_states() -> None:
    model = VitDetBackbone(VitDetConfig(**{**TINY, "patch_size": (8, 4)}, size_policy="pad")).eval()
    output = model(torch.randn(1, 3, 33, 22), output_hidden_states=True)
    assert {tuple(state.shape[2:]) for state in output.hidden_states} == {(5, 6)}
    assert tuple(output.feature_maps[0].shape[2:]) == (5, 6)


def test_layers_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match=r"window_block_indices names the layers \[2\]; there are 0 to 1."):
        VitDetConfig(**TINY, window_block_indices=[0, 2])
