"""What backbones do where nobody wants a gradient gives what they do where somebody does, and disturbs nobody who listens."""

from __future__ import annotations

import pytest
import torch
from backbone_rows import MAIN, Row
from oracle import close, perturb

from vertebra import AutoBackbone
from vertebra.backbones.layers import ResponseNorm, add
from vertebra.backbones.windows import to_windows, window_rows
from vertebra.linear import PIECE, Linear, feed_forward, in_pieces, unwatched


@pytest.mark.parametrize("row", MAIN.values(), ids=MAIN.keys())
def test_same_with_gradients_and_without(row: Row) -> None:
    torch.manual_seed(0)
    backbone = perturb(AutoBackbone.from_config(row.config())).eval()
    pixels = torch.randn(2, backbone.config.num_channels, 96, 64)
    kept = pixels.clone()
    expected = backbone(pixels, output_hidden_states=True)
    assert any(x.requires_grad for x in expected.feature_maps)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            found = backbone(pixels, output_hidden_states=True)
            close(found.feature_maps, expected.feature_maps, 1e-5)
            close(found.hidden_states, expected.hidden_states, 1e-5)
    assert torch.equal(pixels, kept)


@pytest.mark.parametrize("row", MAIN.values(), ids=MAIN.keys())
def test_listeners_hear_the_same(row: Row) -> None:
    torch.manual_seed(0)
    backbone = perturb(AutoBackbone.from_config(row.config())).eval()
    pixels = torch.randn(1, backbone.config.num_channels, 64, 64)
    heard: list[tuple[str, torch.Tensor]] = []
    for name, module in backbone.named_modules():
        if not list(module.children()):
            module.register_forward_hook(
                lambda module, inputs, output, name=name: heard.extend(
                    (name, x.detach().clone()) for x in (output if isinstance(output, tuple) else (output,))
                )
            )
    backbone(pixels)
    expected, heard = heard, []
    with torch.no_grad():
        backbone(pixels)
    assert [name for name, _ in heard] == [name for name, _ in expected]
    close([x for _, x in heard], [x for _, x in expected], 1e-5)


@pytest.mark.parametrize("shift", [0, 2])
def test_window_rows(shift: int) -> None:
    x = torch.randn(3, 8, 12, 5)
    expected = to_windows(x.roll((-shift, -shift), dims=(1, 2)), 4)
    rows = window_rows(3, 8, 12, 4, shift, x.device)
    found = x.view(-1, 5)[rows]
    assert torch.equal(found.view(expected.shape), expected)
    assert torch.equal(found[rows.argsort()].view(x.shape), x)


@pytest.mark.parametrize("scale", [None, torch.tensor([2.0, -1.0])])
def test_add(scale: torch.Tensor | None) -> None:
    x, y = torch.randn(3, 2), torch.randn(3, 2)
    expected = x + (y if scale is None else y * scale)
    kept = x.clone()
    torch.testing.assert_close(add(x, y, scale), expected)
    torch.testing.assert_close(add(x.requires_grad_(), y, scale, into=True), expected)
    x = x.detach()
    assert torch.equal(x, kept)
    assert add(x, y, scale, into=True) is x
    torch.testing.assert_close(x, expected)


def test_pieces() -> None:
    torch.manual_seed(0)
    x, seen = torch.randn(7, 3), []
    found = in_pieces(lambda part: (seen.append(len(part)), part * 2)[1], x, PIECE // 4 // 2)
    assert torch.equal(found, x * 2)
    assert seen == [2, 2, 2, 1]
    first, act, second = Linear(64, 4096), torch.nn.GELU(), Linear(4096, 64)
    rows = torch.randn(3, 999, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            feed_forward(rows, first, act, second), second(act(first(rows))), rtol=1e-4, atol=1e-5
        )
        assert unwatched(first, second)
        heard: list[torch.Size] = []
        second.register_forward_hook(lambda module, inputs, output: heard.append(output.shape))
        assert not unwatched(first, second)
        feed_forward(rows, first, act, second)
    assert heard == [(3, 999, 64)]


def test_response_norm_over_its_input() -> None:
    torch.manual_seed(0)
    norm = ResponseNorm(6)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(2, 5, 4, 6)
    with torch.no_grad():
        expected = norm(x)
        torch.testing.assert_close(norm.over(x), expected, rtol=1e-5, atol=1e-5)
