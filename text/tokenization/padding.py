"""Padding rows that were tokenized before, as data loaders do: `tokenizer.pad`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vertebra.errors import listing
from vertebra.text.tokenization.batch_encoding import BatchEncoding
from vertebra.text.tokenization.strategies import Plan
from vertebra.text.tokenization.tensors import is_torch, to_lists


def pad_rows(
    tokenizer: Any,
    encoded: Any,
    plan: Plan,
    return_attention_mask: bool | None,
    return_tensors: Any,
    fillers: Mapping[str, Any],
) -> BatchEncoding:
    """Pad rows to one length; the arguments are those of `TokenizerBase.pad`.

    Args:
        tokenizer: Whose `model_input_names` say what a row's length is, and whether there is an attention mask.
        encoded: A row, a dict of rows, or a list of rows.
        plan: How they are padded.
        return_attention_mask: Whether there is one; None where the model takes one.
        return_tensors: As in the call.
        fillers: What padding is, for each entry that is padded.

    Raises:
        ValueError: rows that hold different entries, or no ids.
        TypeError: something that is no row.
    """
    data = _by_entry(encoded)
    main = tokenizer.model_input_names[0]
    if main not in data:
        raise ValueError(f"pad() needs {main!r}, and these rows have {listing(map(repr, data)) or 'nothing'}.")
    kind = return_tensors if return_tensors is not None else _tensor_type(data[main])
    data = {name: to_lists(value) for name, value in data.items()}
    single = not data[main] or not isinstance(data[main][0], list)
    if not data[main]:
        return BatchEncoding({main: [], **({"attention_mask": []} if return_attention_mask else {})}, tensor_type=kind)
    if single:
        data = {name: [value] for name, value in data.items()}
    lengths = [len(row) for row in data[main]]
    masked = "attention_mask" in tokenizer.model_input_names if return_attention_mask is None else return_attention_mask
    if masked and "attention_mask" not in data:
        data["attention_mask"] = [[1] * length for length in lengths]
    if plan.padding is not None:
        goal = plan.padded_length(max(lengths))
        for name, filler in fillers.items():
            for at, row in enumerate(data.get(name, ())):
                if len(row) != lengths[at]:
                    raise ValueError(
                        f"Row {at} has {len(row)} entries of {name!r} and {lengths[at]} of {main!r}; they must be as many."
                    )
                padding = [filler] * (goal - len(row))
                data[name][at] = row + padding if plan.padding_side == "right" else padding + row
    if single and kind is None:
        data = {name: value[0] for name, value in data.items()}
    return BatchEncoding(data, tensor_type=kind)


def _by_entry(encoded: Any) -> dict[str, Any]:
    """The rows as a dict of lists."""
    if isinstance(encoded, Mapping):
        return dict(encoded)
    if not isinstance(encoded, (list, tuple)) or not all(isinstance(row, Mapping) for row in encoded):
        raise TypeError(
            f"pad() takes what the tokenizer returns: a row {{'input_ids': […]}}, a dict of rows {{'input_ids': [[…], […]]}} or a "
            f"list of rows; this is a {type(encoded).__name__}."
        )
    names = list(encoded[0]) if encoded else []
    for at, row in enumerate(encoded):
        if row.keys() != set(names):
            raise ValueError(f"Row {at} has {listing(map(repr, row))}, and row 0 has {listing(map(repr, names))}.")
    return {name: [row[name] for row in encoded] for name in names}


def _tensor_type(value: Any) -> str | None:
    """What the rows are in, to give back the same."""
    first = value[0] if isinstance(value, (list, tuple)) and value else value
    if is_torch(first):
        return "pt"
    return "np" if type(first).__module__ == "numpy" else None
