"""The nearest size: the search against brute force, native families, and what the errors say."""

from itertools import product

import pytest
import torch

from vertebra import ResNetBackbone, ResNetConfig, SwinBackbone, SwinConfig
from vertebra.backbones.sizes import nearest

ODD = ((1, 1), (9, 40), (33, 31), (70, 95), (64, 64), (50, 17))


def brute(size: tuple[int, int], runs: object) -> tuple[int, int]:
    """The nearest of all sizes up to 130: least change, then the largest."""
    every = [each for each in product(range(1, 130), repeat=2) if runs(*each)]
    return min(every, key=lambda each: (abs(each[0] - size[0]) + abs(each[1] - size[1]), -sum(each)))


RULES = {
    "multiples of 16": lambda h, w: h % 16 == 0 and w % 16 == 0,
    "at least 25": lambda h, w: min(h, w) >= 25,
    "one size": lambda h, w: (h, w) == (64, 64),
    "other multiples per axis": lambda h, w: h % 8 == 0 and w % 32 == 0,
    "multiples of twice the divisor": lambda h, w: h % 64 == 0 and w % 64 == 0,
}


@pytest.mark.parametrize("size", ODD)
@pytest.mark.parametrize("rule", RULES)
def test_the_search_finds_the_nearest(rule: str, size: tuple[int, int]) -> None:
    runs, calls = RULES[rule], []

    def counted(height: int, width: int) -> bool:
        calls.append((height, width))
        return runs(height, width)

    assert nearest(size, (64, 64), [(step, step) for step in (8, 16, 32, 64)], counted) == brute(size, runs)
    assert len(calls) < 20


def test_squares_only() -> None:
    assert nearest((40, 70), (64, 64), [(16, 16)], lambda h, w: h == w and h % 16 == 0) == (64, 64)
    assert nearest((90, 120), (64, 64), [(16, 16)], lambda h, w: h == w and h % 16 == 0) == (112, 112)


def test_sides_of_different_steps() -> None:
    assert nearest((40, 70), (48, 64), [(24, 32)], lambda h, w: h % 24 == 0 and w % 32 == 0) == (48, 64)
    assert nearest((100, 70), (48, 64), [(24, 32)], lambda h, w: h % 24 == 0 and w % 32 == 0) == (96, 64)


def test_a_usual_refusal_takes_few_runs() -> None:
    calls = []

    def patches(height: int, width: int) -> bool:
        calls.append((height, width))
        return height % 16 == 0 and width % 16 == 0

    assert nearest((333, 517), (224, 224), [(step, step) for step in (16, 32, 64, 128, 224)], patches) == (336, 512)
    assert calls.count((336, 512)) == 1
    assert sum(height % 16 == 0 and width % 16 == 0 for height, width in calls) == 1, "runs that succeed are slow"
    assert len(calls) < 5


def test_nothing_runs() -> None:
    assert nearest((40, 70), (64, 64), [(16, 16)], lambda h, w: False) is None


def tiny_resnet(**kwargs: object) -> ResNetBackbone:
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **kwargs)
    return ResNetBackbone(config).eval()


def tiny_swin(**kwargs: object) -> SwinBackbone:
    return SwinBackbone(
        SwinConfig(image_size=32, embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=4, **kwargs)
    )


class TestNativeFamilies:
    @pytest.mark.parametrize("make", [tiny_resnet, tiny_swin])
    @pytest.mark.parametrize("policy", [None, "pad"])
    @pytest.mark.parametrize("size", ODD)
    def test_every_size_runs(self, make: object, policy: str | None, size: tuple[int, int]) -> None:
        backbone = make(size_policy=policy)
        assert backbone.nearest_size(*size) == size
        maps = backbone(torch.randn(1, 3, *size)).feature_maps
        assert [tuple(level.shape[1:]) for level in maps] == list(backbone.output_shapes(*size).values())

    def test_floor_needs_a_whole_cell(self) -> None:
        backbone = tiny_resnet(size_policy="floor")
        assert backbone.size_divisor == 8
        assert backbone.nearest_size(5, 3) == (8, 8)
        assert backbone.nearest_size(5, 41) == (8, 41)
        for call in (lambda: backbone.output_shapes(5, 41), lambda: backbone(torch.zeros(1, 3, 5, 41))):
            with pytest.raises(ValueError, match=r"The smallest size is 8x8.*The nearest size that runs is 8x41\."):
                call()

    def test_no_pixels(self) -> None:
        with pytest.raises(ValueError, match=r"An image of 0x5 has no pixels"):
            tiny_resnet().nearest_size(0, 5)

    def test_a_family_of_ones_own_says_why_and_gets_the_nearest_size(self) -> None:
        class Picky(ResNetBackbone):
            def map_sizes(self, height: int, width: int) -> list[tuple[int, int]]:
                if height % 32 or width % 32:
                    raise ValueError(f"Picky wants multiples of 32, not {height}x{width}.")
                return super().map_sizes(height, width)

        picky = Picky(tiny_resnet().config)
        assert not picky.accepts(33, 70)
        assert picky.nearest_size(33, 70) == (32, 64)
        with pytest.raises(
            ValueError, match=r"Picky wants multiples of 32, not 33x70\. The nearest size that runs is 32x64\.$"
        ):
            picky.output_shapes(33, 70)


@pytest.mark.parametrize("make", [tiny_resnet, tiny_swin])
def test_image_size_is_one_spelling_for_every_family(make: object, tmp_path: object) -> None:
    saved = make(**({"use_absolute_embeddings": True} if make is tiny_swin else {})).eval()
    saved.save_pretrained(tmp_path)
    backbone = type(saved).from_pretrained(tmp_path, image_size=(48, 80))
    pixels = torch.randn(1, 3, 48, 80)
    with torch.no_grad():
        assert torch.equal(backbone(pixels).feature_maps[0], saved(pixels).feature_maps[0])
    with pytest.raises(ValueError, match=r"The nearest size that runs is 8x8"):
        type(saved).from_pretrained(tmp_path, image_size=4, size_policy="floor")


@pytest.mark.parametrize("make", [tiny_resnet, tiny_swin])
def test_families_state_their_offsets(make: object) -> None:
    backbone = make()
    assert backbone.measure_offsets() == {stage.name: stage.offset for stage in backbone.stages}
    assert None not in backbone.measure_offsets().values()
