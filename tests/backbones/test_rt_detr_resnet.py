"""What is particular to the ResNet of RT-DETR: its shortcuts, and files of whole detectors (D-FINE's HGNetV2 as well)."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from backbone_rows import ROWS, run
from oracle import close, perturb, save_with_transformers

import vertebra
from vertebra import RTDetrResNetBackbone, RTDetrResNetConfig

SHAPE = {"embedding_size": 8, "depths": [1, 2, 2], "out_indices": [0, 1, 2, 3]}
LAYOUTS: dict[str, dict[str, Any]] = {
    "bottleneck": {"hidden_sizes": [16, 32, 32]},
    "v1": {"hidden_sizes": [16, 32, 32], "downsample_in_bottleneck": True},
    "basic": {"hidden_sizes": [8, 16, 16], "layer_type": "basic"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_dilated_map_holds_the_map_without_dilation(layout: str) -> None:
    usual = perturb(RTDetrResNetBackbone(RTDetrResNetConfig(**SHAPE, **LAYOUTS[layout]))).eval()
    dilated = RTDetrResNetBackbone(RTDetrResNetConfig(**SHAPE, **LAYOUTS[layout], output_stride=8)).eval()
    dilated.load_state_dict(usual.state_dict())
    assert dilated.strides == [4, 4, 8, 8]
    x = torch.randn(2, 3, 61, 90)
    few, many = run(usual, x).feature_maps, run(dilated, x).feature_maps
    close([*many[:3], many[3][..., ::2, ::2]], list(few))


def test_a_basic_first_stage_may_widen() -> None:
    """Its shortcut would halve the map in transformers, which then cannot add the two."""
    shape = {**SHAPE, "hidden_sizes": [16, 16, 24], "layer_type": "basic"}
    theirs = transformers.RTDetrResNetBackbone(transformers.RTDetrResNetConfig(**shape)).eval()
    x = torch.randn(1, 3, 64, 64)
    with pytest.raises(RuntimeError, match="The size of tensor a"):
        theirs(x)
    ours = RTDetrResNetBackbone(RTDetrResNetConfig(**shape)).eval()
    assert [tuple(m.shape[1:]) for m in run(ours, x).feature_maps] == list(ours.output_shapes(64, 64).values())


DETECTORS = {"rt_detr_resnet": ("RTDetr", "RTDetrV2"), "hgnet_v2": ("DFine",)}


@pytest.mark.parametrize(
    ("name", "detector"), [(name, detector) for name, detectors in DETECTORS.items() for detector in detectors]
)
def test_files_of_whole_detectors(name: str, detector: str, tmp_path: Path) -> None:
    row = ROWS[name]
    below = transformers.AutoConfig.for_model(name, **row.kwargs, out_indices=[1, 2, 3])
    small = {"encoder_hidden_dim": 16, "d_model": 16, "num_queries": 4, "encoder_layers": 1, "decoder_layers": 2}
    wide = {"encoder_in_channels": [width for _, width, _ in row.stages[1:]], "decoder_in_channels": [16, 16, 16]}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    config = getattr(transformers, f"{detector}Config")(backbone_config=below, num_labels=2, **small, **wide, **heads)
    whole = save_with_transformers(getattr(transformers, f"{detector}ForObjectDetection")(config), tmp_path)
    ours, info = row.backbone.from_pretrained(tmp_path, output_loading_info=True)
    assert ours.out_indices == [1, 2, 3]
    assert all(key.endswith("num_batches_tracked") for key in info["missing_keys"])
    assert set(info["explained"]) == {*info["missing_keys"], *info["unexpected_keys"]}
    inner, x = whole.model.backbone.model, torch.randn(2, 3, 37, 51)
    close(run(ours, x).feature_maps, run(inner, x).feature_maps)
    ours.save_pretrained(tmp_path / "alone")
    assert type(vertebra.AutoBackbone.from_pretrained(tmp_path / "alone")) is row.backbone
