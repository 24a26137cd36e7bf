"""What is particular to BiT: widths, padding by size, and its own `output_stride`."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from backbone_rows import run
from families.bit import BIT, BOTTLENECK, SAME
from oracle import close, perturb, save_with_transformers

from vertebra import BitBackbone, BitConfig
from vertebra.inspection.verify import verify

EVERY = {"out_indices": [0, 1, 2, 3]}


def theirs(folder: Path, **kwargs: Any) -> Any:
    return save_with_transformers(transformers.BitBackbone(transformers.BitConfig(**EVERY, **kwargs)), folder)


class TestWidths:
    @pytest.mark.parametrize("kwargs", [{"width_factor": 2}, {"hidden_sizes": [12, 20, 41]}], ids=["factor", "rounded"])
    def test_real_channels_are_declared(self, kwargs: dict[str, Any], tmp_path: Path) -> None:
        model = theirs(tmp_path, **{**BOTTLENECK, **kwargs})
        ours, x = BitBackbone.from_pretrained(tmp_path), torch.randn(2, 3, 37, 51)
        maps = run(ours, x).feature_maps
        close(maps, run(model, x).feature_maps)
        assert (
            ours.channels
            == [m.shape[1] for m in maps]
            == [8, *({"width_factor": [32, 64, 128]}.get(*kwargs) or [16, 24, 40])]
        )
        assert ours.channels != model.channels

    def test_wider_preactivation_runs_too(self, tmp_path: Path) -> None:
        config = transformers.BitConfig(**EVERY, **BIT.kwargs, width_factor=2)
        with pytest.raises(RuntimeError, match="Expected weight to be a vector"):
            transformers.BitBackbone(config).eval()(torch.randn(1, 3, 32, 32))
        ours = BitBackbone(BitConfig(**EVERY, **BIT.kwargs, width_factor=2)).eval()
        assert (
            [m.shape[1] for m in run(ours, torch.randn(1, 3, 32, 32)).feature_maps] == ours.channels == [8, 32, 64, 128]
        )


class TestPadding:
    def test_what_is_not_padded_needs_five_pixels(self) -> None:
        model = perturb(BitBackbone(BitConfig(**{**SAME, "embedding_dynamic_padding": False}, **EVERY))).eval()
        assert model.output_shapes(64, 61) == {
            "stem": (8, 15, 15),
            "stage1": (16, 15, 15),
            "stage2": (32, 8, 8),
            "stage3": (64, 4, 4),
        }
        text = "An image of 4x9 is smaller than the stem's pooling, which is not padded. The nearest size that runs is 5x9."
        for call in (lambda: model.output_shapes(4, 9), lambda: model(torch.randn(1, 3, 4, 9))):
            with pytest.raises(ValueError, match=re.escape(text)):
                call()
        assert [tuple(m.shape[-2:]) for m in run(model, torch.randn(1, 3, 5, 9)).feature_maps] == [
            (1, 2),
            (1, 2),
            (1, 1),
            (1, 1),
        ]

    @pytest.mark.parametrize("dynamic", [True, False])
    def test_the_contract_holds(self, dynamic: bool) -> None:
        torch._dynamo.reset()
        config = BitConfig(**{**SAME, "embedding_dynamic_padding": dynamic}, **EVERY, size_policy="pad")
        model = perturb(BitBackbone(config)).eval()
        for size in ((64, 64), (61, 90)):
            verify(model, size, "cpu").raise_if_failed()
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        for shape in ((2, 3, 61, 90), (3, 3, 61, 90), (1, 3, 32, 40)):
            x = torch.randn(shape)
            maps = run(compiled, x).feature_maps
            close(maps, run(model, x).feature_maps)
            assert [tuple(m.shape[1:]) for m in maps] == list(model.output_shapes(*shape[2:]).values())

    def test_cells_without_a_place_say_why(self) -> None:
        stage = BitBackbone(BitConfig(**SAME)).stages[0]
        with pytest.raises(ValueError, match="its padding depends on the image size"):
            stage.cell_to_pixel(0, 0)

    @pytest.mark.parametrize(
        ("kwargs", "text"),
        [
            ({"global_padding": "valid"}, "no block can add the two; it is None or 'SAME'."),
            ({"global_padding": "full"}, "global_padding='FULL' must be None or 'SAME'."),
            ({"layer_type": "basic"}, "layer_type='basic' must be one of preactivation, bottleneck."),
            (
                {"num_groups": 5},
                "num_groups=5 does not divide 8 channels. Widths are embedding_size=8, [16, 32, 64] of the stages",
            ),
            ({"output_stride": 4}, "output_stride=4 must be one of 8, 16, 32"),
        ],
    )
    def test_bad_values(self, kwargs: dict[str, Any], text: str) -> None:
        with pytest.raises(ValueError, match=re.escape(text)):
            BitConfig(**{**BIT.kwargs, **kwargs})


class TestOutputStride:
    def test_the_key_stands_where_transformers_has_it(self, tmp_path: Path) -> None:
        for given, written in ((None, 32), (16, 16)):
            config = BitConfig(**BIT.kwargs, output_stride=given)
            config.save_pretrained(tmp_path)
            content = json.loads((tmp_path / "config.json").read_text())
            assert content["output_stride"] == written
            assert "vertebra" not in content
            assert transformers.BitConfig.from_pretrained(tmp_path).output_stride == written
            assert BitConfig.from_pretrained(tmp_path) == config

    @pytest.mark.parametrize("output_stride", [8, 16])
    def test_preactivation_dilates_as_in_timm(self, output_stride: int) -> None:
        """In transformers these layers lose their strides, and filters stay as they are."""
        shape = {"hidden_sizes": [64, 96, 128, 160], "depths": [2, 1, 2, 1], "embedding_size": 32, "num_groups": 8}
        ours = perturb(BitBackbone(BitConfig(**shape, out_indices=[1, 2, 3, 4], output_stride=output_stride))).eval()
        there = timm.models.resnetv2.ResNetV2(
            shape["depths"],
            channels=shape["hidden_sizes"],
            stem_chs=32,
            stem_type="fixed",
            conv_layer=partial(timm.layers.StdConv2d, eps=1e-8),
            norm_layer=lambda width, **kwargs: timm.layers.GroupNormAct(width, 8, **kwargs),
            output_stride=output_stride,
        ).eval()
        spelled = {
            name.replace("bit.embedder.convolution", "stem.conv")
            .replace("bit.encoder.", "")
            .replace(".layers.", ".blocks."): tensor
            for name, tensor in ours.state_dict().items()
        }
        found = there.load_state_dict(spelled, strict=False)
        assert not found.unexpected_keys
        assert all(name.startswith(("norm.", "head.")) for name in found.missing_keys)
        x = torch.randn(2, 3, 97, 75)
        with torch.no_grad():
            expected = there.forward_intermediates(x, indices=[1, 2, 3, 4], intermediates_only=True)
        close(run(ours, x).feature_maps, expected)
        assert ours.strides == [min(stride, output_stride) for stride in (4, 8, 16, 32)]
