"""What is particular to PVT v2 and SegFormer's encoder, against transformers 5."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from backbone_rows import ROWS, pixels, run
from oracle import close, save_with_transformers

from vertebra.backbones.layer_numbers import number_layers
from vertebra.backbones.pvt_v2 import PvtV2Backbone, PvtV2Config
from vertebra.backbones.segformer import (
    SegformerBackbone,
    SegformerConfig,
    SegformerForImageClassification,
    SegformerModel,
)

PVT, SEGFORMER = ROWS["pvt_v2"].kwargs, ROWS["segformer"].kwargs


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        (
            {"num_encoder_blocks": 3},
            "num_encoder_blocks=3 and depths=[2, 1, 1, 2] do not agree: give num_encoder_blocks=4.",
        ),
        ({"sr_ratios": [8, 4, 2]}, "sr_ratios=[8, 4, 2] must have one entry per stage, as depths=[2, 1, 1, 2] has."),
        ({"num_attention_heads": [1, 2, 3, 4]}, "16 channels cannot be shared equally by 3 heads."),
    ],
)
@pytest.mark.parametrize(("cls", "base"), [(PvtV2Config, PVT), (SegformerConfig, SEGFORMER)])
def test_bad_configurations(cls: Any, base: dict[str, Any], kwargs: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        cls(**{**base, **kwargs})


def test_image_sizes_of_all_kinds() -> None:
    for size in (96, [96, 96], {"height": 96, "width": 96}):
        assert PvtV2Config(image_size=size).image_size == (96, 96)


def test_small_images() -> None:
    """Attention makes one cell of 4x4 in the first stage; a map smaller than that runs neither here nor in transformers."""
    model = ROWS["pvt_v2"].build(out_indices=[0])
    assert model.output_shapes(13, 40)["stage1"] == (8, 4, 10)
    text = (
        "An image of 12x40 has a map of 3x10 cells at 'stage1', whose attention makes one cell of each 4x4. The nearest size "
        "that runs is 13x40."
    )
    for call in (lambda: model(pixels((12, 40))), lambda: model.output_shapes(12, 40)):
        with pytest.raises(ValueError, match=re.escape(text)):
            call()
    with pytest.raises(ValueError, match=r"nearest size that runs is 13x40\.$"):
        SegformerModel(SegformerConfig(**SEGFORMER))(pixels((12, 40)))
    whole = ROWS["pvt_v2"].build(out_indices=[0], prune=False, sr_ratios=[1, 4, 1, 1])
    assert run(whole, pixels((8, 8))).feature_maps[0].shape[2:] == (2, 2)
    with pytest.raises(ValueError, match=r"nearest size that runs is 25x25"):
        whole(pixels((8, 8)), output_hidden_states=True)
    assert len(run(whole, pixels((25, 25)), output_hidden_states=True).hidden_states) == 4


def test_linear_attention_takes_any_size() -> None:
    model = PvtV2Backbone(PvtV2Config(**{**PVT, "linear_attention": True})).eval()
    assert [m.shape[1:] for m in run(model, pixels((1, 1))).feature_maps] == [(32, 1, 1)]


@pytest.mark.parametrize("reshape", [True, False])
def test_the_last_state_as_tokens(reshape: bool, tmp_path: Path) -> None:
    config = transformers.SegformerConfig(**SEGFORMER, reshape_last_stage=reshape, num_labels=3)
    theirs = save_with_transformers(transformers.SegformerForImageClassification(config), tmp_path)
    x, asked = pixels(), {"output_hidden_states": True}
    ours = SegformerForImageClassification.from_pretrained(tmp_path)
    close(run(ours, x).logits, run(theirs, x).logits)
    expected, actual = run(theirs.segformer, x, **asked), run(SegformerModel.from_pretrained(tmp_path), x, **asked)
    assert actual.last_hidden_state.ndim == (4 if reshape else 3)
    close(actual.last_hidden_state, expected.last_hidden_state)
    close(actual.hidden_states, expected.hidden_states)
    assert run(SegformerBackbone.from_pretrained(tmp_path), x).feature_maps[0].ndim == 4


def test_the_encoder_of_a_segmenter_s_file(tmp_path: Path) -> None:
    config = transformers.SegformerConfig(**SEGFORMER, decoder_hidden_size=8)
    theirs = save_with_transformers(transformers.SegformerForSemanticSegmentation(config), tmp_path)
    for cls in (SegformerBackbone, SegformerModel, SegformerForImageClassification):
        ours, info = cls.from_pretrained(tmp_path, output_loading_info=True)
        assert {key.split(".")[0] for key in info["unexpected_keys"]} == {"decode_head"}
        assert {*info["missing_keys"], *info["unexpected_keys"]} <= set(info["explained"])
        x = pixels()
        close(
            run(ours, x, output_hidden_states=True).hidden_states,
            run(theirs, x, output_hidden_states=True).hidden_states,
        )


def test_each_stage_s_norm_belongs_to_its_last_block() -> None:
    with torch.device("meta"):
        numbers = number_layers(SegformerBackbone(SegformerConfig(**SEGFORMER)))
    assert [numbers.layer(f"encoder.layer_norm.{index}.weight") for index in range(4)] == [2, 3, 4, numbers.top]
    assert numbers.layer("encoder.patch_embeddings.0.proj.weight") == 0
    assert (
        numbers.layer("encoder.patch_embeddings.1.proj.weight")
        == numbers.layer("encoder.block.1.0.mlp.dense1.bias")
        == 3
    )
