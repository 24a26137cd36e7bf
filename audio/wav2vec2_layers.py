"""The encoder of Wav2Vec2 (Baevski et al. 2020): a convolution that tells positions, and layers of attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vertebra.activations import activation
from vertebra.audio.attention import MultiHeadAttention
from vertebra.audio.layerdrop import run_layers
from vertebra.linear import Linear
from vertebra.outputs import Tensors


class Magnitudes(nn.Module):
    """A kernel as directions and, for each tap, a length (Salimans and Kingma 2016)."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.original0 = nn.Parameter(torch.empty(1, 1, shape[2]))
        self.original1 = nn.Parameter(torch.empty(shape))

    def reset_parameters(self) -> None:
        """Draw normal directions, and take their lengths as they are."""
        width, _, taps = self.original1.shape
        nn.init.normal_(self.original1, std=2 * (1 / (taps * width)) ** 0.5)
        with torch.no_grad():
            self.original0.copy_(self.original1.norm(dim=(0, 1), keepdim=True))

    def forward(self) -> Tensor:
        """The kernel."""
        return self.original1 * (self.original0 / self.original1.norm(dim=(0, 1), keepdim=True))


class NormedConv(nn.Module):
    """A convolution in groups with such a kernel, under the names that torch's parametrization gives."""

    def __init__(self, width: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.groups, self.padding = groups, kernel // 2
        self.bias = nn.Parameter(torch.empty(width))
        self.parametrizations = nn.ModuleDict({"weight": Magnitudes((width, width // groups, kernel))})

    def reset_parameters(self) -> None:
        """Start without bias."""
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, width, n)` to the same, one step longer where the kernel is even."""
        return F.conv1d(x, self.parametrizations["weight"](), self.bias, padding=self.padding, groups=self.groups)


class PositionalConv(nn.Module):
    """What a state's neighbourhood says of its position."""

    def __init__(self, width: int, kernel: int, groups: int, act: str) -> None:
        super().__init__()
        self.conv = NormedConv(width, kernel, groups)
        self.activation = activation(act, "feat_extract_activation")

    def forward(self, x: Tensor) -> Tensor:
        """`(b, n, width)` to the same."""
        return self.activation(self.conv(x.transpose(1, 2))[..., : x.shape[1]]).transpose(1, 2)


class FeedForward(nn.Module):
    """A perceptron with one inner layer."""

    def __init__(self, width: int, hidden: int, act: str, inner_dropout: float, dropout: float) -> None:
        super().__init__()
        self.intermediate_dense = Linear(width, hidden)
        self.activation = activation(act)
        self.intermediate_dropout = nn.Dropout(inner_dropout)
        self.output_dense = Linear(hidden, width)
        self.output_dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, n, width)` to the same."""
        inner = self.intermediate_dropout(self.activation(self.intermediate_dense(x)))
        return self.output_dropout(self.output_dense(inner))


class AttentionAdapter(nn.Module):
    """A small perceptron that is trained in place of a whole model (Houlsby et al. 2019)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear_1 = Linear(width, hidden)
        self.linear_2 = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, n, width)` to the same."""
        return self.linear_2(F.relu(self.linear_1(self.norm(x))))


class EncoderLayer(nn.Module):
    """Attention and a perceptron, each residual, with the norm before (`stable`) or after it.

    Args:
        width: Channels.
        heads: Attention heads.
        hidden: Channels inside the perceptron.
        act: Its activation.
        stable: Whether norms come first.
        dropout: Of each branch.
        attention_dropout: Of attention weights.
        inner_dropout: Inside the perceptron.
        eps: Of the norms.
        adapter: Channels inside an adapter, or None.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        act: str,
        stable: bool,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        inner_dropout: float = 0.0,
        eps: float = 1e-5,
        adapter: int | None = None,
    ) -> None:
        super().__init__()
        self.stable = stable
        self.attention = MultiHeadAttention(width, heads, attention_dropout)
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(width, eps=eps)
        self.feed_forward = FeedForward(width, hidden, act, inner_dropout, dropout)
        self.final_layer_norm = nn.LayerNorm(width, eps=eps)
        self.adapter_layer = AttentionAdapter(width, adapter) if adapter is not None and stable else None

    def forward(self, x: Tensor, mask: Tensor | None = None, weights: bool = False) -> tuple[Tensor, Tensor | None]:
        """Run the layer.

        Args:
            x: `(b, n, width)`.
            mask: Bool, broadcastable to `(b, heads, n, n)`, True where a step may attend to another.
            weights: Also return the attention weights.

        Returns:
            `(b, n, width)`, and `(b, heads, n, n)` on request.
        """
        heard = self.layer_norm(x) if self.stable else x
        mixed, attention = self.attention(heard, mask=mask, weights=weights)
        x = x + self.dropout(mixed)
        if not self.stable:
            x = self.layer_norm(x)
            return self.final_layer_norm(x + self.feed_forward(x)), attention
        x = x + self.feed_forward(self.final_layer_norm(x))
        return (x if self.adapter_layer is None else x + self.adapter_layer(x)), attention


class Encoder(nn.Module):
    """Positions, then layers.

    Args:
        layers: The layers.
        positions: What tells positions.
        width: Channels.
        eps: Of the norm.
        dropout: Of the states that the first layer gets.
        layerdrop: Probability with which a layer is left out while training, for the batch.
        stable: Whether the norm is at the end, instead of at the beginning.
        keep_normed: Whether the last of the kept states of a stable encoder has passed that norm.
    """

    def __init__(
        self,
        layers: Sequence[EncoderLayer],
        positions: PositionalConv,
        width: int,
        eps: float,
        dropout: float,
        layerdrop: float,
        stable: bool,
        keep_normed: bool,
    ) -> None:
        super().__init__()
        self.stable, self.layerdrop, self.keep_normed = stable, layerdrop, keep_normed
        self.pos_conv_embed = positions
        self.layer_norm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(layers)

    def forward(
        self, x: Tensor, real: Tensor | None, keep_states: bool, weights: bool
    ) -> tuple[Tensor, Tensors | None, Tensors | None]:
        """Run all of it.

        Args:
            x: `(b, n, width)`.
            real: Bool `(b, n)`, True at steps that are not padding; None where all are.
            keep_states: Whether to return all states.
            weights: Whether to return attention weights.

        Returns:
            The last state; all states, from the first layer's input on, on request; attention weights on request.
        """
        mask = None if real is None else real[:, None, None]
        x = x if real is None else x * real[..., None]
        x = x + self.pos_conv_embed(x)
        x = self.dropout(x if self.stable else self.layer_norm(x))
        x, states, attentions = run_layers(
            self.layers, x, self.layerdrop if self.training else 0.0, keep_states, weights, mask=mask
        )
        if self.stable:
            x = self.layer_norm(x)
            states = (*states[:-1], x) if states and self.keep_normed else states
        return x, states, attentions
