"""What one run of a network shows, on networks whose every product is known."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vertebra.inspection.dataflow import Observed, observe
from vertebra.inspection.traits import attention_kinds, norm_kinds, reads_all

WIDTH, PATCH, SIDE = 8, 4, 32


class Tokens(nn.Module):
    """Patches, then one attention of some kind, then a linear layer."""

    def __init__(self, kind: str, position: str = "", prefix: tuple[int, ...] = (), side: int = SIDE) -> None:
        super().__init__()
        cells = (side // PATCH) ** 2
        self.kind, self.position = kind, position
        self.embed = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)
        self.prefix = nn.ParameterList(torch.zeros(1, count, WIDTH) for count in prefix)
        self.table = nn.Parameter(torch.zeros(1, cells + sum(prefix), WIDTH))
        self.bias = nn.Parameter(torch.zeros(16, 16) if kind == "windowed" else torch.zeros(cells, cells))
        self.register_buffer("mask", torch.zeros(16, 16))

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.embed(pixels).flatten(2).transpose(1, 2)  # (1, n, c)
        for tokens in self.prefix:
            x = torch.cat((tokens, x), dim=1)
        if self.position == "absolute":
            x = x + self.table
        if self.kind == "windowed":
            x = x.reshape(-1, 16, WIDTH)
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if self.position == "rotary":
            angles = torch.arange(x.shape[1], device=x.device)[:, None] * torch.ones(WIDTH, device=x.device)
            q, k = q * angles.cos(), k * angles.cos()
        if self.kind == "linear":
            return self.proj(q @ (k.transpose(1, 2) @ v))
        if self.kind == "channels":
            return self.proj(v @ (k.transpose(1, 2) @ q).softmax(-1))
        if self.kind == "fused":
            return self.proj(F.scaled_dot_product_attention(q, k, v))
        scores = q @ k.transpose(1, 2) * 0.5
        if self.position == "mask":
            scores = scores + self.mask
        if self.position == "relative":
            scores = scores + self.bias
        if self.position == "from queries":
            scores = scores + q @ self.table[0].T[:, : scores.shape[-1]]
        return self.proj(scores.softmax(-1) @ v)


def look(model: nn.Module, side: int = SIDE) -> Observed:
    return observe(model.to("meta"), side, side)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("global", ("global",)),
        ("fused", ("global",)),
        ("windowed", ("windowed",)),
        ("linear", ("linear",)),
        ("channels", ("linear",)),
    ],
)
def test_attention_is_told_by_how_its_cost_grows(kind: str, expected: tuple[str, ...]) -> None:
    model = Tokens(kind)
    assert attention_kinds(look(model), look(model, 2 * SIDE)) == expected


def test_windows_that_grew_with_a_rebuilt_network_are_no_global_attention() -> None:
    class Quarters(Tokens):
        def forward(self, pixels: Tensor) -> Tensor:
            x = self.embed(pixels).flatten(2).reshape(4, -1, WIDTH)  # four windows at any size
            return self.proj((x @ x.transpose(1, 2)).softmax(-1) @ x)

    small, large = look(Quarters("global")), look(Quarters("global", side=2 * SIDE), 2 * SIDE)
    assert attention_kinds(small, large) == ("global",)
    assert attention_kinds(small, large, resized=True) == ("windowed",)
    assert not reads_all(small)
    assert reads_all(look(Tokens("global")))
    resized = look(Tokens("global", side=2 * SIDE), 2 * SIDE)
    assert attention_kinds(look(Tokens("global")), resized, resized=True) == ("global",)


def test_runs_that_are_no_twins_tell_nothing() -> None:
    assert attention_kinds(look(Tokens("global")), look(nn.Conv2d(3, 4, 3))) is None
    assert attention_kinds(look(nn.Conv2d(3, 4, 3)), look(nn.Conv2d(3, 4, 3))) == ()


@pytest.mark.parametrize(
    ("kind", "position", "expected"),
    [
        ("global", "", set()),
        ("global", "absolute", {"absolute"}),
        ("global", "rotary", {"rotary"}),
        ("global", "relative", {"relative"}),
        ("windowed", "relative", {"relative"}),
        ("windowed", "mask", set()),
        ("global", "from queries", {"relative"}),
    ],
)
def test_positions_are_told_by_where_they_enter(kind: str, position: str, expected: set[str]) -> None:
    assert look(Tokens(kind, position)).positions == expected


@pytest.mark.parametrize("prefix", [(), (1,), (1, 4)])
def test_prefix_tokens_are_counted(prefix: tuple[int, ...]) -> None:
    assert look(Tokens("global", "absolute", prefix)).prefix_tokens == sum(prefix)


def test_patches_are_those_of_the_first_layer() -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3 * PATCH**2, WIDTH)

        def forward(self, pixels: Tensor) -> Tensor:
            return self.layer(F.unfold(pixels, PATCH, stride=PATCH).transpose(1, 2))

    assert look(Tokens("global")).patch_size == (PATCH, PATCH)
    assert look(Cut()).patch_size == (PATCH, PATCH)
    assert look(nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 4, 2, 2))).patch_size is None
    assert look(nn.Conv2d(3, 4, 1)).patch_size is None


def test_flops_are_the_closed_form_and_those_of_torch() -> None:
    cells = (SIDE // PATCH) ** 2
    layers = cells * WIDTH * (3 * PATCH**2 + 3 * WIDTH + WIDTH)
    model = Tokens("global").to("meta")
    assert observe(model, SIDE, SIDE).flops == 2 * (layers + 2 * cells * cells * WIDTH)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, SIDE, SIDE, device="meta"))
    assert counter.get_total_flops() == observe(model, SIDE, SIDE).flops


def test_norms_are_told_by_their_classes() -> None:
    class RmsNormOfMine(nn.Module):
        pass

    class ConvNorm(nn.Sequential):
        pass

    own = ConvNorm(RmsNormOfMine(), nn.BatchNorm1d(2), nn.GroupNorm(1, 2))
    assert norm_kinds(own) == ("batch", "group", "rms")
    assert norm_kinds(nn.Sequential(nn.LayerNorm(2), nn.InstanceNorm2d(2), nn.RMSNorm(2))) == (
        "instance",
        "layer",
        "rms",
    )
    assert norm_kinds(Tokens("global")) == ()
