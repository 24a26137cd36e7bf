"""Mask2Former's transformer decoder: queries that look where their own masks are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vertebra.activations import activation
from vertebra.heads.attention import MultiHeadAttention
from vertebra.heads.initial import Draw, starting
from vertebra.heads.mask2former.config import LEVELS
from vertebra.heads.mask2former.pixel_decoder import Pixels
from vertebra.heads.mlp import mlp
from vertebra.heads.positions import SinePositions
from vertebra.linear import Linear


class MaskedAttention(nn.Module):
    """Attention whose queries each look at cells of their own; queries, keys and values are projected by one matrix's thirds.

    The names are those of `torch.nn.MultiheadAttention`, which would take the mask once more for every head.

    Args:
        width: Channels.
        heads: Attention heads.
        dropout: Probability with which an attention weight is dropped while training.
        start: How the matrices start.
    """

    def __init__(self, width: int, heads: int, dropout: float, start: Draw) -> None:
        super().__init__()
        self.heads, self.dropout, self.start = heads, dropout, start
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = starting(Linear(width, width), start)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the matrix of all three."""
        self.start(self.in_proj_weight)
        nn.init.zeros_(self.in_proj_bias)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor) -> Tensor:
        """Attend.

        Args:
            queries: `(b, q, width)`.
            keys: `(b, cells, width)`.
            values: `(b, cells, width)`.
            allowed: `(b, q, cells)` bool, True where a query looks; every query needs one.

        Returns:
            `(b, q, width)`.
        """
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, weight, bias).view(*x.shape[:2], self.heads, -1).transpose(1, 2)  # (b, heads, n, d)
            for x, weight, bias in zip((queries, keys, values), weights, biases, strict=True)
        )
        dropout = self.dropout if self.training else 0.0
        context = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed.unsqueeze(1), dropout_p=dropout)
        return self.out_proj(context.transpose(1, 2).flatten(2))


class MaskedAttentionLayer(nn.Module):
    """Queries look at cells within their masks, then at each other, then pass an MLP; each is residual.

    Args:
        width: Channels.
        heads: Attention heads.
        hidden: Channels inside the MLP.
        dropout: Of attention weights, of each branch, and inside the MLP.
        act: Name of the MLP's activation.
        pre_norm: Norm before each branch, instead of after it.
        start: How all matrices start.
    """

    def __init__(
        self, width: int, heads: int, hidden: int, dropout: float, act: str, pre_norm: bool, start: Draw
    ) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.self_attn = starting(MultiHeadAttention(width, heads, dropout), start)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.cross_attn = MaskedAttention(width, heads, dropout, start)
        self.cross_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = starting(Linear(width, hidden), start)
        self.act = activation(act)
        self.fc2 = starting(Linear(hidden, width), start)
        self.final_layer_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, positions: Tensor, keys: Tensor, values: Tensor, allowed: Tensor, weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Run the layer.

        Args:
            x: `(b, q, width)` queries.
            positions: `(1, q, width)`, added to queries wherever they ask or are asked.
            keys: `(b, cells, width)`.
            values: `(b, cells, width)`.
            allowed: `(b, q, cells)` bool, True where a query looks.
            weights: Also return the weights of the attention among queries.

        Returns:
            `(b, q, width)`, and `(b, heads, q, q)` on request.
        """
        attention = None

        def among_queries(x: Tensor) -> Tensor:
            nonlocal attention
            asking = x + positions
            mixed, attention = self.self_attn(asking, asking, x, weights=weights)
            return mixed

        x = self._add(x, self.cross_attn_layer_norm, lambda x: self.cross_attn(x + positions, keys, values, allowed))
        x = self._add(x, self.self_attn_layer_norm, among_queries)
        x = self._add(x, self.final_layer_norm, lambda x: self.fc2(self.dropout(self.act(self.fc1(x)))))
        return x, attention

    def _add(self, x: Tensor, norm: nn.Module, branch: Callable[[Tensor], Tensor]) -> Tensor:
        if self.pre_norm:
            return x + self.dropout(branch(norm(x)))
        return norm(x + self.dropout(branch(x)))


class MaskPredictor(nn.Module):
    """The MLP from queries to embeddings of masks: a mask's logits are their products with the embeddings of pixels."""

    def __init__(self, width: int, mask_width: int) -> None:
        super().__init__()
        self.mask_embedder = mlp(width, width, width, mask_width)

    def forward(self, queries: Tensor) -> Tensor:
        """`(b, q, width)` to `(b, q, mask_width)`."""
        return self.mask_embedder(queries)


class Level(NamedTuple):
    """What queries look at: `(b, cells, width)` keys and values, the embeddings of pixels `(b, mask_width, cells)`, and `(b, 1,
    cells)` bool, True where a cell belongs to the image, or None where all do.
    """

    keys: Tensor
    values: Tensor
    pixels: Tensor
    real: Tensor | None


class Decoded(NamedTuple):
    """Queries and embeddings of masks, before the first layer and after each.

    `states` are `(b, q, width)`, `normed` the same after the final norm, `embeddings` `(b, q, mask_width)`; `attentions` are `(b,
    heads, q, q)` of each layer, on request.
    """

    states: list[Tensor]
    normed: list[Tensor]
    embeddings: list[Tensor]
    attentions: list[Tensor]


