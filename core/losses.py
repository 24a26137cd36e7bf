"""The default losses of models whose labels are classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vertebra.config import PreTrainedConfig

IGNORED = -100
"""The label of what counts in no loss."""


def classification_loss(logits: Tensor, labels: Tensor, config: PreTrainedConfig) -> Tensor:
    """Return the loss of `(b, n)` logits, as `config.problem_type` names it.

    Without a problem type, one label means regression, whole-number labels mean one class each, and other labels mean
    several classes each. The choice is not stored: it depends on these labels alone.

    Raises:
        ValueError: an unknown problem type, or labels whose shape or range does not fit.
    """
    count = logits.shape[-1]
    whole = not labels.is_floating_point()
    kind = config.problem_type or (
        "regression" if count == 1 else "single_label_classification" if whole else "multi_label_classification"
    )
    if kind == "regression":
        _fits(labels.numel() == logits.numel(), labels, logits, kind)
        return F.mse_loss(logits.flatten(), labels.to(logits.dtype).flatten())
    if kind == "single_label_classification":
        _fits(whole and labels.numel() == logits.shape[0], labels, logits, kind)
        return class_loss(logits, labels.flatten())
    if kind == "multi_label_classification":
        _fits(labels.shape == logits.shape, labels, logits, kind)
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    raise ValueError(
        f"problem_type={kind!r} must be 'regression', 'single_label_classification', 'multi_label_classification' or None."
    )


def _fits(good: bool, labels: Tensor, logits: Tensor, kind: str) -> None:
    if not good:
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} and dtype {labels.dtype} do not fit logits of shape {tuple(logits.shape)} for "
            f"problem_type {kind!r}: class indices are whole numbers of shape (batch,), several labels or targets have the shape "
            f"of the logits."
        )


def class_loss(
    logits: Tensor, labels: Tensor, name: str = "labels", ignored: int = IGNORED, hint: str | None = None
) -> Tensor:
    """Return the mean cross entropy of those labels that are not `ignored`; zero where all are.

    Args:
        logits: `(…, classes)`.
        labels: `(…)` class indices.
        name: What the caller calls the labels, for errors.
        ignored: The label of what counts in no loss.
        hint: What to do about a label beyond the classes, where it is not `num_labels`.

    Raises:
        ValueError: the shapes do not fit, or labels are no whole numbers or no classes (looked at on a CPU and outside
            captured graphs).
    """
    if labels.shape != logits.shape[:-1] or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"{name} of shape {tuple(labels.shape)} and dtype {labels.dtype} must be class indices of shape "
            f"{tuple(logits.shape[:-1])} and dtype torch.int64."
        )
    classes = logits.shape[-1]
    usual = f"The model has {classes} classes; num_labels=… builds it with more."
    check_range(labels, classes, name, usual if hint is None else hint, ignored)
    flat = labels.flatten().long()
    losses = F.cross_entropy(logits.flatten(0, -2), flat, ignore_index=ignored, reduction="none")
    total = losses.sum(dtype=torch.promote_types(losses.dtype, torch.float32))
    return (total / (flat != ignored).sum().clamp(min=1)).to(losses.dtype)


def check_range(values: Tensor, count: int, name: str, hint: str, ignored: int | None = None) -> None:
    """Refuse whole numbers that are not in 0…`count` - 1, `ignored` apart.

    Only values at hand are looked at.

    Args:
        values: Whole numbers, of any shape.
        count: How many there are to choose from.
        name: What the caller calls the argument.
        hint: What to do about a value beyond them, one sentence.
        ignored: A value that is allowed beside them.

    Raises:
        ValueError: a value is out of range; names it.
    """
    if not at_hand(values):
        return
    wrong = (values < 0) | (values >= count)
    if ignored is not None:
        wrong &= values != ignored
    if wrong.any():
        beside = f", or {ignored} for what counts in no loss" if ignored is not None else ""
        raise ValueError(f"{name} holds {values[wrong][0].item()}; allowed are 0 to {count - 1}{beside}. {hint}")


def at_hand(values: Tensor) -> bool:
    """Whether values can be looked at without a wait: not on an accelerator, in a captured graph or in a `torch.func` transform."""
    captured = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if captured or torch._C._functorch.maybe_current_level() is not None:
        return False
    return type(values) in (Tensor, nn.Parameter) and values.device.type == "cpu"
