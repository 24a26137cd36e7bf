"""What is particular to Swin V2, against transformers 5."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from backbone_rows import ROWS, pixels, run
from oracle import close, save_with_transformers

from vertebra.backbones.swin_layers import SwinBlock
from vertebra.backbones.swinv2 import Swinv2Backbone, Swinv2Config, Swinv2Model

KWARGS = ROWS["swinv2"].kwargs


@pytest.mark.parametrize(
    ("size", "window"), [(256, 8), (256, 16), (192, 12), ([96, 64], 7), ([64, 96], 7), (100, 5)], ids=str
)
def test_windows_are_those_of_the_trained_size(size: Any, window: int) -> None:
    kwargs = {**KWARGS, "image_size": size, "window_size": window}
    with torch.device("meta"):
        theirs = transformers.Swinv2Model(transformers.Swinv2Config(**kwargs))
        ours = Swinv2Model(Swinv2Config(**kwargs))
    expected = [(block.window_size, block.shift_size) for stage in theirs.encoder.layers for block in stage.blocks]
    assert [(m.window, m.shift) for m in ours.modules() if isinstance(m, SwinBlock)] == expected


def test_absolute_positions(tmp_path: Path) -> None:
    """Files of transformers have a row of positions too many, with which it cannot run; without it, it can."""
    config = transformers.Swinv2Config(**{**KWARGS, "use_absolute_embeddings": True, "image_size": 48})
    theirs = save_with_transformers(transformers.Swinv2Model(config), tmp_path)
    with pytest.raises(RuntimeError, match="must match the size"):
        theirs(pixels((48, 48)))
    theirs.embeddings.position_embeddings.data = theirs.embeddings.position_embeddings.data[:, 1:]
    ours = Swinv2Model.from_pretrained(tmp_path)
    x = pixels((48, 48))
    close(run(ours, x).to_tuple(), run(theirs, x).to_tuple())
    assert run(ours, pixels((37, 51))).last_hidden_state.shape[1] == 3 * 4
    assert "embeddings.position_embeddings" in Swinv2Backbone.from_pretrained(tmp_path).state_dict()


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        (
            {"image_size": 12},
            "image_size=12 leaves no cell for the last of 3 stages, so it has no windows. The smallest is 16 x 16; images "
            "themselves may be smaller.",
        ),
        (
            {"pretrained_window_sizes": [4, 4]},
            "pretrained_window_sizes=[4, 4] must have one entry per stage, as depths=",
        ),
        ({"pretrained_window_sizes": [4, 1, 4]}, "windows of 1 have no steps; write 0 for a stage's own windows."),
    ],
)
def test_bad_configurations(kwargs: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        Swinv2Config(**{**KWARGS, **kwargs})


def test_more_stages_than_the_default_has_windows_for() -> None:
    config = Swinv2Config(embed_dim=8, depths=[1] * 5, num_heads=[1] * 5, window_size=2, image_size=64)
    assert run(Swinv2Backbone(config).eval(), pixels((64, 64))).feature_maps[0].shape == (2, 128, 1, 1)
    assert Swinv2Config(**{**KWARGS, "pretrained_window_sizes": None}).trained_window(2) == 0
