"""What a processor returns: a dict of arrays that moves to a device as one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from vertebra.errors import did_you_mean, listing

TENSOR_TYPES = ("pt", "np", None)


class BatchFeature(dict[str, Any]):
    """A dict whose entries are also attributes: `batch["pixel_values"]` is `batch.pixel_values`.

    Args:
        data: The entries: arrays, tensors, or lists of them.
        tensor_type: `"pt"` stacks lists to `torch.Tensor`, `"np"` to `numpy.ndarray`, None keeps what is given. Strings
            and mappings stay as they are.
        skip_tensor_conversion: Keys that are not converted.

    Raises:
        ValueError: `tensor_type` is something else, or a list cannot be stacked because its shapes differ.
    """

    def __init__(
        self,
        data: Mapping[str, Any] | None = None,
        tensor_type: str | None = None,
        skip_tensor_conversion: list[str] | set[str] | None = None,
    ) -> None:
        super().__init__(data or {})
        self.convert_to_tensors(tensor_type, skip_tensor_conversion)

    def __getitem__(self, key: str) -> Any:
        if not isinstance(key, str):
            raise KeyError(
                f"{key!r} is not a key: a batch is indexed by name ({listing(map(repr, self))}); entry {key!r} is "
                f"batch[{next(iter(self), 'name')!r}][{key!r}]."
            )
        if key not in self:
            raise KeyError(
                f"{key!r} is not in this batch, which has {listing(map(repr, self))}.{did_you_mean(key, self)}"
            )
        return super().__getitem__(key)

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return super().__getitem__(name)
        raise AttributeError(
            f"This batch has no {name!r}; it has {listing(map(repr, self))}.{did_you_mean(name, self)}"
        )

    @property
    def data(self) -> dict[str, Any]:
        """The entries as a plain dict."""
        return dict(self)

    def convert_to_tensors(
        self, tensor_type: str | None = None, skip_tensor_conversion: list[str] | set[str] | None = None
    ) -> BatchFeature:
        """Convert the entries in place as the constructor does, and return the batch."""
        tensor_type = read_tensor_type(tensor_type)
        if tensor_type is None:
            return self
        convert = _to_torch if tensor_type == "pt" else _to_numpy
        for key, value in self.items():
            if _is_array_like(value) and key not in (skip_tensor_conversion or ()):
                try:
                    self[key] = convert(value)
                except (ValueError, TypeError, RuntimeError) as error:
                    raise ValueError(
                        f"{key!r} cannot become one {tensor_type!r} array{_shapes(value)}. Resize or pad to one size "
                        f"(images: do_resize=True, do_pad=True; audio: padding=True), or pass return_tensors=None for a list. "
                        f"({error})"
                    ) from error
        return self

    def to(
        self,
        device: str | int | torch.device | torch.dtype | None = None,
        dtype: torch.dtype | None = None,
        *,
        non_blocking: bool = False,
    ) -> BatchFeature:
        """Move all tensors to `device`, cast the floating point ones to `dtype`, in place; return the batch.

        Integer and boolean tensors keep their dtype. Lists and tuples are followed, everything else is left alone.

        Args:
            device: Where to; a dtype may stand here alone, as in `tensor.to(torch.float16)`.
            dtype: A floating point dtype.
            non_blocking: As in `torch.Tensor.to`.

        Raises:
            TypeError: an argument is neither a device nor a dtype.
        """
        if isinstance(device, torch.dtype):
            device, dtype = (dtype if isinstance(dtype, (str, int, torch.device)) else None), device
        if not isinstance(device, (str, int, torch.device, type(None))):
            raise TypeError(f"batch.to({device!r}): give a device ('cuda', torch.device(…)), a torch.dtype, or both.")
        if dtype is not None and not isinstance(dtype, torch.dtype):
            raise TypeError(f"dtype={dtype!r} is not a torch.dtype such as torch.float16.")

        def move(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                return value.to(
                    device=device, dtype=dtype if value.is_floating_point() else None, non_blocking=non_blocking
                )
            return type(value)(map(move, value)) if type(value) in (list, tuple) else value

        for key, value in self.items():
            self[key] = move(value)
        return self


def read_tensor_type(value: Any) -> str | None:
    """Return `return_tensors` as `"pt"`, `"np"` or None; enums are read by their value.

    Raises:
        ValueError: it is something else; the text lists what is allowed.
    """
    kind = getattr(value, "value", value)
    if kind not in TENSOR_TYPES:
        raise ValueError(
            f"return_tensors={value!r} is not supported; it is 'pt' (torch.Tensor), 'np' (numpy.ndarray) or None (a "
            f"list)."
        )
    return None if kind is None else str(kind)


def _is_array_like(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return not value or _is_array_like(value[0])
    return isinstance(value, (torch.Tensor, np.ndarray, np.generic, int, float))


def _to_torch(value: Any) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], torch.Tensor):
        return torch.stack(list(value))
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], np.ndarray):
        value = np.stack(value)
    return torch.as_tensor(value)


def _to_numpy(value: Any) -> np.ndarray[Any, Any]:
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], torch.Tensor):
        value = torch.stack(list(value))
    return value.numpy(force=True) if isinstance(value, torch.Tensor) else np.asarray(value)


def _shapes(value: Any) -> str:
    shapes = dict.fromkeys(tuple(item.shape) for item in value if hasattr(item, "shape"))
    return f": its shapes are {listing(shapes, 6)}" if len(shapes) > 1 else ""
