"""The loss of connectionist temporal classification (Graves et al. 2006)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vertebra.audio.checks import check_tokens
from vertebra.losses import IGNORED, check_range

REDUCTIONS = ("sum", "mean", "none")


def ctc_loss(
    logits: Tensor, labels: Tensor, steps: Tensor, blank: int, reduction: str = "sum", zero_infinity: bool = False
) -> Tensor:
    """Return the loss of scores by which texts are to be read.

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
    check_tokens("labels", labels, len(logits), IGNORED)
    check_range(labels, logits.shape[-1], "labels", "vocab_size=len(tokenizer) builds the model with more.", IGNORED)
    real = (labels != IGNORED) & (labels != blank)
    shares = logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32)).transpose(0, 1)
    with torch.backends.cudnn.flags(enabled=False):
        return F.ctc_loss(shares, labels[real], steps, real.sum(-1), blank, reduction, zero_infinity)
