"""Resampling by exact ratio, against positions: a map that holds its cells' coordinates must hold them afterwards."""

import math
from fractions import Fraction

import pytest
import torch
from oracle import close

from vertebra import Stage
from vertebra.backbones.necks.blocks import NORMS, Resize, convolution, group_norm, ratio_of, whole_ratio

RATIOS = [(14, 4), (14, 8), (14, 16), (14, 32), (16, 12), (7, 32), (12, 4), (8, 32), (Fraction(120, 7), 8)]


def stage(stride: float | Fraction, offset: Fraction) -> Stage:
    return Stage("s", 0, 1, (Fraction(stride), Fraction(stride)), (offset, offset))


@pytest.mark.parametrize(("have", "want"), RATIOS, ids=str)
@pytest.mark.parametrize("cells", [16, 37])
def test_cells_lie_where_their_stage_says(have: Fraction, want: Fraction, cells: int) -> None:
    source = stage(have, Fraction(have) / 2)
    target = source.resampled("t", 0, 1, (Fraction(want), Fraction(want)))
    rows, columns = source.cell_to_pixel(torch.arange(cells).double(), torch.arange(cells + 3).double())
    grid = torch.stack([rows[:, None].expand(-1, cells + 3), columns[None].expand(cells, -1)])[None]
    resized = Resize(ratio_of(source.stride, target.stride))(grid)
    height, width = resized.shape[-2:]
    assert (height, width) == tuple(math.ceil(Fraction(n) * have / want) for n in (cells, cells + 3))
    there = target.cell_to_pixel(torch.arange(height).double(), torch.arange(width).double())
    reach = float(max(have, want))  # cells at the edge repeat what is beyond it
    for axis, wanted in enumerate(there):
        got = resized[0, axis].mean(1 - axis)
        inner = (wanted > reach) & (wanted < cells * float(have) - reach)
        assert inner.any()
        close(got[inner], wanted[inner], 1e-6)


def test_a_ratio_of_rounded_sizes_would_be_off() -> None:
    """The defect of other libraries that this one avoids: dinov2#378, 37 cells of 14 pixels as 16 of 32."""
    source = stage(14, Fraction(7))
    line = source.cell_to_pixel(0, torch.arange(37.0))[1].expand(1, 1, 37, 37)
    ours = Resize((Fraction(14, 32), Fraction(14, 32)))(line)[0, 0, 0]
    wanted = torch.arange(17.0) * 32 + 16
    rounded = torch.nn.functional.interpolate(line, size=(16, 16), mode="bilinear")[0, 0, 0]
    close(ours[1:15], wanted[1:15], 1e-6)
    assert (rounded[1:15] - wanted[1:15]).abs().max() > 4


@pytest.mark.parametrize("ratio", [Fraction(7, 16), Fraction(7, 2), Fraction(2), Fraction(1, 3)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes_stay(ratio: Fraction, dtype: torch.dtype) -> None:
    x = torch.rand(1, 2, 9, 11)
    resized = Resize((ratio, ratio))(x.to(dtype))
    assert resized.dtype == dtype
    close(resized.float(), Resize((ratio, ratio))(x), 1e-2)


def test_constants_stay_constant() -> None:
    for have, want in RATIOS:
        ratio = Fraction(have) / Fraction(want)
        close(Resize((ratio, 1 / ratio))(torch.ones(1, 1, 5, 6)).mean(), torch.tensor(1.0), 1e-6)


def test_whole_ratios() -> None:
    assert whole_ratio((Fraction(2), Fraction(2))) == 2
    assert whole_ratio((Fraction(2), Fraction(4))) is None
    assert whole_ratio((Fraction(7, 2), Fraction(7, 2))) is None


def test_norms() -> None:
    x = torch.randn(2, 48, 5, 7) * 3 + 1
    cells = NORMS["layer"](48)(x).permute(0, 2, 3, 1)
    assert cells.mean(-1).abs().max() < 1e-5
    assert (cells.var(-1, unbiased=False) - 1).abs().max() < 1e-4
    assert group_norm(48).num_groups == 16
    assert group_norm(256).num_groups == 32
    assert convolution(3, 4, 3)[0].bias is not None
    assert convolution(3, 4, 3, "batch")[0].bias is None
