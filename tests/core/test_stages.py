"""Stages as values, grids of windows, and the rules for selecting stages."""

import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vertebra.stages import Grid, Stage, pair, plain_stride, select_by_stride, select_stages

NAMES = ["stem", "stage1", "stage2", "stage3", "stage4"]
EXISTS = "The stages are 0: stem, 1: stage1, 2: stage2, 3: stage3, 4: stage4."


def stage(stride: Any, offset: Any = None, index: int = 0) -> Stage:
    return Stage(f"s{index}", index, 8, pair(stride), None if offset is None else pair(offset))


class TestStage:
    def test_it_is_a_value(self) -> None:
        assert stage(4, 2) == stage(4, 2)
        assert hash(stage(4, 2)) == hash(stage(4, 2))
        assert stage(4, 2) != stage(4, 1)
        with pytest.raises(AttributeError):
            stage(4).channels = 9  # type: ignore[misc]

    def test_cells_and_pixels(self) -> None:
        oblong = stage((4, 8), (2, 4))
        assert oblong.cell_to_pixel(0, 0) == (2.0, 4.0)
        assert oblong.cell_to_pixel(3, 1) == (14.0, 12.0)
        assert oblong.pixel_to_cell(14.0, 12.0) == (3.0, 1.0)
        assert stage(Fraction(14, 4), Fraction(7, 4)).cell_to_pixel(2, 0) == (8.75, 1.75)

    @pytest.mark.parametrize("make", [np.array, torch.tensor])
    def test_arrays(self, make: Any) -> None:
        y, x = stage((4, 8), (2, 4)).cell_to_pixel(make([0.0, 1.0, 2.0]), make([0.0, 1.0, 2.0]))
        assert y.tolist() == [2.0, 6.0, 10.0]
        assert x.tolist() == [4.0, 12.0, 20.0]

    def test_an_unknown_position_is_no_guess(self) -> None:
        text = (
            "The position of the first cell of stage 's2' is not known (its padding may depend on the image size), so "
            "cells cannot be mapped to pixels exactly. Its stride is 4."
        )
        for call in (stage(4, index=2).cell_to_pixel, stage(4, index=2).pixel_to_cell):
            with pytest.raises(ValueError, match=re.escape(text)):
                call(0, 0)

    def test_plain_strides(self) -> None:
        assert plain_stride(pair(4)) == 4
        assert type(plain_stride(pair(4))) is int
        assert plain_stride(pair(Fraction(7, 2))) == Fraction(7, 2)
        assert plain_stride(pair((4, 8))) == (4, 8)
        assert pair(3.5) == (Fraction(7, 2), Fraction(7, 2))


