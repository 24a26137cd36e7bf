"""What stands before and after the encoder of Wav2Vec2: convolutions over samples, and convolutions that shorten sequences."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from vertebra.activations import activation
from vertebra.linear import Linear

PADDING = 1
"""Steps of nothing on each side of what the adapter's convolutions see."""


class ConvLayer(nn.Module):
    """A convolution over time, normed over time (`"group"`), over channels (`"layer"`) or not at all, and an activation."""

    def __init__(self, inside: int, out: int, kernel: int, stride: int, bias: bool, norm: str | None, act: str) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inside, out, kernel, stride, bias=bias)
        self.over_channels = norm == "layer"
        if norm is not None:
            self.layer_norm = nn.LayerNorm(out) if norm == "layer" else nn.GroupNorm(out, out)
        self.activation = activation(act, "feat_extract_activation")

    def forward(self, x: Tensor) -> Tensor:
        """`(b, inside, n)` to `(b, out, (n - kernel) // stride + 1)`."""
        x = self.conv(x)
        if self.over_channels:
            x = self.layer_norm(x.transpose(1, 2)).transpose(1, 2)
        elif hasattr(self, "layer_norm"):
            x = self.layer_norm(x)
        return self.activation(x)


class FeatureEncoder(nn.Module):
    """Samples to features.

    Args:
        widths: Channels of each convolution.
        kernels: Their kernels.
        strides: Their strides.
        bias: Whether they have biases.
        norm: `"group"` norms the first, `"layer"` all of them.
        act: Name of their activation.
    """

    def __init__(
        self, widths: Sequence[int], kernels: Sequence[int], strides: Sequence[int], bias: bool, norm: str, act: str
    ) -> None:
        super().__init__()
        shapes = zip([1, *widths], widths, kernels, strides, strict=False)
        self.conv_layers = nn.ModuleList(
            ConvLayer(*shape, bias, norm if norm == "layer" or not index else None, act)
            for index, shape in enumerate(shapes)
        )

    def forward(self, samples: Tensor) -> Tensor:
        """`(b, n)` samples to `(b, width, steps)` features."""
        x = samples[:, None]
        for layer in self.conv_layers:
            x = layer(x)
        return x


class FeatureProjection(nn.Module):
    """Norms features and brings them to the encoder's channels."""

    def __init__(self, inside: int, out: int, eps: float, dropout: float) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(inside, eps=eps)
        self.projection = Linear(inside, out)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """`(b, steps, inside)` to `(b, steps, out)`, and the normed features."""
        normed = self.layer_norm(features)
        return self.dropout(self.projection(normed)), normed


class Adapter(nn.Module):
    """Convolutions that shorten the sequence after the encoder.

    Args:
        inside: Channels that come.
        out: Channels that go.
        depth: How many convolutions.
        kernel: Their kernels.
        stride: Their strides.
    """

    def __init__(self, inside: int, out: int, depth: int, kernel: int, stride: int) -> None:
        super().__init__()
        if inside != out:
            self.proj = Linear(inside, out)
            self.proj_layer_norm = nn.LayerNorm(out)
        self.layers = nn.ModuleList(GatedConv(out, kernel, stride) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """`(b, n, inside)` to `(b, fewer, out)`."""
        if hasattr(self, "proj"):
            x = self.proj_layer_norm(self.proj(x))
        x = x.transpose(1, 2)
        for layer in self.layers:  # layerdrop would change the number of steps
            x = layer(x)
        return x.transpose(1, 2)


class GatedConv(nn.Module):
    """A convolution half of whose channels are the gates of the others."""

    def __init__(self, width: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, 2 * width, kernel, stride, padding=PADDING)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, width, n)` to `(b, width, fewer)`."""
        return F.glu(self.conv(x), dim=1)
