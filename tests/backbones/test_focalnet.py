"""What is particular to FocalNet: widths that files state wrongly, maps after halving, and small images."""

import re
from typing import Any

import pytest
import torch
from backbone_rows import ROWS, pixels, run

from vertebra import FocalNetBackbone, FocalNetConfig


def test_widths_are_those_of_the_weights_whatever_the_file_says() -> None:
    config = FocalNetConfig(embed_dim=12, depths=[1, 1, 1], hidden_sizes=[192, 384, 768, 768], out_indices=[0, 1, 2, 3])
    model = FocalNetBackbone(config)
    maps = run(model, pixels()).feature_maps
    assert model.channels == [12, 24, 48, 48] == [m.shape[1] for m in maps]
    assert model.config.hidden_sizes == [192, 384, 768, 768]


def test_maps_come_after_halving() -> None:
    model = ROWS["focalnet"].build(out_indices=[1])
    assert model.strides == [8]
    assert [name for name in model.state_dict() if "stages.0.downsample" in name]
    assert not [name for name in model.state_dict() if "stages.1" in name]


def test_no_parameter_is_without_a_gradient() -> None:
    model = ROWS["focalnet-overlapping"].build()
    sum(m.sum() for m in model(pixels()).feature_maps).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert not [name for name in model.state_dict() if name.startswith("focalnet.layernorm")]


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"focal_windows": [3, 4, 3, 3]}, "focal_windows=[3, 4, 3, 3] holds 4; windows have odd sides, such as 3."),
        ({"focal_levels": [3]}, "focal_levels=[3] and depths=[2, 2, 6, 2] must have one entry per stage each."),
        ({"output_stride": 8}, "output_stride=8 is not possible here: FocalNet's blocks stand before the convolution"),
    ],
)
def test_what_does_not_fit_is_refused(kwargs: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        FocalNetConfig(**kwargs)


def test_overlapping_stems_over_patches_smaller_than_their_stride() -> None:
    config = FocalNetConfig(
        embed_dim=8, depths=[1, 1], use_conv_embed=True, patch_size=1, image_size=32, out_indices=[0, 1, 2]
    )
    model = FocalNetBackbone(config)
    for size in ((3, 3), (4, 9), (13, 8), (32, 31)):
        maps = run(model, pixels(size)).feature_maps
        assert [tuple(m.shape[1:]) for m in maps] == list(model.output_shapes(*size).values())
    text = "An image of 2x5 is too small for a cell of the stem. The nearest size that runs is 3x5."
    for call in (lambda: model.output_shapes(2, 5), lambda: model(torch.zeros(1, 3, 2, 5))):
        with pytest.raises(ValueError, match=re.escape(text)):
            call()
