"""Pictures of feature maps."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from real import photos, tiny_backbone, tiny_processor

from vertebra.extraction.pictures import component_colours, picture

BACKGROUND = (250, 250, 248)


def test_picture_has_the_photo_and_one_tile_per_stage(tmp_path: Path) -> None:
    backbone = tiny_backbone(out_features=["stem", "stage1", "stage2"])
    path = picture(photos() / "cat.png", backbone, tiny_processor(), tmp_path / "new/cat.png", size=(64, 64))
    image = Image.open(path).convert("RGB")
    centres = [image.getpixel((20 + 128 + column * (image.width - 20) // 4, 200)) for column in range(4)]
    assert BACKGROUND not in centres
    assert image.getpixel((5, 200)) == image.getpixel((image.width - 3, 200)) == BACKGROUND


def test_many_tiles_go_into_rows(tmp_path: Path) -> None:
    narrow, wide = tmp_path / "narrow.png", tmp_path / "wide.png"
    backbone = tiny_backbone(out_features=["stem", "stage1", "stage2"])
    picture(photos() / "cat.png", backbone, tiny_processor(), narrow, size=(64, 32))
    picture(photos() / "cat.png", backbone, tiny_processor(), wide, size=(32, 96))
    with Image.open(narrow) as one, Image.open(wide) as two:
        assert one.width > 2.5 * one.height
        assert max(one.width, two.width) <= 1740
        assert two.height > 1.8 * one.height


def test_colours_show_the_directions_of_largest_variance() -> None:
    rows = torch.linspace(-1, 1, 16).expand(16, 16).T
    level = torch.zeros(5, 16, 16)
    level[3], level[1] = 9 * rows, 2 * rows.T
    colours = component_colours(level)
    assert colours.shape == (3, 16, 16)
    for channel, expected in ((0, rows), (1, rows.T)):
        correlation = torch.corrcoef(torch.stack([colours[channel].flatten(), expected.flatten()]))[0, 1]
        assert abs(correlation) > 0.99
        assert (colours[channel].amin(), colours[channel].amax()) == (0, 1)
    assert torch.equal(colours[2], torch.full((16, 16), 0.5))
    assert torch.equal(component_colours(level), colours)


@pytest.mark.parametrize("shape", [(1, 4, 4), (2, 1, 1), (7, 1, 2)])
def test_colours_of_small_maps(shape: tuple[int, int, int]) -> None:
    colours = component_colours(torch.randn(shape))
    assert colours.shape == (3, *shape[1:])
    assert torch.isfinite(colours).all()


def test_colours_of_a_constant_map_are_grey() -> None:
    assert torch.equal(component_colours(torch.ones(8, 3, 3)), torch.full((3, 3, 3), 0.5))


def test_size_that_does_not_run(tmp_path: Path) -> None:
    backbone = tiny_backbone(size_policy="floor")
    with pytest.raises(ValueError, match="The smallest size is 8x8"):
        picture(photos() / "cat.png", backbone, tiny_processor(), tmp_path / "cat.png", size=(4, 4))
    assert not (tmp_path / "cat.png").exists()
