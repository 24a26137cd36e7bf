"""Parts of a model of speakers (x-vectors, Snyder et al. 2018): layers over time, statistics of a clip, and the loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vertebra.linear import Linear
from vertebra.losses import at_hand, check_range


class TimeDelay(nn.Module):
    """A convolution with holes over time, whose kernel is stored as that of a linear layer over the steps it sees."""

    def __init__(self, inside: int, out: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.taps, self.dilation = kernel, dilation
        self.kernel = Linear(inside * kernel, out)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, n, inside)` to `(b, n - dilation * (kernel - 1), out)`."""
        weight = self.kernel.weight.view(self.kernel.out_features, self.taps, -1).transpose(1, 2)
        return F.conv1d(x.transpose(1, 2), weight, self.kernel.bias, dilation=self.dilation).relu().transpose(1, 2)


def statistics(x: Tensor, lengths: Tensor) -> Tensor:
    """Mean and deviation of the first `lengths` `(b,)` steps, at least 2, of `(b, n, width)`, as `(b, 2 * width)`."""
    mean = means(x, lengths)
    spread = means((x - mean[:, None]) ** 2, lengths) * (lengths / (lengths - 1))[:, None]
    spread = spread.clamp(min=torch.finfo(x.dtype).tiny).sqrt()  # a root's slope at 0 is infinite
    return torch.cat([mean, spread], dim=-1)


def means(x: Tensor, lengths: Tensor) -> Tensor:
    """The mean of the first `lengths` `(b,)` steps of `(b, n, width)`, as `(b, width)`."""
    real = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
    return (x * real[..., None]).sum(1) / lengths[:, None]


def check_steps(steps: int, lengths: Tensor, kernels: Sequence[int], dilations: Sequence[int]) -> None:
    """Refuse clips that leave nothing to take a deviation of.

    Args:
        steps: Steps of the states.
        lengths: `(b,)` steps of each clip that are not padding.
        kernels: Of the layers over time.
        dilations: Theirs.

    Raises:
        ValueError: says how many steps are needed.
    """
    least = 2 + sum(dilation * (kernel - 1) for kernel, dilation in zip(kernels, dilations, strict=True))
    if steps < least:
        raise ValueError(f"The clips make {steps} steps, and a vector needs {least}; pass longer clips.")
    least = 2 + sum(kernels) - len(kernels)
    if at_hand(lengths) and (short := (lengths < least).nonzero().flatten().tolist()):
        raise ValueError(
            f"Clip {short[0]} makes {int(lengths[short[0]])} steps that are not padding, and a vector needs {least}; leave it "
            f"out, or pass a longer one."
        )


class MarginLoss(nn.Module):
    """Softmax over cosines, that of the right speaker less a margin (Wang et al. 2018).

    Args:
        width: Length of a speaker's vector.
        speakers: How many speakers there are.
        scale: What cosines are multiplied with.
        margin: What is taken from the right one.
    """

    def __init__(self, width: int, speakers: int, scale: float = 30.0, margin: float = 0.4) -> None:
        super().__init__()
        self.scale, self.margin = scale, margin
        self.weight = nn.Parameter(torch.empty(width, speakers))

    def reset_parameters(self) -> None:
        """Draw a vector for each speaker."""
        nn.init.normal_(self.weight)

    def forward(self, vectors: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of `(b, width)` vectors whose speakers are `labels` `(b,)`.

        Raises:
            ValueError: labels that do not fit, or are no speakers.
        """
        labels = labels.flatten()
        speakers = self.weight.shape[1]
        if len(labels) != len(vectors) or labels.is_floating_point():
            raise ValueError(
                f"labels of shape {tuple(labels.shape)} and dtype {labels.dtype} must be numbers of speakers, one for each of "
                f"{len(vectors)} clips."
            )
        check_range(labels, speakers, "labels", f"The model has {speakers} speakers; num_labels=… builds it with more.")
        cosines = F.normalize(vectors, dim=1) @ F.normalize(self.weight, dim=0)
        right = F.one_hot(labels, speakers).to(cosines.dtype)
        return F.cross_entropy(self.scale * (cosines - self.margin * right), labels)
