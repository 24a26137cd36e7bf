"""Lists of ids to tensors and back; torch and NumPy are imported where they are asked for."""

from __future__ import annotations

from typing import Any

TENSOR_TYPES = ("pt", "np")


def read_tensor_type(value: Any) -> str | None:
    """Return `return_tensors` as `"pt"`, `"np"` or None; enums are read by their value.

    Raises:
        ValueError: it is something else; the text lists what is allowed.
    """
    kind = getattr(value, "value", value)
    if kind is not None and kind not in TENSOR_TYPES:
        raise ValueError(
            f"return_tensors={value!r} is not supported; it is 'pt' (torch.Tensor), 'np' (numpy.ndarray) or None (lists)."
        )
    return kind


def to_tensor(value: Any, tensor_type: Any, name: str) -> Any:
    """Make a tensor of an entry of a batch.

    Args:
        value: Rows of numbers (or of pairs, as offsets), or a tensor.
        tensor_type: `"pt"` or `"np"`.
        name: Name of the entry, for the error.

    Raises:
        ValueError: the rows are of different lengths, or hold something else than numbers.
    """
    import numpy as np

    kind = read_tensor_type(tensor_type)
    if is_torch(value):
        return value if kind == "pt" else value.numpy(force=True)
    if isinstance(value, (list, tuple)) and value and is_torch(value[0]):
        value = [row.numpy(force=True) for row in value]
    empty = not isinstance(value, np.ndarray) and not any(len(row) if hasattr(row, "__len__") else 1 for row in value)
    try:
        array = np.asarray(value, dtype=np.int64 if empty else None)
    except ValueError as error:
        raise ValueError(_ragged(value, name)) from error
    if array.dtype.kind not in "biuf":
        raise ValueError(_ragged(value, name))
    if kind == "np":
        return array
    import torch

    return torch.tensor(array)


def to_lists(value: Any) -> Any:
    """Return ids as plain ints and lists of them, whatever kind of array they are in."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return [to_lists(item) for item in value] if isinstance(value, (list, tuple)) else value


def is_torch(value: Any) -> bool:
    """Whether a value is a torch tensor; does not import torch."""
    return type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "numpy")


def _ragged(value: Any, name: str) -> str:
    lengths = sorted({len(row) for row in value if hasattr(row, "__len__")})
    if len(lengths) < 2:
        return (
            f"{name!r} cannot become a tensor: it holds something else than numbers. return_tensors=None gives lists."
        )
    return (
        f"{name!r} cannot become one tensor: its rows have {', '.join(map(str, lengths[:6]))} entries. Pass padding=True (and "
        f"truncation=True for a limit) so that all rows have one length, or return_tensors=None for lists."
    )
