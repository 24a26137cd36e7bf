"""Where checkpoints of models of queries keep what looks at pixels."""

from __future__ import annotations

from torch import nn

from vertebra.backbones.base import Backbone


class PixelLevelModule(nn.Module):
    """The backbone and the pixel decoder, under the names of checkpoints: `encoder` and `decoder`."""

    def __init__(self, encoder: Backbone, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
