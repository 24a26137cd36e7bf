"""What is particular to Swin, against transformers 5."""

import copy
from pathlib import Path

import pytest
import torch
import transformers
from backbone_rows import ROWS, pixels
from oracle import close, save_with_transformers

from vertebra.backbones.swin import SwinConfig, SwinModel

KWARGS = ROWS["swin"].kwargs


@pytest.mark.parametrize("depths", [[2, 1, 2], [1, 3, 1]])
def test_drop_path_grows_as_in_transformers(depths: list[int]) -> None:
    kwargs = {**KWARGS, "depths": depths, "drop_path_rate": 0.4}
    theirs = transformers.SwinModel(transformers.SwinConfig(**kwargs))
    ours = SwinModel(SwinConfig(**kwargs))
    rates = [
        [getattr(module, "drop_prob", 0.0) for name, module in model.named_modules() if name.endswith("drop_path")]
        for model in (ours, theirs)
    ]
    assert len(rates[0]) == sum(depths)
    assert rates[0] == pytest.approx(rates[1], abs=1e-7)


def test_position_embeddings_are_resized(tmp_path: Path) -> None:
    config = transformers.SwinConfig(**KWARGS, use_absolute_embeddings=True)
    theirs = save_with_transformers(transformers.SwinModel(config), tmp_path)
    ours = SwinModel.from_pretrained(tmp_path)
    for size in ((48, 48), (36, 52), (64, 56)):  # whole patches: others transformers cannot resize to
        x = pixels(size)
        with torch.no_grad():
            expected = copy.deepcopy(theirs)(x, interpolate_pos_encoding=True)
            close(ours(x).to_tuple(), expected.to_tuple(), name=str(size))
