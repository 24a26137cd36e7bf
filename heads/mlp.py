"""The small perceptron that turns queries into embeddings of masks."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from vertebra.linear import Linear


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers from `widths[0]` to `widths[-1]` channels with a ReLU between, each under `<number>.0`."""
    last = len(widths) - 2
    return nn.Sequential(
        *(
            nn.Sequential(Linear(inputs, outputs), nn.ReLU() if number < last else nn.Identity())
            for number, (inputs, outputs) in enumerate(pairwise(widths))
        )
    )
