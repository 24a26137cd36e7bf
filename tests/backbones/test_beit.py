"""BEiT beyond the shared rows: the pyramid, names of the shared table, and old files."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from oracle import close, perturb, same, save_with_transformers, saved_keys
from safetensors.torch import load_file, save_file

from vertebra import AutoBackbone, BeitBackbone, BeitConfig, BeitModel
from vertebra.inspection.verify import verify

TINY: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 32,
    "patch_size": 8,
    "use_relative_position_bias": True,
}
PYRAMID = {**TINY, "add_fpn": True, "out_indices": [1, 2, 3, 4]}


class TestPyramid:
    def test_as_transformers(self, tmp_path: Path) -> None:
        theirs = save_with_transformers(transformers.BeitBackbone(transformers.BeitConfig(**PYRAMID)), tmp_path)
        ours, info = AutoBackbone.from_pretrained(tmp_path, output_loading_info=True)
        assert info["missing_keys"] == info["unexpected_keys"] == []
        assert ours.strides == [2, 4, 8, 16]
        for size in ((32, 32), (37, 51), (16, 70)):
            x = torch.randn(2, 3, *size)
            with torch.no_grad():
                maps = ours(x).feature_maps
                close(maps, theirs(x).feature_maps, name=str(size))
            assert [tuple(m.shape[1:]) for m in maps] == list(ours.output_shapes(*size).values())
        ours.save_pretrained(tmp_path / "ours")
        assert saved_keys(tmp_path / "ours") == saved_keys(tmp_path)
        back, info = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
        assert {name: set(keys) for name, keys in info.items() if keys} == {}
        with torch.no_grad():
            close(back.eval()(x).feature_maps, maps)

    def test_every_parameter_has_a_gradient(self) -> None:
        model = perturb(BeitBackbone(BeitConfig(**PYRAMID)))
        sum(m.square().sum() for m in model(torch.randn(2, 3, 40, 48)).feature_maps).backward()
        assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []

    def test_cells_lie_where_the_stages_say(self) -> None:
        model = BeitBackbone(BeitConfig(**PYRAMID))
        assert [stage.cell_to_pixel(0, 0)[0] for stage in model.output_stages] == [1, 2, 4, 8]

    def test_padding_is_cropped(self) -> None:
        model = BeitBackbone(BeitConfig(**PYRAMID, size_policy="pad")).eval()
        assert model.size_divisor == 16
        with torch.no_grad():
            maps = model(torch.randn(1, 3, 37, 51)).feature_maps
        assert [tuple(m.shape[2:]) for m in maps] == [(19, 26), (10, 13), (5, 7), (3, 4)]
        assert [tuple(m.shape[1:]) for m in maps] == list(model.output_shapes(37, 51).values())

    def test_freezing_takes_the_maps_along(self) -> None:
        model = BeitBackbone(BeitConfig(**PYRAMID))
        model.freeze("stage1")
        frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        assert {name.split(".")[0] for name in frozen} == {"embeddings", "encoder", "fpn1"}
        model.freeze()
        assert not any(parameter.requires_grad for parameter in model.parameters())

    def test_what_it_needs(self) -> None:
        for asked in ({"out_indices": [1, 2]}, {}, {"out_strides": [8]}):
            with pytest.raises(
                ValueError, match=r"add_fpn=True makes one map each of 4 stages.*Name exactly 4, such as"
            ):
                BeitConfig(**{**TINY, "add_fpn": True, **asked})
        with pytest.raises(ValueError, match="leave reshape_hidden_states=False out"):
            BeitConfig(**PYRAMID, reshape_hidden_states=False)
        model = BeitBackbone(BeitConfig(**PYRAMID))
        with pytest.raises(ValueError, match=r"nearest size that runs is 16x16"):
            model(torch.zeros(1, 3, 8, 16))

    def test_a_narrower_selection_keeps_the_strides(self, tmp_path: Path) -> None:
        model, x = BeitBackbone(BeitConfig(**PYRAMID)).eval(), torch.randn(1, 3, 40, 56)
        with torch.no_grad():
            maps = model(x).feature_maps
            model.out_indices = [2, 4]
            assert model.strides == [4, 16]
            same(model(x).feature_maps, [maps[1], maps[3]])
        with pytest.raises(
            ValueError, match=r"cannot be saved, since its files name all 4\. Save with backbone\.out_features"
        ):
            model.save_pretrained(tmp_path)
        assert verify(BeitBackbone(BeitConfig(**PYRAMID)), (48, 64), "cpu")


class TestFiles:
    def test_the_shared_table_in_both_spellings(self, tmp_path: Path) -> None:
        config = transformers.BeitConfig(**TINY, use_shared_relative_position_bias=True)
        theirs = save_with_transformers(transformers.BeitModel(config), tmp_path)
        ours, info = BeitBackbone.from_pretrained(tmp_path, output_loading_info=True)
        assert info["missing_keys"] == []
        ours.save_pretrained(tmp_path / "ours")
        assert "encoder.relative_position_bias.relative_position_bias_table" in saved_keys(tmp_path / "ours")
        back, info = transformers.BeitBackbone.from_pretrained(tmp_path / "ours", output_loading_info=True)
        assert {name: set(keys) for name, keys in info.items() if keys} == {}
        x = torch.randn(2, 3, 37, 51)
        with torch.no_grad():
            expected = theirs(x, output_hidden_states=True).hidden_states[-1][:, 1:].mT.unflatten(2, (4, 6))
            close(ours(x).feature_maps, [expected])
            close(back.eval()(x).feature_maps, [expected])

    def test_old_files_hold_what_is_computed(self, tmp_path: Path) -> None:
        BeitModel(BeitConfig(**TINY)).save_pretrained(tmp_path)
        path = tmp_path / "model.safetensors"
        name = "encoder.layer.0.attention.attention.relative_position_bias.relative_position_index"
        save_file(load_file(path) | {name: torch.zeros(17, 17, dtype=torch.int64)}, path, {"format": "pt"})
        _, info = BeitBackbone.from_pretrained(tmp_path, output_loading_info=True)
        assert info["explained"][name] == "computed from the size of the image"

    def test_older_name_of_the_selection(self) -> None:
        assert BeitConfig.from_dict({**TINY, "segmentation_indices": [1, 3]}).out_indices == [1, 3]


def test_images_that_are_not_square(tmp_path: Path) -> None:
    """Tables for oblong images, which transformers reads sideways: relative rows and columns keep their places here."""
    model = perturb(BeitBackbone(BeitConfig(**{**TINY, "image_size": (16, 32), "num_hidden_layers": 1}))).eval()
    bias = model.encoder.layer[0].attention.attention.relative_position_bias
    table = bias.relative_position_bias_table
    _, layout = model.embed(torch.zeros(1, 3, 16, 32))
    found = bias(layout)
    for (row, column), (down, right) in (((0, 0), (1, 3)), ((1, 2), (0, 0)), ((1, 1), (1, 1))):
        step = (row - down + 1) * 7 + column - right + 3
        same(found[:, 1 + 4 * row + column, 1 + 4 * down + right], table[step])
    same(found[:, 0, 1], table[21])
    same(found[:, 1, 0], table[22])
    same(found[:, 0, 0], table[23])
