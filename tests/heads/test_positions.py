"""Sine positions against transformers, with and without a mask."""

import pytest
import torch
from oracle import close
from transformers.models.maskformer.modeling_maskformer import MaskFormerSinePositionEmbedding

from vertebra.heads.positions import SinePositions


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(5, 9), (1, 1), (1, 40)])
def test_against_transformers(size: tuple[int, int], dtype: torch.dtype) -> None:
    tol = 1e-5 if dtype == torch.float32 else 1e-12
    theirs = MaskFormerSinePositionEmbedding(16, normalize=True)
    ours = SinePositions(32)
    like = torch.zeros(2, 7, *size, dtype=dtype)
    expected = theirs(like.shape, like.device, dtype)
    for _ in range(2):  # the second is looked up
        close(ours(like), expected[:1], tol)
    close(ours(like, torch.ones(2, *size, dtype=torch.bool)), expected, tol)
    real = torch.zeros(2, *size, dtype=torch.bool)
    real[0, : size[0] // 2 + 1, : size[1] // 3 + 1] = True
    real[1] = True
    close(ours(like, real), theirs(like.shape, like.device, dtype, real), tol)


def test_padding_changes_nothing_inside() -> None:
    positions = SinePositions(8)
    real = torch.zeros(1, 6, 7, dtype=torch.bool)
    real[:, :4, :5] = True
    inside = positions(torch.zeros(1, 1, 6, 7), real)[..., :4, :5]
    close(inside, positions(torch.zeros(1, 1, 4, 5)))


def test_half_precision_is_rounded_at_the_end() -> None:
    like = torch.zeros(1, 1, 3000, 2)
    close(SinePositions(8)(like.bfloat16()), SinePositions(8)(like).bfloat16(), tol=0.0)


def test_channels_that_cannot_be_shared() -> None:
    with pytest.raises(ValueError, match=r"Sine positions of 30 channels: .* multiple of 4"):
        SinePositions(30)