class MaskedAttentionDecoder(nn.Module):
    """The layers, each at the next level, with a prediction before the first and after each.

    Args:
        width: Channels of queries.
        mask_width: Channels of the embeddings of masks.
        depth: How many layers.
        layerdrop: Probability with which a layer is skipped while training, for the batch.
        layer: Arguments of `MaskedAttentionLayer`.
    """

    def __init__(self, width: int, mask_width: int, depth: int, layerdrop: float, **layer: Any) -> None:
        super().__init__()
        self.layerdrop = layerdrop
        self.layers = nn.ModuleList(MaskedAttentionLayer(width, **layer) for _ in range(depth))
        self.layernorm = nn.LayerNorm(width)
        self.mask_predictor = MaskPredictor(width, mask_width)

    def forward(self, x: Tensor, positions: Tensor, levels: Sequence[Level], weights: bool = False) -> Decoded:
        """Run the layers.

        Args:
            x: `(b, q, width)` queries.
            positions: `(1, q, width)`.
            levels: What each layer looks at, in turn.
            weights: Also return attention weights.
        """
        normed = self.layernorm(x)
        decoded = Decoded([x], [normed], [self.mask_predictor(normed)], [])
        for number, layer in enumerate(self.layers):
            keys, values, pixels, real = levels[number % len(levels)]
            allowed = self._allowed(decoded.embeddings[-1], pixels, real)
            after, attention = layer(x, positions, keys, values, allowed, weights)
            if self.training and self.layerdrop:  # chosen by a tensor: one graph, and no parameter without a gradient
                after = torch.where(torch.rand((), device=x.device) < self.layerdrop, x, after)
            x, normed = after, self.layernorm(after)
            decoded.states.append(x)
            decoded.normed.append(normed)
            decoded.embeddings.append(self.mask_predictor(normed))
            if attention is not None:
                decoded.attentions.append(attention)
        return decoded

    @staticmethod
    def _allowed(embeddings: Tensor, pixels: Tensor, real: Tensor | None) -> Tensor:
        """The cells within each mask `(b, q, cells)`; all of the image where a mask is empty."""
        # not by `no_grad`, which torch.export makes a graph within the graph of, at each layer
        inside = embeddings.detach() @ pixels.detach() >= 0
        if real is None:
            return inside | ~inside.any(-1, keepdim=True)
        inside = inside & real
        return inside | real & ~inside.any(-1, keepdim=True)


class Mask2FormerTransformer(nn.Module):
    """Learned queries, the levels they look at, and the decoder.

    Args:
        channels: Of the pixel decoder's levels.
        width: Channels of queries.
        queries: How many queries.
        project: Whether levels are projected even where their channels fit.
        start: How projections and the decoder's matrices start.
        decoder: Arguments of `MaskedAttentionDecoder`.
    """

    def __init__(self, channels: int, width: int, queries: int, project: bool, start: Draw, **decoder: Any) -> None:
        super().__init__()
        self.position_embedder = SinePositions(width)
        self.queries_embedder = nn.Embedding(queries, width)
        self.queries_features = nn.Embedding(queries, width)
        self.input_projections = nn.ModuleList(
            starting(nn.Conv2d(channels, width, 1), start) if project or channels != width else nn.Identity()
            for _ in range(LEVELS)
        )
        self.decoder = MaskedAttentionDecoder(width, start=start, **decoder)
        self.level_embed = nn.Embedding(LEVELS, width)
        depth = len(self.decoder.layers)
        for unused in (*self.input_projections[depth:], *(() if depth else (self.queries_embedder, self.level_embed))):
            unused.requires_grad_(False)  # files have it, and no layer gets as far: it would never have a gradient

    def forward(self, pixels: Pixels, real: Sequence[Tensor] | None = None, weights: bool = False) -> Decoded:
        """Decode.

        Args:
            pixels: What the pixel decoder gives.
            real: For each of its levels `(b, h, w)`, True where a cell belongs to the image.
            weights: Also return attention weights.
        """
        # shrinking copies to this format, for each level anew
        embeddings = pixels.masks.detach().contiguous(memory_format=torch.channels_last)
        levels = []
        looked_at = pixels.levels[: len(self.decoder.layers)]
        for index, (x, project) in enumerate(zip(looked_at, self.input_projections, strict=False)):
            belongs = None if real is None else real[index]
            positions = self.position_embedder(x, belongs).flatten(2).transpose(1, 2)
            values = project(x).flatten(2).transpose(1, 2) + self.level_embed.weight[index]
            # a product is linear, so that masks at the level's cells are products with the map shrunk to the level
            near = F.interpolate(embeddings, size=x.shape[-2:], mode="bilinear", align_corners=False)
            levels.append(
                Level(
                    values + positions,
                    values,
                    near.flatten(2),
                    None if belongs is None else belongs.flatten(1)[:, None],
                )
            )
        queries = self.queries_features.weight.expand(pixels.masks.shape[0], -1, -1)
        return self.decoder(queries, self.queries_embedder.weight.unsqueeze(0), levels, weights)
