"""The feature extractor of models that read the samples themselves (Wav2Vec2, Baevski et al. 2020)."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

import numpy as np

from vertebra.audio.clips import Clip, check_sampling_rate, read_clips
from vertebra.audio.feature_extraction import NO_PADDING, SequenceFeatureExtractor, cut_length, read_padding
from vertebra.batch_feature import BatchFeature, read_tensor_type

LONG = 120
"""Seconds beyond which a clip costs the model so much memory that it is worth a word."""
GIGABYTES_A_SECOND = 512 * 3200 * 4 * 3 / 1e9
"""Three tensors (in, normed, activated) of the first convolution: 512 channels, one step for 5 samples, float32."""

logger = logging.getLogger(__name__)


class Wav2Vec2FeatureExtractor(SequenceFeatureExtractor):
    """Clips in, `input_values` out: each clip to mean 0 and variance 1, then cut and padded.

    With an attention mask, mean and variance are those of the clip. Without one they are taken after padding, over clip and
    padding, as transformers has it: the model cannot tell them apart then, and a clip's values depend on the longest beside it.

    Args:
        feature_size: Values at each step; 1 for audio.
        sampling_rate: In Hz.
        padding_value: What clips are padded with.
        return_attention_mask: Whether to return `attention_mask`. Models with `feat_extract_norm="group"` were trained without
            one, those with `"layer"` need it in batches.
        do_normalize: Whether to normalise.
        **settings: `padding_side`.

    Raises:
        TypeError: an unknown setting.
        ValueError: a value that is not allowed.
    """

    do_normalize: bool

    model_input_names: ClassVar[list[str]] = ["input_values", "attention_mask"]

    def __init__(
        self,
        feature_size: int = 1,
        sampling_rate: int = 16000,
        padding_value: float = 0.0,
        return_attention_mask: bool = False,
        do_normalize: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(
            feature_size,
            sampling_rate,
            padding_value,
            return_attention_mask=return_attention_mask,
            do_normalize=do_normalize,
            **settings,
        )

    def __call__(
        self,
        raw_speech: Any,
        padding: bool | str = False,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        sampling_rate: int | None = None,
    ) -> BatchFeature:
        """Prepare clips.

        Args:
            raw_speech: Samples within -1…1: one clip (`(n,)` array, tensor or list) or several (`(b, n)`, or a list of clips).
            padding: As in `pad`.
            max_length: As in `pad`.
            truncation: As in `pad`.
            pad_to_multiple_of: As in `pad`.
            return_attention_mask: As in `pad`.
            return_tensors: `"pt"`, `"np"`, or None for a list of arrays.
            sampling_rate: The rate of `raw_speech` in Hz; one that differs from the setting is refused.

        Returns:
            `input_values`, float32 `(b, n)`, and `attention_mask`, int32 `(b, n)`, where one is asked for.

        Raises:
            TypeError: something that is not audio, or whole numbers.
            ValueError: another sampling rate, several channels, empty clips, NaN or infinity.
        """
        check_sampling_rate(sampling_rate, self.sampling_rate, type(self).__name__)
        clips = read_clips(raw_speech)
        return_tensors = read_tensor_type(return_tensors)
        masked = self.return_attention_mask if return_attention_mask is None else return_attention_mask
        limit = cut_length(truncation, max_length, pad_to_multiple_of)
        clips = [clip[:limit] for clip in clips]
        self._tell_long(clips)
        together = not masked and read_padding(padding) != NO_PADDING
        if self.do_normalize and not together:
            clips = [normalised(clip) for clip in clips]
        length = self.padded_length([len(clip) for clip in clips], padding, max_length, pad_to_multiple_of)
        values = [self._filled(clip, length, self.padding_value) for clip in clips]
        if self.do_normalize and together:
            values = [normalised(clip) for clip in values]
        entries = {"input_values": values}
        if masked:
            entries["attention_mask"] = [self._filled(np.ones(len(clip), np.int32), length, 0) for clip in clips]
        return BatchFeature(entries, return_tensors)

    def _tell_long(self, clips: list[Clip]) -> None:
        seconds = max(len(clip) for clip in clips) / self.sampling_rate
        if seconds > LONG:
            logger.warning(
                "A clip of %.0f s takes a Wav2Vec2 model about %.0f GB of memory for its first convolution alone, and attention's "
                "time grows with the square. Cut it into pieces of 10 to 30 s, best where it is silent.",
                seconds,
                seconds * GIGABYTES_A_SECOND,
            )


def normalised(clip: Clip) -> Clip:
    """The clip with mean 0 and variance 1 (silence stays silence)."""
    values: Clip = (clip - clip.mean()) / np.sqrt(clip.var() + 1e-7)
    return values
