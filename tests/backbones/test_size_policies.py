"""Size policies of native backbones."""

import math
import re
from typing import Any

import pytest
import torch
from backbone_rows import Row, pair, pixels, run
from oracle import close
from torch import Tensor


class TestSizes:
    @pytest.mark.parametrize(("size", "last"), [((37, 51), -1), ((37, 51), -2), ((5, 90), -1)], ids=str)
    def test_pad(self, row: Row, size: tuple[int, int], last: int) -> None:
        chosen = [-3, last]
        model, plain = row.build(out_indices=chosen, size_policy="pad"), row.build(out_indices=chosen)
        divisor = plain.size_divisor
        x = pixels(size)
        padded = torch.zeros(2, 3, *(math.ceil(side / divisor) * divisor for side in size))
        padded[:, :, : size[0], : size[1]] = x
        expected = run(plain, padded, output_hidden_states=True)
        actual = run(model, x, output_hidden_states=True)

        def covering(maps: Any, indices: Any) -> list[Tensor]:
            cells = [[math.ceil(s / hop) for s, hop in zip(size, pair(row.stages[i][2]), strict=True)] for i in indices]
            return [m[:, :, :high, :wide] for m, (high, wide) in zip(maps, cells, strict=True)]

        close(actual.feature_maps, covering(expected.feature_maps, plain.selected), tol=1e-6)
        states = expected.hidden_states
        if row.tokens is None:
            states = covering(states, range(plain.last_stage + 1))
        close(actual.hidden_states, states, tol=1e-6)
        assert [tuple(m.shape[1:]) for m in actual.feature_maps] == list(model.output_shapes(*size).values())

    def test_floor(self, row: Row) -> None:
        model, plain = row.build(size_policy="floor"), row.build()
        divisor = plain.size_divisor
        x = pixels((3 * divisor - 1, 2 * divisor + 3))
        close(run(model, x).feature_maps, run(plain, x[:, :, : 2 * divisor, : 2 * divisor]).feature_maps, tol=1e-6)
        assert model.output_shapes(*x.shape[-2:]) == plain.output_shapes(2 * divisor, 2 * divisor)
        small = (divisor - 1, 4 * divisor)
        assert not model.accepts(*small)
        text = (
            f"An image of {small[0]}x{small[1]} is smaller than one cell of the last stage, and size_policy='floor' "
            f"would leave nothing of it. The smallest size is {divisor}x{divisor}; size_policy='pad' takes any."
        )
        for call in (lambda: model.output_shapes(*small), lambda: model(pixels(small))):
            with pytest.raises(ValueError, match=re.escape(text)):
                call()

    def test_unknown_policy(self, row: Row) -> None:
        with pytest.raises(ValueError, match=r"^size_policy='crop' must be one of floor, pad, or None\.$"):
            row.config(size_policy="crop")
