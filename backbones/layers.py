"""Layers that several families share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vertebra.activations import activation
from vertebra.linear import Linear, feed_forward, runs_plainly


class DropPath(nn.Module):
    """Drop whole samples of a residual branch while training (stochastic depth, Huang et al. 2016).

    Args:
        drop_prob: Probability that a sample is dropped; what stays is scaled up to keep the mean.
    """

    def __init__(self, drop_prob: float = 0.0) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, in training with some samples of the batch set to zero."""
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep = 1.0 - self.drop_prob
        shape = (x.shape[0], *(1 for _ in x.shape[1:]))
        return x * x.new_empty(shape).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        """Show the probability."""
        return f"drop_prob={self.drop_prob}"


class ChannelNorm(nn.LayerNorm):
    """A layer norm over the channels of maps `(b, c, h, w)`."""

    def forward(self, x: Tensor) -> Tensor:
        """`(b, c, h, w)` to the same, in the memory format channels-last."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ResponseNorm(nn.Module):
    """Global response norm (Woo et al. 2023): every channel is scaled by how strong it is on the whole map, next to the others.

    Args:
        width: Channels.
        eps: Added to the mean strength.
    """

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 1, 1, width))
        self.bias = nn.Parameter(torch.zeros(1, 1, 1, width))
        self.eps = eps

    def reset_parameters(self) -> None:
        """Start as the identity."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, h, w, c)` to the same."""
        relative = self._relative(torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True))
        return x + self.weight * (x * relative) + self.bias

    def over(self, x: Tensor) -> Tensor:
        """The same, written over `x`, of which nobody may want a gradient."""
        strength = x.square().sum(dim=(1, 2), keepdim=True).sqrt_()
        return torch.addcmul(self.bias, x, 1 + self.weight * self._relative(strength), out=x)

    def _relative(self, strength: Tensor) -> Tensor:
        return strength / (strength.mean(dim=-1, keepdim=True) + self.eps)


class Mlp(nn.Module):
    """Two linear layers with an activation between, under the names `fc1` and `fc2`.

    Args:
        width: Channels of input and output.
        hidden: Channels between.
        act: Name of the activation.
        dropout: After each of the layers.
    """

    def __init__(self, width: int, hidden: int, act: str, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = Linear(width, hidden)
        self.act = activation(act)
        self.fc2 = Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """`(…, c)` to the same."""
        return self.dropout(feed_forward(x, self.fc1, self.act, self.fc2, self.dropout))


def add(x: Tensor, y: Tensor, scale: Tensor | None = None, into: bool = False) -> Tensor:
    """A residual branch and what went around it: `x + y * scale`.

    Args:
        x: What went around.
        y: What the branch gave, of the same shape.
        scale: Factors that fit the last axes; none when None.
        into: Whether nobody else needs `x`, so that the sum may be written over it where nobody differentiates it.
    """
    if not runs_plainly(x, y, scale):
        return x + (y if scale is None else y * scale)
    if into:
        return x.add_(y) if scale is None else x.addcmul_(y, scale)
    return x + y if scale is None else torch.addcmul(x, y, scale)


class Tables:
    """Tensors that depend only on sizes (masks, index tables, position grids): computed once per key and kept.

    While a graph is captured they are computed as part of it, since a look-up would break the graph.

    Args:
        limit: How many are kept; the one unused for longest goes first.
    """

    def __init__(self, limit: int = 64) -> None:
        self.limit = limit
        self._kept: OrderedDict[Hashable, Tensor] = OrderedDict()

    def get(self, key: Hashable, compute: Callable[[], Tensor]) -> Tensor:
        """Return the table called `key`, computing it when it is not kept."""
        if torch.compiler.is_compiling():
            return compute()
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        with torch.inference_mode(False), torch.no_grad():
            table = compute()
        if type(table) is Tensor:  # not a fake or functional tensor, which must not outlive its trace
            self._kept[key] = table
            if len(self._kept) > self.limit:
                self._kept.popitem(last=False)
        return table

    def __deepcopy__(self, memo: Any) -> Tables:
        return Tables(self.limit)

    def __reduce__(self) -> Any:
        return Tables, (self.limit,)


def one_size(x: Tensor) -> Tensor:
    """Return `x` `(b, c, h, w)`; a compiled graph from here on serves one height and width, with any batch.

    Windows, and padding to a size policy, cut every size differently: a graph of symbolic sizes is mostly conditions, takes
    minutes to compile, and holds for few other sizes.
    """
    if torch.compiler.is_dynamo_compiling():
        torch._dynamo.mark_static(x, 2)
        torch._dynamo.mark_static(x, 3)
    return x


def start_normal(module: nn.Module, std: float) -> None:
    """Draw the weights of a linear layer or convolution from a normal distribution, with a bias of zero; leave others alone."""
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.normal_(module.weight, std=std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def run_stages(stages: Iterable[nn.Module], x: Tensor) -> list[Tensor]:
    """Run stages one after the other; returns `x` and what each of them gives."""
    states = [x]
    for stage in stages:
        states.append(stage(states[-1]))
    return states


def drop_path_rates(rate: float, depths: list[int]) -> list[list[float]]:
    """Spread a drop path rate linearly from 0 at the first block to `rate` at the last; one list per stage."""
    total = sum(depths)
    rates = iter([rate * index / max(total - 1, 1) for index in range(total)])
    return [[next(rates) for _ in range(depth)] for depth in depths]


def pad_to_multiple(x: Tensor, multiple: tuple[int, int]) -> Tensor:
    """Zero-pad `(b, h, w, c)` at the bottom and right to multiples of `multiple`; returns `x` itself when it fits."""
    down, right = -x.shape[1] % multiple[0], -x.shape[2] % multiple[1]
    return F.pad(x, (0, 0, 0, right, 0, down)) if down or right else x
