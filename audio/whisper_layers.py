"""The layers of Whisper (Radford et al. 2022): norms first, then attention or a perceptron, each residual."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vertebra.activations import activation
from vertebra.audio.attention import MultiHeadAttention, Seen, extended
from vertebra.linear import Linear

HALF_LIMIT = torch.finfo(torch.float16).max - 1000


class Waves(nn.Embedding):
    """Positions as sines and cosines, which are stored and not trained."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__(count, width)
        self.requires_grad_(False)

    def reset_parameters(self) -> None:
        """Fill the table: wavelengths from one step to 10,000 times as long, sines first."""
        count, width = self.weight.shape
        scale = torch.exp(torch.arange(width // 2) * -(torch.log(torch.tensor(10000.0)) / (width // 2 - 1)))
        angle = torch.arange(count)[:, None] * scale
        with torch.no_grad():
            self.weight.copy_(torch.cat([angle.sin(), angle.cos()], dim=1))


class Perceptron(nn.Module):
    """What both kinds of layer end with; its parts stand in the layer itself, as files have them."""

    def __init__(self, width: int, hidden: int, act: str, dropout: float, inner_dropout: float) -> None:
        super().__init__()
        self.fc1 = Linear(width, hidden)
        self.activation = activation(act, "activation_function")
        self.fc2 = Linear(hidden, width)
        self.final_layer_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.inner_dropout = nn.Dropout(inner_dropout)

    def perceive(self, x: Tensor) -> Tensor:
        """`(b, n, width)` to the same, residual."""
        inner = self.inner_dropout(self.activation(self.fc1(self.final_layer_norm(x))))
        return x + self.dropout(self.fc2(inner))


class EncoderLayer(Perceptron):
    """Steps attend to each other, then pass a perceptron.

    Args:
        width: Channels.
        heads: Attention heads.
        hidden: Channels inside the perceptron.
        act: Its activation.
        dropout: Of each branch.
        attention_dropout: Of attention weights.
        inner_dropout: Inside the perceptron.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        act: str,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        inner_dropout: float = 0.0,
    ) -> None:
        super().__init__(width, hidden, act, dropout, inner_dropout)
        self.self_attn = MultiHeadAttention(width, heads, attention_dropout, key_bias=False)
        self.self_attn_layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, weights: bool = False) -> tuple[Tensor, Tensor | None]:
        """`(b, n, width)` to the same, and `(b, heads, n, n)` attention weights on request."""
        mixed, shares = self.self_attn(self.self_attn_layer_norm(x), weights=weights)
        x = self.perceive(x + self.dropout(mixed))
        if x.dtype == torch.float16:
            x = x.clamp(-HALF_LIMIT, HALF_LIMIT)
        return x, shares


class DecoderLayer(Perceptron):
    """Tokens attend to those before them, then to the encoder's states, then pass a perceptron; arguments as `EncoderLayer`."""

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        act: str,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        inner_dropout: float = 0.0,
    ) -> None:
        super().__init__(width, hidden, act, dropout, inner_dropout)
        self.self_attn = MultiHeadAttention(width, heads, attention_dropout, key_bias=False)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.encoder_attn = MultiHeadAttention(width, heads, attention_dropout, key_bias=False)
        self.encoder_attn_layer_norm = nn.LayerNorm(width)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None,
        mask: Tensor | None = None,
        past: Seen | None = None,
        weights: bool = False,
    ) -> tuple[Tensor, tuple[Tensor | None, Tensor | None], Seen]:
        """Run the layer.

        Args:
            x: `(b, n, width)`, the new tokens.
            memory: `(b, steps, width)`, the encoder's states; not looked at where `past` holds their keys.
            mask: Bool, broadcastable to `(b, heads, n, n so far)`, True where a token may attend to another.
            past: What the layer kept of the tokens before.
            weights: Also return the attention weights.

        Returns:
            `(b, n, width)`; on request the weights `(b, heads, n, n so far)` and `(b, heads, n, steps)`; what to keep.
        """
        heard = self.self_attn_layer_norm(x)
        keys, values = extended(past, *self.self_attn.keys_and_values(heard))
        mixed, own = self.self_attn(heard, (keys, values), mask, weights)
        x = x + self.dropout(mixed)
        known = self._known(memory, past)
        other = None
        if known is not None:
            mixed, other = self.encoder_attn(self.encoder_attn_layer_norm(x), known, weights=weights)
            x = x + self.dropout(mixed)
        return self.perceive(x), (own, other), Seen(keys, values, *(known or (None, None)))

    def _known(self, memory: Tensor | None, past: Seen | None) -> tuple[Tensor, Tensor] | None:
        if past is not None and past.memory_keys is not None and past.memory_values is not None:
            return past.memory_keys, past.memory_values
        return None if memory is None else self.encoder_attn.keys_and_values(memory)


class SpectrogramStem(nn.Module):
    """Two convolutions over a spectrogram, the second of which halves the steps; they stand in the encoder itself."""

    def __init__(self, bands: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(bands, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)

    def convolve(self, features: Tensor) -> Tensor:
        """`(b, bands, n)` to `(b, n / 2, width)`."""
        return F.gelu(self.conv2(F.gelu(self.conv1(features)))).transpose(1, 2)
