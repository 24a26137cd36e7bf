"""What is particular to ConvNeXts: counts, sizes, dilation, the stem of DINOv3's, and its names in memory and in files."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from backbone_rows import ROWS, pixels, run
from oracle import close, same, save_with_transformers, saved_keys

from vertebra import (
    ConvNextBackbone,
    ConvNextConfig,
    ConvNextV2Config,
    DINOv3ConvNextBackbone,
    DINOv3ConvNextConfig,
    DINOv3ConvNextModel,
    UperNetForSemanticSegmentation,
)
from vertebra.inspection.verify import verify

DINO = {"hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1]}


class TestConfigurations:
    @pytest.mark.parametrize(
        ("cls", "kwargs", "text"),
        [
            (
                ConvNextConfig,
                {"num_stages": 3},
                "num_stages=3 and depths=[3, 3, 9, 3] do not agree: give num_stages=4, or leave it out.",
            ),
            (
                DINOv3ConvNextConfig,
                {"depths": [1, 2]},
                "hidden_sizes=[96, 192, 384, 768] and depths=[1, 2] must have one entry per stage each.",
            ),
            (
                ConvNextConfig,
                {"output_stride": 8, "patch_size": [2, 4]},
                "output_stride=8 needs square patches, and patch_size is [2, 4].",
            ),
            (
                ConvNextV2Config,
                {"output_stride": 8},
                "output_stride=8 is not possible here: ConvNeXt V2 scales every channel by its strength over all cells of a map",
            ),
        ],
    )
    def test_what_does_not_fit_is_refused(self, cls: Any, kwargs: dict[str, Any], text: str) -> None:
        with pytest.raises(ValueError, match=re.escape(text)):
            cls(**kwargs)

    @pytest.mark.parametrize("cls", [ConvNextConfig, ConvNextV2Config, DINOv3ConvNextConfig])
    def test_null_in_a_file_is_the_default(self, cls: Any) -> None:
        config = cls.from_dict({"model_type": cls.model_type, "hidden_sizes": None, "depths": None, "out_indices": [4]})
        assert config == cls(out_indices=[4])
        assert config.out_features == ["stage4"]
        assert config.num_stages == 4

    def test_the_former_name_of_the_count(self) -> None:
        assert ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 2]).num_hidden_layers == 2


class TestSizes:
    def test_images_smaller_than_a_cell(self) -> None:
        config = ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], out_indices=[0, 2])
        model = ConvNextBackbone(config)
        text = (
            "An image of 7x9 is smaller than one cell of 'stage2', which is 8x8 pixels. The nearest size that runs is 8x9. "
            "size_policy='pad' runs 7x9 itself, padded to a multiple of 8."
        )
        for call in (lambda: model(pixels((7, 9))), lambda: model.output_shapes(7, 9)):
            with pytest.raises(ValueError, match=re.escape(text)):
                call()
        model.out_indices = [0]
        assert run(model, pixels((7, 9))).feature_maps[0].shape[-2:] == (1, 2)

    def test_hidden_states_of_all_stages_need_a_cell_of_each(self) -> None:
        model = ROWS["convnext"].build(out_indices=[0], prune=False)
        assert run(model, pixels((7, 9))).feature_maps
        with pytest.raises(ValueError, match="smaller than one cell of 'stage3', which is 16x16 pixels"):
            model(pixels((7, 9)), output_hidden_states=True)


@pytest.mark.parametrize("name", ["convnext", "dinov3_convnext"])
def test_a_dilated_map_holds_the_map_without_dilation(name: str) -> None:
    """Exactly, where the image has whole cells of all stages; what is left out of others, a dilated map keeps."""
    usual, dilated = ROWS[name].build(), ROWS[name].build(output_stride=8)
    assert dilated.strides == [min(stride, 8) for stride in usual.strides]
    assert [stage.offset for stage in dilated.stages] == [stage.offset for stage in usual.stages]
    x = pixels((64, 96))
    few, many = run(usual, x).feature_maps, run(dilated, x).feature_maps
    steps = [there // here for there, here in zip(usual.strides, dilated.strides, strict=True)]
    close([fine[..., ::step, ::step] for fine, step in zip(many, steps, strict=True)], list(few))
    maps = run(dilated, pixels((37, 51))).feature_maps
    assert [tuple(m.shape[1:]) for m in maps] == list(dilated.output_shapes(37, 51).values())
    verify(dilated).raise_if_failed()


class TestDINOv3:
    def test_the_stem_is_the_input(self) -> None:
        model, x = ROWS["dinov3_convnext"].build(out_indices=[0, 1]), pixels()
        output = run(model, x, output_hidden_states=True)
        same(output.feature_maps[0], x)
        same(output.hidden_states[0], x)
        assert model.stages[0].cell_to_pixel(3, 4) == (3.5, 4.5)
        alone = ROWS["dinov3_convnext"].build(out_indices=[0])
        assert alone.num_parameters() == 0
        same(run(alone, x).feature_maps[0], x)

    def test_names_in_memory_are_those_of_transformers_5_and_files_have_none_of_it(self, tmp_path: Path) -> None:
        theirs = transformers.DINOv3ConvNextBackbone(transformers.DINOv3ConvNextConfig(**DINO))
        save_with_transformers(theirs, tmp_path / "theirs")
        ours = DINOv3ConvNextBackbone.from_pretrained(tmp_path / "theirs")
        assert list(ours.state_dict()) == list(theirs.state_dict())
        ours.save_pretrained(tmp_path / "ours")
        assert saved_keys(tmp_path / "ours") == saved_keys(tmp_path / "theirs")
        assert all(key.startswith("stages.") for key in saved_keys(tmp_path / "ours"))

    @pytest.mark.parametrize("prefix", ["", "model.", "dinov3_convnext."])
    def test_files_of_every_spelling(self, prefix: str, tmp_path: Path) -> None:
        model = ROWS["dinov3_convnext"].build()
        names = model.names_elsewhere()
        model.save_pretrained(tmp_path, state_dict={prefix + names[name]: t for name, t in model.state_dict().items()})
        for cls in (DINOv3ConvNextBackbone, DINOv3ConvNextModel):
            _, info = cls.from_pretrained(tmp_path, output_loading_info=True)
            assert info["unexpected_keys"] == []
            assert set(info["missing_keys"]) <= {"layer_norm.weight", "layer_norm.bias"}

    def test_inside_another_model(self, tmp_path: Path) -> None:
        backbone = transformers.DINOv3ConvNextConfig(**DINO, out_indices=[1, 2, 3, 4])
        config = transformers.UperNetConfig(
            backbone_config=backbone, hidden_size=8, pool_scales=[1, 2], use_auxiliary_head=False
        )
        theirs = save_with_transformers(transformers.UperNetForSemanticSegmentation(config), tmp_path / "theirs")
        ours, info = UperNetForSemanticSegmentation.from_pretrained(tmp_path / "theirs", output_loading_info=True)
        assert info["missing_keys"] == info["unexpected_keys"] == []
        x = pixels((64, 64))
        with torch.no_grad():
            close(ours(x).logits, theirs(x).logits)
        ours.save_pretrained(tmp_path / "ours")
        assert saved_keys(tmp_path / "ours") == saved_keys(tmp_path / "theirs")
