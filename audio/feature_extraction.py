"""The bases of feature extractors: settings as files, and sequences that are cut and padded to one length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from vertebra.audio.settings import READERS, read_bool, read_count
from vertebra.batch_feature import BatchFeature
from vertebra.errors import did_you_mean, listing
from vertebra.preprocessor import Preprocessor, refuse_unknown, setting_names

Array = np.ndarray[Any, Any]
LONGEST, TO_MAX_LENGTH, NO_PADDING = "longest", "max_length", "do_not_pad"
STRATEGIES = (LONGEST, TO_MAX_LENGTH, NO_PADDING)


class FeatureExtractionMixin(Preprocessor):
    """Settings of a feature extractor: attributes that print as JSON, and are loaded from and saved to a checkpoint's files."""

    _part: ClassVar[str] = "feature_extractor"
    _type_keys: ClassVar[Sequence[str]] = ("feature_extractor_type", "image_processor_type")
    _example: ClassVar[str] = "sampling_rate=16000"


class SequenceFeatureExtractor(FeatureExtractionMixin):
    """Base of feature extractors for sequences, such as samples of audio.

    A subclass sets `model_input_names`, the names of what it returns; `pad` works on the first of them.

    Args:
        feature_size: Values at each step.
        sampling_rate: Steps a second, in Hz.
        padding_value: What sequences are padded with.
        **settings: `padding_side` (`"right"` or `"left"`), `return_attention_mask` (whether `pad` returns one unless told
            otherwise), and settings that a subclass declares as annotated class attributes.

    Raises:
        TypeError: an unknown setting.
        ValueError: a value that is not allowed.
    """

    feature_size: int
    sampling_rate: int
    padding_value: float
    padding_side: str
    return_attention_mask: bool

    model_input_names: ClassVar[list[str]] = ["input_values", "attention_mask"]

    def __init__(self, feature_size: int, sampling_rate: int, padding_value: float, **settings: Any) -> None:
        refuse_unknown(f"{type(self).__name__}()", settings, setting_names(type(self)))
        super().__init__(
            feature_size=feature_size,
            sampling_rate=sampling_rate,
            padding_value=padding_value,
            **{"padding_side": "right", "return_attention_mask": True, **settings},
        )

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, READERS[name](value, name) if name in READERS else value)

    def pad(
        self,
        processed_features: Any,
        padding: bool | str = True,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """Cut and pad sequences; what a data loader's `collate_fn` needs.

        Args:
            processed_features: `{name: sequences}`, or a list of `{name: sequence}`. A sequence is a list, array or tensor
                `(n,)`, or `(n, feature_size)`. Other entries are kept as they are.
            padding: True or `"longest"` pads to the longest sequence, `"max_length"` to `max_length`, False or `"do_not_pad"`
                not at all.
            max_length: Steps to pad to, and to cut at.
            truncation: Cut sequences that are longer than `max_length`.
            pad_to_multiple_of: Round the length up to a multiple of this.
            return_attention_mask: Whether to return the mask, int32, 1 where a sequence is and 0 where it is padded; None
                takes the setting.
            return_tensors: `"pt"`, `"np"`, or None for what was given: tensors for tensors, arrays for all else, and a list
                of arrays where lengths differ.

        Returns:
            The entries, padded, and `attention_mask`.

        Raises:
            TypeError: what is given is no mapping and no list of mappings, or `truncation` no bool.
            ValueError: the first of `model_input_names` is not among the entries, is no list of sequences or does not fit its
                masks, or `max_length` is needed and missing or no whole number.
        """
        entries = _by_name(processed_features)
        name = self.model_input_names[0]
        if name not in entries:
            raise ValueError(
                f"{type(self).__name__}.pad() pads {name!r}, and was given {listing(map(repr, entries)) or 'nothing'}.",
            )
        given = list(entries[name])
        kind = "pt" if given and isinstance(given[0], torch.Tensor) else "np"
        sequences = [_as_array(sequence) for sequence in given]
        known = entries.get("attention_mask")
        _check_sequences(name, sequences)
        masks = [np.ones(len(x), np.int32) for x in sequences] if known is None else [_as_array(mask) for mask in known]
        _check_masks(masks, sequences)
        limit = cut_length(truncation, max_length, pad_to_multiple_of)
        sequences, masks = [x[:limit] for x in sequences], [mask[:limit] for mask in masks]
        length = self.padded_length([len(x) for x in sequences], padding, max_length, pad_to_multiple_of)
        entries[name] = [self._filled(x, length, self.padding_value) for x in sequences]
        wanted = self.return_attention_mask if return_attention_mask is None else return_attention_mask
        if wanted or known is not None:
            entries["attention_mask"] = [self._filled(mask, length, 0) for mask in masks]
        ragged = return_tensors is None and len({len(x) for x in entries[name]}) != 1
        return BatchFeature(entries, None if ragged else return_tensors or kind)

    def padded_length(
        self, lengths: Sequence[int], padding: Any, max_length: int | None, multiple: int | None
    ) -> int | None:
        """The length to pad to; None where nothing is padded. Arguments and errors are those of `pad`."""
        strategy = read_padding(padding)
        if strategy == NO_PADDING or not lengths:
            return None
        if strategy == TO_MAX_LENGTH and max_length is None:
            raise ValueError("padding='max_length' needs max_length=…, the number of steps to pad to.")
        if self.padding_value is None:
            raise ValueError(f"padding={padding!r} needs a padding_value, and it is None; set one, e.g. 0.0.")
        return round_up(read_count(max_length, "max_length") if strategy == TO_MAX_LENGTH else max(lengths), multiple)

    def _filled(self, sequence: Array, length: int | None, value: float) -> Array:
        """A sequence in the dtype that is returned, padded to `length` steps."""
        sequence = sequence.astype(np.float32) if sequence.dtype == np.float64 else sequence
        missing = max(0, (length or 0) - len(sequence))
        if not missing:
            return sequence
        steps = (0, missing) if self.padding_side == "right" else (missing, 0)
        return np.pad(sequence, (steps, *[(0, 0)] * (sequence.ndim - 1)), constant_values=value)


def read_padding(padding: Any) -> str:
    """Return `padding` as one of `STRATEGIES`; enums are read by their value.

    Raises:
        ValueError: it is something else; the text lists what is allowed.
    """
    strategy = {True: LONGEST, False: NO_PADDING}.get(padding) if isinstance(padding, bool) else padding
    strategy = getattr(strategy, "value", strategy)
    if strategy not in STRATEGIES:
        raise ValueError(
            f"padding={padding!r} does not exist; it is True or 'longest', 'max_length', or False or 'do_not_pad'."
            f"{did_you_mean(str(padding), STRATEGIES)}"
        )
    return str(strategy)


def cut_length(truncation: bool, max_length: int | None, multiple: int | None) -> int | None:
    """Where sequences are cut; None for nowhere.

    Raises:
        TypeError: `truncation` is no bool.
        ValueError: `truncation` without `max_length`, or a length that is none.
    """
    if not read_bool(truncation, "truncation"):
        return None
    if max_length is None:
        raise ValueError("truncation=True needs max_length=…, the number of steps to cut at.")
    return round_up(read_count(max_length, "max_length"), multiple)


def round_up(length: int, multiple: int | None) -> int:
    """The next multiple of `multiple`, or `length` itself where that is None."""
    return length if multiple is None else -(-length // read_count(multiple, "pad_to_multiple_of")) * multiple


def _by_name(features: Any) -> dict[str, Any]:
    """`{name: sequences}` of a mapping, or of a list of mappings."""
    if isinstance(features, Mapping):
        return dict(features)
    if isinstance(features, (list, tuple)) and features and all(isinstance(item, Mapping) for item in features):
        if different := [index for index, item in enumerate(features) if item.keys() != features[0].keys()]:
            raise ValueError(
                f"Item {different[0]} has the entries {listing(map(repr, features[different[0]]))}, and item 0 has "
                f"{listing(map(repr, features[0]))}; they must be the same."
            )
        return {name: [item[name] for item in features] for name in features[0]}
    raise TypeError(
        f"pad() takes {{name: sequences}} or a list of {{name: sequence}}, got {type(features).__name__}: "
        f"pad({{'input_values': [first, second]}}, padding=True)."
    )


def _as_array(sequence: Any) -> Array:
    if isinstance(sequence, torch.Tensor):
        return sequence.numpy(force=True)
    return np.asarray(sequence)


def _check_sequences(name: str, sequences: Sequence[Array]) -> None:
    for index, sequence in enumerate(sequences):
        if sequence.ndim == 0:
            raise ValueError(
                f"pad(): entry {index} of {name!r} is no sequence; it must be a list of sequences, also for one of them: "
                f"{{{name!r}: [sequence]}}."
            )


def _check_masks(masks: Sequence[Array], sequences: Sequence[Array]) -> None:
    if len(masks) != len(sequences):
        raise ValueError(f"pad(): there are {len(masks)} attention masks and {len(sequences)} sequences.")
    for index, (mask, sequence) in enumerate(zip(masks, sequences, strict=True)):
        if mask.shape != sequence.shape[:1]:
            raise ValueError(
                f"pad(): attention_mask {index} has {mask.size} steps, and its sequence {len(sequence)}; give one for each step."
            )
