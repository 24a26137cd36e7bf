"""What is particular to Hiera, against transformers 5."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from backbone_rows import ROWS, pixels, run
from oracle import close, same, save_with_transformers

from vertebra.backbones.hiera import HieraBackbone, HieraConfig, HieraForImageClassification, HieraModel
from vertebra.backbones.windows import from_unrolled, unroll

KWARGS = ROWS["hiera"].kwargs


@pytest.mark.parametrize(("stride", "times"), [((2, 2), 3), ((2, 1), 2), ((3, 2), 1), ((2, 2), 0)])
def test_unrolled_cells(stride: tuple[int, int], times: int) -> None:
    x = torch.randn(2, 3 * stride[0] ** times, 2 * stride[1] ** times, 5)
    y = unroll(x, stride, times)
    same(from_unrolled(y, stride, times, x.shape[1], x.shape[2]), x)
    for left in reversed(range(times)):
        pooled = F.max_pool2d(x.permute(0, 3, 1, 2), stride).permute(0, 2, 3, 1)
        y = y.view(2, stride[0] * stride[1], -1, 5).max(1).values
        same(from_unrolled(y, stride, left, pooled.shape[1], pooled.shape[2]), pooled)
        x = pooled


def test_maps_are_the_model_s_states_and_those_of_transformers_backbone_are_not(tmp_path: Path) -> None:
    theirs = save_with_transformers(transformers.HieraModel(transformers.HieraConfig(**KWARGS)), tmp_path)
    x, every = pixels((64, 64)), [0, 1, 2, 3]
    expected = [m.permute(0, 3, 1, 2) for m in run(theirs, x, output_hidden_states=True).reshaped_hidden_states]
    ours = HieraBackbone.from_pretrained(tmp_path, out_indices=every)
    close(run(ours, x, output_hidden_states=True).hidden_states, expected)
    for norm in ours.hidden_states_norms.values():
        torch.nn.init.ones_(norm.weight)
        torch.nn.init.zeros_(norm.bias)
    normed = [F.layer_norm(m.permute(0, 2, 3, 1), m.shape[1:2]).permute(0, 3, 1, 2) for m in expected]
    close(run(ours, x).feature_maps, normed)
    peer, info = transformers.HieraBackbone.from_pretrained(tmp_path, out_indices=every, output_loading_info=True)
    assert all("hidden_states_norms" in key for key in info["missing_keys"])
    for norm in peer.hidden_states_norms.values():
        torch.nn.init.ones_(norm.weight)
        torch.nn.init.zeros_(norm.bias)
    assert (run(peer.eval(), x).feature_maps[3] - normed[3]).abs().max() > 0.1


@pytest.mark.parametrize("size", [(32, 48), (96, 64), (16, 80)])
def test_other_sizes(size: tuple[int, int], tmp_path: Path) -> None:
    """The Model of transformers runs them as long as it need not put states back into place."""
    config = transformers.HieraConfig(**KWARGS, num_labels=3)
    theirs = save_with_transformers(transformers.HieraForImageClassification(config), tmp_path)
    x = pixels(size)
    expected = run(theirs.hiera, x, interpolate_pos_encoding=True)
    close(run(HieraModel.from_pretrained(tmp_path), x).to_tuple(), expected.to_tuple())
    ours = HieraForImageClassification.from_pretrained(tmp_path)
    close(run(ours, x).logits, run(theirs, x, interpolate_pos_encoding=True).logits)


def test_the_encoder_of_a_pretraining_file(tmp_path: Path) -> None:
    config = transformers.HieraConfig(**KWARGS, decoder_hidden_size=8, decoder_depth=1, decoder_num_heads=1)
    theirs = save_with_transformers(transformers.HieraForPreTraining(config), tmp_path)
    for cls in (HieraBackbone, HieraModel, HieraForImageClassification):
        ours, info = cls.from_pretrained(tmp_path, output_loading_info=True)
        assert {*info["missing_keys"], *info["unexpected_keys"]} <= set(info["explained"])
        inner = getattr(ours, "hiera", ours)
        for name, tensor in theirs.hiera.state_dict().items():
            same(inner.state_dict()[name], tensor, name=name)


def test_mask_units_larger_than_what_is_pooled() -> None:
    model = HieraBackbone(HieraConfig(**{**KWARGS, "masked_unit_size": [8, 8]})).eval()
    assert model.size_divisor == 32
    text = (
        "An image of 48x48 has 12x12 cells at the stem, which do not fall into whole mask units of 8x8, pooled 2 times. The "
        "nearest size that runs is 48x61"
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        model(pixels((48, 48)))
    assert run(model, pixels((48, 64))).feature_maps[0].shape[2:] == (3, 4)
    with pytest.raises(ValueError, match=r"whole mask units of 4x4, pooled 2 times\. 64x48 runs\.$"):
        HieraModel(HieraConfig(**KWARGS))(pixels((50, 47)))


def test_a_stage_that_pools_and_is_no_wider() -> None:
    """There transformers adds a map that it has pooled to one that it has not."""
    config = HieraConfig(**{**KWARGS, "embed_dim_multiplier": 1.0, "num_heads": [1, 2, 2]})
    assert run(HieraBackbone(config).eval(), pixels((32, 32))).feature_maps[0].shape == (2, 8, 2, 2)


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"num_heads": [1, 2]}, "num_heads=[1, 2] must have one entry per stage, as depths=[2, 1, 2] has."),
        ({"num_heads": [1, 3, 4]}, "num_heads=[1, 3, 4]: stage2 has 16 channels, which 3 heads cannot share equally."),
        ({"num_query_pool": 3}, "num_query_pool=3 must be less than the number of stages, 3."),
        (
            {"masked_unit_size": [6, 6]},
            "masked_unit_size=[6, 6] must be a multiple of query_stride=[2, 2] to the power of 2, which is 4.",
        ),
    ],
)
def test_bad_configurations(kwargs: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        HieraConfig(**{**KWARGS, **kwargs})
