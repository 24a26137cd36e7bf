"""What is kept of a level, against loops, and where its cells lie."""

from fractions import Fraction

import pytest
import torch
from oracle import close, same

from vertebra.extraction.reduction import Reduction, level_to_json
from vertebra.stages import Stage

STAGE = Stage("stage2", 2, 6, (Fraction(8), Fraction(8)), (Fraction(4), Fraction(4)))
MAPS = torch.randn(2, 6, 5, 7, generator=torch.Generator().manual_seed(0))


def blocks(level: torch.Tensor, size: int, reduce: str) -> torch.Tensor:
    """Means or maxima of blocks of cells, one by one."""
    rows, columns = (-(-side // size) for side in level.shape[2:])
    out = torch.empty(*level.shape[:2], rows, columns)
    for i in range(rows):
        for j in range(columns):
            block = level[:, :, i * size : (i + 1) * size, j * size : (j + 1) * size].flatten(2)
            out[:, :, i, j] = getattr(block, reduce)(2)
    return out


def test_pools() -> None:
    close(Reduction("mean2")(MAPS), blocks(MAPS, 2, "mean"))
    same(Reduction("max3")(MAPS), blocks(MAPS, 3, "amax"))
    close(Reduction("mean")(MAPS), MAPS.flatten(2).mean(2)[..., None, None])
    same(Reduction("max")(MAPS), MAPS.flatten(2).amax(2)[..., None, None])


def test_strides_and_channels() -> None:
    same(Reduction(stride=3)(MAPS), MAPS[:, :, ::3, ::3])
    same(Reduction(channels="1:4")(MAPS), MAPS[:, 1:4])
    same(Reduction(channels="::2")(MAPS), MAPS[:, ::2])
    same(Reduction(channels="5,0")(MAPS), MAPS[:, [5, 0]])
    close(Reduction("mean2", 2, "0:2")(MAPS), blocks(MAPS[:, :2, ::2, ::2], 2, "mean"))
    assert Reduction()(MAPS) is MAPS


@pytest.mark.parametrize(
    "reduction", [Reduction("mean2"), Reduction("max4"), Reduction(stride=3), Reduction("mean2", 2)]
)
def test_cells_lie_at_the_middle_of_what_they_stand_for(reduction: Reduction) -> None:
    """A map that holds its own positions, reduced by means, holds the positions of the cells kept."""
    rows = torch.arange(12.0) * 8 + 4
    level = rows[:, None].expand(12, 12).expand(1, 6, 12, 12)
    kept = Reduction(reduction.pool and reduction.pool.replace("max", "mean"), reduction.stride)(level)
    stage = reduction.stage(STAGE)
    expected = [stage.cell_to_pixel(row, 0)[0] for row in range(kept.shape[2])]
    assert kept[0, 0, :, 0].tolist() == expected
    assert stage.channels == 6


def test_json() -> None:
    plain = {"name": "stage2", "index": 2, "channels": 6, "stride": [8, 8], "offset": [4, 4]}
    assert level_to_json(STAGE) == plain
    halved = {**plain, "channels": 2, "stride": [16, 16], "offset": [8, 8], "pool": "mean2", "channel_subset": "0:2"}
    assert level_to_json(STAGE, Reduction("mean2", channels="0:2")) == halved
    assert level_to_json(STAGE, Reduction("max")) == {**plain, "stride": None, "offset": None, "pool": "max"}


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"pool": "median"}, "pool='median' must be 'mean' or 'max' for one cell a map, 'mean2' or 'max4' for blocks"),
        ({"pool": "mean1"}, "pool='mean1' must be"),
        ({"stride": 0}, "stride=0 must be at least 1"),
        ({"channels": "a"}, "channels='a' must be a slice such as '0:64' or '::4', or numbers such as '0,5,9'"),
    ],
)
def test_bad_settings(settings: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Reduction(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("channels", ["6", "0,9", "6:"])
def test_channels_that_do_not_exist(channels: str) -> None:
    with pytest.raises(
        ValueError, match=f"channels='{channels}' does not fit stage 'stage2', which has the channels 0 to 5"
    ):
        Reduction(channels=channels).stage(STAGE)
