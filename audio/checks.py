"""What models of speech are given: checked, with errors that say what to do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vertebra.checks import check_tensors
from vertebra.losses import at_hand


def check_floats(name: str, value: Any, dtype: torch.dtype, extractor: str) -> None:
    """Refuse what is no tensor of floats, or of other floats than the weights.

    Args:
        name: What the caller calls the argument.
        value: The argument.
        dtype: Of the weights.
        extractor: The feature extractor that makes it.

    Raises:
        TypeError: says how it is made.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point():
        found = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise TypeError(
            f"{name} is {found}; it must be a tensor of floats, as {extractor} makes it: "
            f"extractor(samples, sampling_rate=16000, return_tensors='pt').{name}."
        )
    if value.dtype != dtype and not torch.is_autocast_enabled(value.device.type):
        raise TypeError(
            f"{name} is {value.dtype}, and the model's weights are {dtype}: pass {name}.to({dtype}), or load the model with "
            f"dtype={value.dtype}."
        )


def check_tokens(name: str, value: Any, rows: int | None = None, padding: int | None = None) -> None:
    """Refuse what are no tokens `(rows, n)`; their range is not looked at.

    Args:
        name: What the caller calls the argument.
        value: The argument.
        rows: How many texts there must be; any number when None.
        padding: What shorter texts are filled up with, for the error.

    Raises:
        TypeError: it is no tensor.
        ValueError: another shape, or numbers that are not whole.
    """
    check_tensors({name: value})
    if value.ndim != 2 or rows not in (None, value.shape[0]) or value.is_floating_point() or value.dtype == torch.bool:
        how = "" if padding is None else f", padded with {padding}"
        raise ValueError(
            f"{name} of shape {tuple(value.shape)} and dtype {value.dtype} must be tokens of shape "
            f"({'b' if rows is None else rows}, n){how}."
        )


def check_samples(samples: Any, attention_mask: Any, dtype: torch.dtype, least: int) -> None:
    """Check recordings and their mask.

    Args:
        samples: `(b, n)` float.
        attention_mask: `(b, n)`, 1 at samples and 0 at padding, or None.
        dtype: Of the weights.
        least: Samples that a model needs.

    Raises:
        TypeError: the recordings are no tensor of floats, or of others than the weights; the mask is no tensor.
        ValueError: a shape that does not fit, clips that are too short, or padding that does not come last.
    """
    check_floats("input_values", samples, dtype, "Wav2Vec2FeatureExtractor")
    if samples.ndim != 2:
        raise ValueError(
            f"input_values of shape {tuple(samples.shape)} must have the shape (clips, samples), of one channel."
        )
    if samples.shape[1] < least:
        raise ValueError(
            f"input_values has {samples.shape[1]} samples, and one step of the model's states needs {least}; pad clips: "
            f"padding='max_length', max_length={least}."
        )
    if attention_mask is None:
        return
    check_tensors({"attention_mask": attention_mask})
    if attention_mask.shape != samples.shape:
        raise ValueError(
            f"attention_mask of shape {tuple(attention_mask.shape)} must have that of input_values, {tuple(samples.shape)}: 1 at "
            f"samples and 0 at padding."
        )
    if not at_hand(attention_mask):
        return
    if late := (attention_mask[:, 1:] > attention_mask[:, :-1]).any(-1).nonzero().flatten().tolist():
        raise ValueError(
            f"Clip {late[0]} has padding before samples under attention_mask, and steps are counted from the first on: pad at the "
            f"end, as a feature extractor with padding_side='right' does."
        )
    if short := (attention_mask.sum(-1) < least).nonzero().flatten().tolist():
        raise ValueError(
            f"Clip {short[0]} has {int(attention_mask[short[0]].sum())} samples under attention_mask, and one step of the model's "
            f"states needs {least}. Leave it out, or pass a longer one."
        )
