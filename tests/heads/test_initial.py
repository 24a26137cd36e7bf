"""How weights start: said where a module is made, kept by copies, drawn on request; and the perceptron's names."""

import copy
import pickle

import torch
from torch import nn

from vertebra.heads.initial import draw_weights, normal, starting, xavier
from vertebra.heads.mlp import mlp


def test_weights_start_as_said() -> None:
    layer = starting(nn.Linear(200, 100), normal(3.0))
    for each in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert draw_weights(each)
        assert 2.9 < each.weight.std() < 3.1
        assert not each.bias.any()
    conv = starting(nn.Conv2d(8, 16, 3, bias=False), xavier(2.0))
    assert draw_weights(conv)
    bound = 2.0 * (6 / (9 * 24)) ** 0.5
    assert 0.98 * bound < conv.weight.abs().max() <= bound
    assert draw_weights(starting(nn.Embedding(4, 4), normal(1.0)))


def test_all_layers_inside_and_nothing_else() -> None:
    block = starting(nn.Sequential(nn.Conv2d(3, 3, 1), nn.GroupNorm(1, 3), nn.Sequential(nn.Linear(3, 3))), normal(1.0))
    assert [draw_weights(module) for module in block.modules()] == [False, True, False, False, True]
    assert not draw_weights(nn.Linear(2, 2))


def test_perceptron() -> None:
    layers = mlp(4, 8, 8, 3)
    names = [f"{layer}.0.{leaf}" for layer in range(3) for leaf in ("weight", "bias")]
    assert list(layers.state_dict()) == names
    x = torch.randn(5, 4)
    expected = x
    for number, layer in enumerate(layers):
        expected = layer[0](expected).relu() if number < 2 else layer[0](expected)
    assert torch.equal(layers(x), expected)