class TestGrid:
    @pytest.mark.parametrize(
        "layers",
        [
            [(7, 2, 3), (3, 2, 1)],
            [(4, 4, 0), (2, 2, 0), (2, 2, 0)],
            [(3, 2, 1), (3, 1, 1), (5, 3, 0)],
            [((3, 5), (1, 2), (1, 2)), ((2, 4), (2, 4), 0)],
        ],
    )
    def test_against_the_pixels_a_convolution_sees(self, layers: list[Any]) -> None:
        grid, x = Grid(), torch.ones(1, 1, 160, 160, dtype=torch.float64, requires_grad=True)
        y: Any = x
        for kernel, stride, padding in layers:
            high, wide = map(int, pair(kernel))
            y = F.conv2d(
                y,
                torch.ones(1, 1, high, wide, dtype=torch.float64),
                stride=tuple(map(int, pair(stride))),
                padding=tuple(map(int, pair(padding))),
            )
            grid = grid.window(kernel, stride, padding)
        made = grid.stage("out", 3, 16)
        assert (made.name, made.index, made.channels) == ("out", 3, 16)
        cell = (y.shape[-2] // 2, y.shape[-1] // 2)
        y[0, 0, cell[0], cell[1]].backward()
        seen = [x.grad[0, 0].any(axis).nonzero() for axis in (1, 0)]
        centre = tuple(float(line[0] + line[-1] + 1) / 2 for line in seen)
        assert made.cell_to_pixel(*cell) == centre


class TestSelection:
    @pytest.mark.parametrize(
        ("features", "indices", "expected"),
        [
            (None, None, (["stage4"], [4])),
            (["stem", "stage3"], None, (["stem", "stage3"], [0, 3])),
            (("stem",), None, (["stem"], [0])),
            (None, [1, 2], (["stage1", "stage2"], [1, 2])),
            (None, (0, -1), (["stem", "stage4"], [0, -1])),
            (None, [-5, -4], (["stem", "stage1"], [-5, -4])),
            (["stage3", "stage4"], [-2, -1], (["stage3", "stage4"], [-2, -1])),
            (None, range(2), (["stem", "stage1"], [0, 1])),
            ([], None, ([], [])),
            (None, [], ([], [])),
        ],
    )
    def test_allowed(self, features: Any, indices: Any, expected: Any) -> None:
        assert select_stages(NAMES, features, indices) == expected

    @pytest.mark.parametrize(
        ("features", "indices", "text"),
        [
            ("stage1", None, "out_features='stage1' must be a list of stage names."),
            ({"stage1"}, None, "out_features={'stage1'} must be a list of stage names."),
            (
                ["stage1", "stag2"],
                None,
                "out_features=['stage1', 'stag2'] names 'stag2', which is no stage. Did you mean "
                "'stage2', 'stage4', 'stage3'?",
            ),
            (["stem", "stem"], None, "out_features=['stem', 'stem'] selects a stage twice."),
            (
                ["stage2", "stem"],
                None,
                "out_features=['stage2', 'stem'] is not in stage order; feature maps always come in stage order, so "
                "write out_features=['stem', 'stage2'].",
            ),
            (None, 3, "out_indices=3 must be a list or tuple of whole numbers."),
            (None, "12", "out_indices='12' must be a list or tuple of whole numbers."),
            (None, [5], "out_indices=[5] holds 5; allowed are -5 to 4."),
            (None, [-6], "out_indices=[-6] holds -6; allowed are -5 to 4."),
            (None, [1.0], "out_indices=[1.0] holds 1.0; allowed are -5 to 4."),
            (None, [True], "out_indices=[True] holds True; allowed are -5 to 4."),
            (None, [1, 1], "out_indices=[1, 1] selects a stage twice."),
            (None, [4, -1], "out_indices=[4, -1] selects a stage twice."),
            (
                None,
                [-1, 0],
                "out_indices=[-1, 0] is not in stage order; feature maps always come in stage order, so write "
                "out_indices=[0, -1].",
            ),
            (
                ["stem"],
                [1],
                "out_features=['stem'] and out_indices=[1] select different stages (the indices are ['stage1']); give "
                "only one of them.",
            ),
            (["stem"], [0, 1], "out_features=['stem'] and out_indices=[0, 1] select different stages"),
        ],
    )
    def test_refused(self, features: Any, indices: Any, text: str) -> None:
        with pytest.raises(ValueError, match="^" + re.escape(text)) as caught:
            select_stages(NAMES, features, indices)
        assert str(caught.value).endswith(EXISTS)


class TestStrides:
    STAGES = tuple(stage(stride, index=index) for index, stride in enumerate((4, 4, 8, (8, 16), Fraction(7, 2))))

    def test_the_deepest_of_each_stride(self) -> None:
        assert select_by_stride(self.STAGES, [4, 8]) == [1, 2]
        assert select_by_stride(self.STAGES, (8.0, (8, 16), 3.5)) == [2, 3, 4]
        assert select_by_stride(self.STAGES, []) == []

    def test_refused(self) -> None:
        exists = "The strides are s0: 4, s1: 4, s2: 8, s3: 8x16, s4: 7/2."
        with pytest.raises(
            ValueError, match=re.escape(f"out_strides asks for stride 16, which no stage has. {exists}")
        ):
            select_by_stride(self.STAGES, [4, 16])
        with pytest.raises(ValueError, match=re.escape("out_strides=[8, 4] is not in stage order")):
            select_by_stride(self.STAGES, [8, 4])
        with pytest.raises(ValueError, match=re.escape("out_strides=[4, 4] selects a stage twice.")):
            select_by_stride(self.STAGES, [4, 4.0])
