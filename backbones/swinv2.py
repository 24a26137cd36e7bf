"""Swin V2 (Liu et al. 2022): checkpoints of the `microsoft/swinv2-*` kind."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vertebra.backbones.patches import two
from vertebra.backbones.swin import SwinBackbone, SwinConfig, SwinForImageClassification, SwinModel, SwinWeights
from vertebra.backbones.swin_layers import SwinEmbeddings, WindowSelfAttention
from vertebra.backbones.windows import MASKED, log_spaced_steps, relative_index
from vertebra.linear import Linear

HIDDEN = 512
"""Channels inside the perceptron that turns a step between two cells into a bias."""
STRONGEST = math.log(100.0)
"""Upper bound of the learned logarithm by which cosines are scaled."""
LARGEST_BIAS = 16.0


class Swinv2Config(SwinConfig):
    """Configuration of a Swin V2; the defaults are Swin V2-T with windows of 7.

    Args:
        image_size: Size the checkpoint was trained at. Windows are never larger than the maps of such an image, whatever
            the size of the images that come, and a stage whose windows are as large does not shift them.
        pretrained_window_sizes: Side of the windows that each stage was first trained with, where that was another; else 0.

    The others are those of `SwinConfig`.

    Raises:
        ValueError: as there; an `image_size` whose last map has no cell; `pretrained_window_sizes` that are too few, or 1.
    """

    model_type = "swinv2"

    pretrained_window_sizes: Sequence[int] = (0, 0, 0, 0)

    def windows(self, layer: int) -> tuple[int, int]:
        """Side of the windows of stage `layer + 1` and by how much every second block shifts them, in cells."""
        rows = self.grid[0] // 2**layer
        return min(rows, self.window_size), self.window_size // 2 if rows > self.window_size else 0

    def trained_window(self, layer: int) -> int:
        """Side of the windows that stage `layer + 1` was first trained with; 0 for the same as now."""
        sizes = self.pretrained_window_sizes or ()
        return two(sizes[layer])[0] if layer < len(sizes) else 0

    def validate(self) -> None:
        """Check that every stage has windows. Raises ValueError."""
        super().validate()
        sizes = self.pretrained_window_sizes or ()
        if any(sizes) and len(sizes) < len(self.depths):
            raise ValueError(
                f"pretrained_window_sizes={sizes} must have one entry per stage, as depths={self.depths} has; 0 for a stage that "
                f"was always trained with its own windows."
            )
        if 1 in map(self.trained_window, range(len(self.depths))):
            raise ValueError(
                f"pretrained_window_sizes={sizes}: windows of 1 have no steps; write 0 for a stage's own windows."
            )
        if min(self.grid) >> (len(self.depths) - 1) == 0:
            needed = " x ".join(str(side * 2 ** (len(self.depths) - 1)) for side in self.patch)
            raise ValueError(
                f"image_size={self.image_size} leaves no cell for the last of {len(self.depths)} stages, so it has no windows. The "
                f"smallest is {needed}; images themselves may be smaller."
            )


class Swinv2SelfAttention(WindowSelfAttention):
    """Attention by scaled cosines inside windows; how much scores are raised is computed from the steps between cells.

    Args:
        width: Channels.
        heads: How many heads share them.
        window: Side of a window in cells.
        trained: Side of the windows that weights were first trained with; 0 for the same.
        qkv_bias: Whether queries and values have a bias; keys have none.
        dropout: On attention weights.
    """

    def __init__(self, width: int, heads: int, window: int, trained: int, qkv_bias: bool, dropout: float) -> None:
        super().__init__(width, heads, window, qkv_bias, False, dropout)
        self.trained = trained
        self.logit_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10.0)))
        self.continuous_position_bias_mlp = nn.Sequential(
            Linear(2, HIDDEN), nn.ReLU(), Linear(HIDDEN, heads, bias=False)
        )

    def reset_parameters(self) -> None:
        """Cosines start out scaled by 10."""
        nn.init.constant_(self.logit_scale, math.log(10.0))

    def bias(self) -> Tensor:
        """`(heads, n, n)`: what is added to the scores between the n cells of a window, 0 to 16."""
        device, cells = self.logit_scale.device, self.window**2
        steps = self.tables.get(("steps", device), lambda: log_spaced_steps(self.window, self.trained, device))
        index = self.tables.get(("index", device), lambda: relative_index(self.window, device))
        table = self.continuous_position_bias_mlp(steps.to(self.logit_scale.dtype)).sigmoid() * LARGEST_BIAS
        return table[index].view(cells, cells, self.heads).permute(2, 0, 1)

    def meet(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, float | None]:
        """Queries and keys `(b, heads, n, d)` of length 1, queries scaled by what each head has learned."""
        scale = self.logit_scale.clamp(max=STRONGEST).exp()
        return F.normalize(query, dim=-1) * scale, F.normalize(key, dim=-1), 1.0


class Swinv2Weights(SwinWeights):
    """What all Swin V2 classes share: weights, and of what they are built."""

    config_class = Swinv2Config
    base_model_prefix = "swinv2"
    config: Swinv2Config
    post_norm = True
    masked = 2 * MASKED

    def make_embeddings(self) -> SwinEmbeddings:
        """The stem; in files its position embeddings have a row before those of patches."""
        config = self.config
        return SwinEmbeddings(
            config.num_channels,
            config.embed_dim,
            config.patch,
            config.grid if config.use_absolute_embeddings else None,
            extra=1,
            dropout=config.hidden_dropout_prob,
        )

    def make_attention(self, layer: int) -> WindowSelfAttention:
        """The attention of a block of stage `layer + 1`."""
        config = self.config
        window, _ = config.windows(layer)
        return Swinv2SelfAttention(
            config.width(layer),
            config.num_heads[layer],
            window,
            config.trained_window(layer),
            config.qkv_bias,
            config.attention_probs_dropout_prob,
        )


class Swinv2Backbone(Swinv2Weights, SwinBackbone):
    """Swin V2 as a backbone: stages `stem` and `stage1` (stride 4), `stage2` (8), … . Maps are taken before merging."""

    config: Swinv2Config
    norms_maps = False
    explained_missing = {}


class Swinv2Model(Swinv2Weights, SwinModel):
    """Swin V2 without a head."""

    config: Swinv2Config
    always_shift = True


class Swinv2ForImageClassification(Swinv2Weights, SwinForImageClassification):
    """Swin V2 with a linear classifier on the mean token."""

    config: Swinv2Config
    base_class = Swinv2Model
