"""Which cells of a map hold any of the image, against counting pixels."""

import re

import pytest
import torch

from vertebra.heads.padding import check_pixel_mask, real_cells


@pytest.mark.parametrize("stride", [4, 32])
def test_a_cell_with_any_pixel_of_the_image_is_real(stride: int) -> None:
    mask = torch.zeros(3, 64, 96, dtype=torch.int64)
    for image, (height, width) in enumerate(((64, 96), (33, 1), (32, 95))):
        mask[image, :height, :width] = 1
    height, width = 64 // stride, 96 // stride
    covered = mask.view(3, height, stride, width, stride).sum((2, 4)) > 0
    for given in (mask, mask.bool(), mask.float()):
        assert torch.equal(real_cells(given, height, width), covered)


def test_nothing_but_padding_counts_as_real() -> None:
    mask = torch.ones(2, 8, 8)
    mask[1] = 0
    assert real_cells(mask, 2, 2).all()


def test_a_mask_of_another_size() -> None:
    pixels = torch.zeros(2, 3, 6, 8)
    check_pixel_mask(torch.ones(2, 6, 8), pixels)
    for shape in ((2, 6, 7), (1, 6, 8), (2, 1, 6, 8)):
        with pytest.raises(ValueError, match=re.escape(f"pixel_mask of shape {shape} must be (2, 6, 8)")):
            check_pixel_mask(torch.ones(shape), pixels)
