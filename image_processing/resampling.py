"""Resampling filters: PIL's six, under every name that files and callers use."""

from __future__ import annotations

from typing import Any

from PIL.Image import Resampling

from vertebra.errors import did_you_mean

_NAMES = {filter_.name.lower(): filter_ for filter_ in Resampling}


def read_resample(value: Any, name: str = "resample") -> Resampling:
    """Return a filter given as PIL's enum, its int, or a string.

    Args:
        value: `Resampling.BOX`, `4`, `"box"`, `"BOX"`, `"PIL.Image.BOX"`, `"Resampling.BOX"`, or an enum whose value is
            one of these (torchvision's `InterpolationMode.BICUBIC`). `"nearest-exact"` is nearest.
        name: The setting's name, for errors.

    Raises:
        TypeError: `value` is neither an int, a string nor an enum.
        ValueError: there is no such filter; the text lists them.
    """
    given = value
    value = getattr(value, "value", value)
    if isinstance(value, str):
        key = value.rsplit(".", 1)[-1].lower()
        if key in _NAMES:
            return _NAMES[key]
        if key == "nearest-exact":
            return Resampling.NEAREST
        raise ValueError(f"{name}={given!r} is not a filter.{did_you_mean(key, _NAMES)} {_allowed()}")
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}={given!r} is a {type(given).__name__}. {_allowed()}")
    if value not in list(Resampling):
        raise ValueError(f"{name}={given!r} is not a filter. {_allowed()}")
    return Resampling(value)


def _allowed() -> str:
    filters = ", ".join(f"{filter_.name.lower()!r} ({filter_.value})" for filter_ in sorted(Resampling))
    return f"The filters are {filters}; give the name, the int, or PIL.Image.Resampling.BICUBIC."
