"""The plain bridge: a dictionary of maps under the keys asked for."""

import copy
import pickle
from fractions import Fraction
from typing import Any

import pytest
import torch
from oracle import same
from real import tiny_backbone

from vertebra import AutoBackbone, SwinConfig, pyramid, to_dict

SWIN = SwinConfig(embed_dim=12, depths=[1, 1, 2, 1], num_heads=[1, 2, 2, 2], window_size=4, out_indices=[1, 3])
PIXELS = torch.rand(2, 3, 64, 96)


@pytest.mark.parametrize(("keys", "expected"), [("name", ["stage1", "stage3"]), ("stride", [4, 16]), ("index", [1, 3])])
def test_maps_under_the_keys_asked_for(keys: str, expected: list[Any]) -> None:
    backbone = AutoBackbone.from_config(SWIN).eval()
    module = to_dict(backbone, keys)
    maps = module(PIXELS)
    assert list(maps) == expected
    same(tuple(maps.values()), backbone(PIXELS).feature_maps)
    assert module.body is backbone
    assert not module.training
    assert {name.partition(".")[0] for name in module.state_dict()} == {"body"}


def test_a_stride_that_is_no_whole_number_and_one_per_axis() -> None:
    module = to_dict(pyramid(SWIN, (3.5, 8), 12, "interpolate"), "stride")
    assert list(module(PIXELS)) == [Fraction(7, 2), 8]


def test_it_follows_a_selection_that_is_narrowed_and_the_settings_of_outputs() -> None:
    backbone = AutoBackbone.from_config(SWIN)
    backbone.config.return_dict = False
    module = to_dict(backbone)
    backbone.out_features = ["stage3"]
    assert list(module(PIXELS)) == ["stage3"]


def test_copied_pickled_compiled_and_frozen() -> None:
    backbone = AutoBackbone.from_config(SWIN).eval()
    backbone.freeze("stage1")
    module = to_dict(backbone)
    maps = module(PIXELS)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        same(tuple(twin(PIXELS).values()), tuple(maps.values()))
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="eager")(PIXELS)
    assert list(compiled) == list(maps)
    module.train()
    assert not backbone.encoder.layers[0].blocks.training
    assert backbone.encoder.layers[1].blocks.training


def test_errors_teach() -> None:
    with pytest.raises(
        ValueError, match=r"keys='strides' is not known. Did you mean 'stride'.*one of name, stride, index"
    ):
        to_dict(tiny_backbone(), "strides")
    twice = tiny_backbone(out_indices=[0, 1])
    assert list(to_dict(twice)(PIXELS)) == ["stem", "stage1"]
    with pytest.raises(
        ValueError, match=r"gives stem, stage1 the same key 4.*out_features = \['stage1'\].*keys='name'"
    ):
        to_dict(twice, "stride")
    with pytest.raises(TypeError, match=r"built backbone of vertebra, got 'resnet50'.*from_pretrained\(name\)"):
        to_dict("resnet50")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"built backbone of vertebra, got Conv2d"):
        to_dict(torch.nn.Conv2d(3, 3, 1))  # type: ignore[arg-type]
