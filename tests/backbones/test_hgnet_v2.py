"""What is particular to HGNetV2: what it declares, strides of all kinds, and dilation."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from backbone_rows import ROWS, run
from oracle import close, perturb, save_with_transformers

from vertebra import AutoModel, HGNetV2Backbone, HGNetV2Config

KWARGS = ROWS["hgnet_v2"].kwargs


class TestDeclared:
    def test_channels_are_the_real_ones(self, tmp_path: Path) -> None:
        every = {"out_indices": [0, 1, 2]}
        wrong = {**KWARGS, **every, "embedding_size": 64, "hidden_sizes": [256, 512, 1024], "depths": [3, 4, 6]}
        theirs = save_with_transformers(transformers.HGNetV2Backbone(transformers.HGNetV2Config(**wrong)), tmp_path)
        assert theirs.channels == [64, 256, 512]
        ours = HGNetV2Backbone.from_pretrained(tmp_path)
        maps = run(ours, torch.randn(1, 3, 32, 32)).feature_maps
        assert ours.channels == [m.shape[1] for m in maps] == [8, 16, 24]
        ours.save_pretrained(tmp_path / "again")
        assert transformers.HGNetV2Backbone.from_pretrained(tmp_path / "again").channels == ours.channels

    def test_what_does_not_follow_is_refused(self) -> None:
        text = "hidden_sizes=[256, 512] is not what the stem and the stages give, which is [16, 24, 32]; leave hidden_sizes out."
        with pytest.raises(ValueError, match=re.escape(text)):
            HGNetV2Config(**{**KWARGS, "hidden_sizes": (256, 512)})
        assert HGNetV2Config().embedding_size == 48

    def test_channels_of_the_image(self, tmp_path: Path) -> None:
        perturb(HGNetV2Backbone(HGNetV2Config(**KWARGS))).save_pretrained(tmp_path)
        ours = HGNetV2Backbone.from_pretrained(tmp_path, num_channels=5)
        ours.save_pretrained(tmp_path / "five")
        theirs = transformers.HGNetV2Backbone.from_pretrained(tmp_path / "five")
        x = torch.randn(1, 5, 33, 40)
        close(run(ours, x).feature_maps, run(theirs.eval(), x).feature_maps)

    def test_the_model_without_a_head_is_the_backbone(self, tmp_path: Path) -> None:
        perturb(HGNetV2Backbone(HGNetV2Config(**KWARGS))).save_pretrained(tmp_path)
        assert type(AutoModel.from_pretrained(tmp_path)) is HGNetV2Backbone
        assert type(transformers.AutoModel.from_pretrained(tmp_path)) is transformers.HGNetV2Backbone


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        (
            {"stage_num_blocks": [1, 1]},
            "stage_num_blocks=[1, 1] and stage_out_channels=[16, 24, 32] must have one entry per",
        ),
        ({"stage_downsample_strides": [2]}, "stage_downsample_strides=[2] must have an entry for each of 3 stages."),
        ({"stage_in_channels": [8, 16, 16]}, "must be the channels of what comes before, which are [8, 16, 24]."),
        ({"stage_kernel_size": [3, 4, 5]}, "stage_kernel_size=[3, 4, 5] holds 4; filters have odd sides."),
        ({"stem_strides": [2, 2, 1, 2, 1]}, "of which the second and third are 1"),
        ({"stem_strides": [2, 1, 1, 2]}, "must be five strides"),
        (
            {"stage_downsample_strides": [2, [2, 1], 2], "output_stride": 8},
            "output_stride=8 needs square strides, and one is (2, 1).",
        ),
    ],
)
def test_bad_values(kwargs: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        HGNetV2Config(**{**KWARGS, **kwargs})


@pytest.mark.parametrize("strided", [[False, True, True], [True, True, False]], ids=["usual", "ends-without"])
def test_a_dilated_map_holds_the_map_without_dilation(strided: list[bool]) -> None:
    kwargs = {**KWARGS, "stage_downsample": strided, "out_indices": [1, 2, 3]}
    usual = perturb(HGNetV2Backbone(HGNetV2Config(**kwargs))).eval()
    dilated = HGNetV2Backbone(HGNetV2Config(**kwargs, output_stride=8)).eval()
    dilated.load_state_dict(usual.state_dict())
    assert dilated.strides == [min(stride, 8) for stride in usual.strides]
    x = torch.randn(2, 3, 61, 90)
    few, many = run(usual, x).feature_maps, run(dilated, x).feature_maps
    steps = [there // here for there, here in zip(usual.strides, dilated.strides, strict=True)]
    assert max(steps) == 2
    close([fine[..., ::step, ::step] for fine, step in zip(many, steps, strict=True)], list(few))
