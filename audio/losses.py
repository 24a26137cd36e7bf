"""Losses of models of speech: connectionist temporal classification, and margins between speakers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vertebra.losses import IGNORED, check_range

REDUCTIONS = ("sum", "mean", "none")


def ctc_loss(
    logits: Tensor, labels: Tensor, steps: Tensor, blank: int, reduction: str = "sum", zero_infinity: bool = False
) -> Tensor:
    """Return the loss of scores by which texts are to be read (Graves et al. 2006).

    Args:
        logits: `(b, n, tokens)`.
        labels: `(b, most)` tokens; -100 and the blank are padding.
        steps: `(b,)` steps of each clip that are not padding.
        blank: The token that stands for none.
        reduction: `"sum"`, `"mean"` (of losses by token) or `"none"`.
        zero_infinity: Whether a text that has no room in its clip counts as zero.

    Raises:
        ValueError: labels that do not fit or are no tokens, or an unknown reduction.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"ctc_loss_reduction={reduction!r} must be 'sum', 'mean' or 'none'.")
    if labels.ndim != 2 or len(labels) != len(logits) or labels.is_floating_point():
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} and dtype {labels.dtype} must be tokens of shape ({len(logits)}, most), padded "
            f"with {IGNORED}."
        )
    check_range(labels, logits.shape[-1], "labels", "vocab_size=len(tokenizer) builds the model with more.", IGNORED)
    real = (labels != IGNORED) & (labels != blank)
    shares = logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32)).transpose(0, 1)
    with torch.backends.cudnn.flags(enabled=False):
        return F.ctc_loss(shares, labels[real], steps, real.sum(-1), blank, reduction, zero_infinity)


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
