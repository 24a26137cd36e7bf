"""MaskFormer's transformer: queries that look at the coarsest map of the backbone, layer by layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vertebra.heads.attention import DetrDecoderLayer
from vertebra.heads.initial import Draw, starting
from vertebra.heads.padding import real_cells
from vertebra.heads.positions import SinePositions


class DetrDecoder(nn.Module):
    """DETR's decoder: layers, and a norm at the end.

    Args:
        width: Channels of queries.
        depth: How many layers.
        layerdrop: Probability with which a layer is left out while training, for the batch.
        norm_always: Whether the final norm also follows every layer.
        layer: Arguments of `DetrDecoderLayer`.
    """

    def __init__(self, width: int, depth: int, layerdrop: float, norm_always: bool, **layer: Any) -> None:
        super().__init__()
        self.layerdrop, self.norm_always = layerdrop, norm_always
        self.layers = nn.ModuleList(DetrDecoderLayer(width, **layer) for _ in range(depth))
        self.layernorm = nn.LayerNorm(width)

    def forward(
        self, x: Tensor, positions: Tensor, keys: Tensor, memory: Tensor, mask: Tensor | None, weights: bool
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Run the layers; arguments as in `DetrDecoderLayer`.

        Returns:
            The queries `(b, q, width)` before each layer and after all, the last normed; and each layer's attention weights on
            request.
        """
        states, attentions = [x], []
        for layer in self.layers:
            after, attention = layer(states[-1], positions, keys, memory, mask, weights)
            if self.norm_always:
                after = self.layernorm(after)
            if self.training and self.layerdrop:  # chosen by a tensor: one graph, and no parameter without a gradient
                after = torch.where(torch.rand((), device=x.device) < self.layerdrop, states[-1], after)
            states.append(after)
            if attention is not None:
                attentions.append(attention)
        states[-1] = self.layernorm(states[-1])
        return states, attentions


class MaskFormerTransformer(nn.Module):
    """Learned queries, positions of the map, a projection where its channels differ, and the decoder.

    Args:
        channels: Of the map.
        width: Channels of queries.
        queries: How many queries.
        projection: How the projection's weights start.
        embedding: How the queries start.
        layers: How the decoder's weights start.
        decoder: Arguments of `DetrDecoder`.
    """

    def __init__(
        self, channels: int, width: int, queries: int, projection: Draw, embedding: Draw, layers: Draw, **decoder: Any
    ) -> None:
        super().__init__()
        self.position_embedder = SinePositions(width)
        self.queries_embedder = starting(nn.Embedding(queries, width), embedding)
        self.input_projection = (
            None if channels == width else starting(nn.Conv2d(channels, width, kernel_size=1), projection)
        )
        self.decoder = starting(DetrDecoder(width, **decoder), layers)

    def forward(
        self, features: Tensor, pixel_mask: Tensor | None = None, weights: bool = False
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Decode.

        Args:
            features: `(b, channels, h, w)`.
            pixel_mask: `(b, height, width)` in pixels, 0 where the image is padded: there is nothing to attend to.
            weights: Also return attention weights.

        Returns:
            As `DetrDecoder`.
        """
        if self.input_projection is not None:
            features = self.input_projection(features)
        real = None if pixel_mask is None else real_cells(pixel_mask, features.shape[-2], features.shape[-1])
        where = self.position_embedder(features, real)
        memory = features.flatten(2).transpose(1, 2)
        keys = (features + where).flatten(2).transpose(1, 2)
        positions = self.queries_embedder.weight.unsqueeze(0)
        queries = torch.zeros_like(positions).expand(features.shape[0], -1, -1)
        mask = None if real is None else real.flatten(1)[:, None, None]  # (b, 1, 1, h * w)
        return self.decoder(queries, positions, keys, memory, mask, weights)
