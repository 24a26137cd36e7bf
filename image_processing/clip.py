"""CLIP's processor, which is that of BiT under another name."""

from __future__ import annotations

from typing import Any

from vertebra.image_processing.bit import BitImageProcessor
from vertebra.image_processing.settings import read_setting


class CLIPImageProcessor(BitImageProcessor):
    """Convert to RGB, scale the shortest edge to 224 pixels (bicubic), cut out the central 224 x 224, normalise.

    `use_square_size=True`, as the files of KOSMOS-2 have it, stretches to a square of that edge instead; it is stored as the size
    that it makes. CLIP: https://arxiv.org/abs/2103.00020; checkpoints such as openai/clip-vit-base-patch32.
    """

    def __init__(self, *, use_square_size: bool | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        if read_setting("use_square_size", use_square_size) and "shortest_edge" in self.size:
            self.size = dict.fromkeys(("height", "width"), self.size["shortest_edge"])
