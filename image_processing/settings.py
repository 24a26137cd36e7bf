"""Settings: how each one is read, and which of them need each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch

from vertebra.bands import RGB, adapt_values
from vertebra.batch_feature import read_tensor_type
from vertebra.errors import listing
from vertebra.image_processing.backends import DEFAULT_BACKEND, PIL_BACKEND, read_backend
from vertebra.image_processing.inputs import read_layout
from vertebra.image_processing.resampling import read_resample
from vertebra.image_processing.sizes import is_whole, read_size

REQUIREMENTS = {
    "do_resize": ("size", "resample"),
    "do_center_crop": ("crop_size",),
    "do_rescale": ("rescale_factor",),
    "do_normalize": ("image_mean", "image_std"),
}
CROP_MODES = ("center", "squash", "border")
_EXAMPLES = {"rescale_factor": "; 1/255 takes 0..255 to 0..1", "crop_pct": "; 0.875 keeps the central 7/8"}


def read_setting(name: str, value: Any, default_to_square: bool = True) -> Any:
    """Return a setting's value in its one canonical form; settings that are not known here pass as they are.

    Raises:
        TypeError: the value has the wrong type.
        ValueError: the value is not allowed. Both name the setting, the value and what is allowed.
    """
    if value is None:
        return None
    if name == "size":
        return read_size(value, name, default_to_square)
    if name.startswith("do_"):
        return _read_bool(value, name)
    return _READERS[name](value, name) if name in _READERS else value


def read_use_fast(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return overrides with `use_fast` spelled as `backend`; a backend of None is no override.

    Raises:
        TypeError: `use_fast` is neither a bool nor None.
        ValueError: `use_fast` and `backend` ask for different backends.
    """
    read = {name: value for name, value in overrides.items() if name != "use_fast"}
    if read.get("backend", "") is None:
        del read["backend"]
    fast = overrides.get("use_fast")
    if fast is None:
        return read
    asked = DEFAULT_BACKEND if _read_bool(fast, "use_fast") else PIL_BACKEND
    if read.setdefault("backend", asked) != asked:
        raise ValueError(
            f"use_fast={fast!r} means backend={asked!r}, but backend={read['backend']!r}; pass one of them."
        )
    return read


def check_together(settings: Mapping[str, Any], requirements: Mapping[str, Sequence[str]]) -> None:
    """Check that what is switched on has what it needs: `requirements` maps a switch to the settings it reads.

    Raises:
        ValueError: a switch lacks its values, or `image_mean` and `image_std` differ in length.
    """
    for switch, names in requirements.items():
        missing = [name for name in names if settings.get(name) is None]
        if settings.get(switch) and missing:
            raise ValueError(f"{switch}=True needs {' and '.join(missing)}; pass {missing[0]}=…, or {switch}=False.")
    if settings.get("do_normalize"):
        channel_count(settings["image_mean"], settings["image_std"])


def channel_count(mean: float | Sequence[float], std: float | Sequence[float]) -> int | None:
    """Return how many channels `mean` and `std` describe; None when one value serves all channels.

    Raises:
        ValueError: they describe different numbers.
    """
    counts = {len(values) for values in (mean, std) if isinstance(values, Sequence) and len(values) > 1}
    if len(counts) > 1:
        raise ValueError(f"image_mean={mean!r} and image_std={std!r} have different numbers of channels.")
    return counts.pop() if counts else None


def for_channels(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings whose means and deviations are those of `num_channels` channels, where that is set.

    Three values are those of RGB and are adapted by the rule of `vertebra.bands`; one value serves all channels.

    Raises:
        ValueError: there are as many values as other channels.
    """
    channels, adapted = settings.get("num_channels"), dict(settings)
    if channels is None:
        return adapted
    for name in ("image_mean", "image_std"):
        values = settings.get(name)
        if not isinstance(values, Sequence) or len(values) in (1, channels):
            continue
        if len(values) != RGB:
            raise ValueError(
                f"{name}={list(values)} has {len(values)} values, but num_channels={channels}: give one for each channel, one for "
                f"all, or the three of RGB, from which the others are made."
            )
        adapted[name] = adapt_values(values, channels)
    return adapted


def _read_channels(value: Any, name: str) -> int:
    if isinstance(value, Integral) and not isinstance(value, bool) and int(value) > 0:
        return int(value)
    raise ValueError(f"{name}={value!r} must be a whole number of channels, from 1.")


def _read_whole(least: int | None) -> Callable[[Any, str], int]:
    """A reader of whole numbers, from `least` on."""

    def read(value: Any, name: str) -> int:
        if is_whole(value) and (least is None or int(value) >= least):
            return int(value)
        raise ValueError(f"{name}={value!r} must be a whole number{'' if least is None else f', from {least}'}.")

    return read


def _read_bool(value: Any, name: str) -> bool:
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise TypeError(f"{name}={value!r} is a {type(value).__name__}; give True or False.")


def _read_factor(value: Any, name: str) -> float:
    if isinstance(value, Real) and not isinstance(value, bool) and float(value) > 0:
        return float(value)
    raise ValueError(f"{name}={value!r} must be a positive number{_EXAMPLES.get(name, '')}.")


def _read_per_channel(value: Any, name: str) -> float | tuple[float, ...]:
    if isinstance(value, (np.ndarray, torch.Tensor)):
        value = value.tolist()
    values = [value] if isinstance(value, Real) else value
    if not isinstance(values, Sequence) or not values or not all(isinstance(x, Real) for x in values):
        raise TypeError(f"{name}={value!r} must be a number, or a list with one number for each channel.")
    if name == "image_std" and not all(float(x) > 0 for x in values):
        raise ValueError(f"{name}={value!r} must be greater than 0: pixels are divided by it.")
    return float(value) if isinstance(value, Real) else tuple(map(float, values))


def _read_crop_mode(value: Any, name: str) -> str:
    if value not in CROP_MODES:
        raise ValueError(f"{name}={value!r} does not exist; it is {listing(map(repr, CROP_MODES))}.")
    return str(value)


def _read_device(value: Any, name: str) -> str:
    try:
        return str(torch.device(value))
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"{name}={value!r} is not a device; give 'cpu', 'cuda', 'cuda:1' or a torch.device."
        ) from error


_READERS: dict[str, Callable[[Any, str], Any]] = {
    "backend": read_backend,
    "resample": read_resample,
    "crop_size": read_size,
    "pad_size": read_size,
    "rescale_factor": _read_factor,
    "crop_pct": _read_factor,
    "crop_mode": _read_crop_mode,
    "num_channels": _read_channels,
    "num_labels": _read_whole(1),
    "size_divisor": _read_whole(0),
    "ignore_index": _read_whole(None),
    "compat": _read_bool,
    "use_square_size": _read_bool,
    "image_mean": _read_per_channel,
    "image_std": _read_per_channel,
    "data_format": read_layout,
    "input_data_format": read_layout,
    "device": _read_device,
    "return_tensors": lambda value, name: read_tensor_type(value),
}
