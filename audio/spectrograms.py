"""The feature extractor of Whisper (Radford et al. 2022): log-mel spectrograms of 30 s."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from vertebra.audio.clips import Clip, check_sampling_rate, read_clips
from vertebra.audio.feature_extraction import Array, SequenceFeatureExtractor, cut_length
from vertebra.audio.mel import log_mel, mel_filters
from vertebra.audio.waveforms import normalised
from vertebra.batch_feature import BatchFeature


class WhisperFeatureExtractor(SequenceFeatureExtractor):
    """Clips in, `input_features` out: padded to 30 s, then power in mel bands on a logarithmic scale.

    Args:
        feature_size: Mel bands: 80, or 128 for large-v3.
        sampling_rate: In Hz.
        hop_length: Samples from one step of the spectrogram to the next.
        chunk_length: Seconds that the model takes.
        n_fft: Samples of a window.
        padding_value: What clips are padded with.
        dither: Deviation of noise that is added to the samples, against exact silence; 0 for none.
        return_attention_mask: Whether to return `attention_mask`.
        **settings: `padding_side`.

    Raises:
        TypeError: an unknown setting.
        ValueError: a value that is not allowed.
    """

    hop_length: int
    chunk_length: int
    n_fft: int
    dither: float

    model_input_names: ClassVar[list[str]] = ["input_features"]
    _derived: ClassVar[Sequence[str]] = ("n_samples", "nb_max_frames", "mel_filters")

    def __init__(
        self,
        feature_size: int = 80,
        sampling_rate: int = 16000,
        hop_length: int = 160,
        chunk_length: int = 30,
        n_fft: int = 400,
        padding_value: float = 0.0,
        dither: float = 0.0,
        return_attention_mask: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(
            feature_size,
            sampling_rate,
            padding_value,
            hop_length=hop_length,
            chunk_length=chunk_length,
            n_fft=n_fft,
            dither=dither,
            return_attention_mask=return_attention_mask,
            **settings,
        )

    @property
    def n_samples(self) -> int:
        """Samples that the model takes."""
        return self.chunk_length * self.sampling_rate

    @property
    def nb_max_frames(self) -> int:
        """Steps of the spectrogram that the model takes."""
        return self.n_samples // self.hop_length

    @property
    def mel_filters(self) -> Array:
        """`(n_fft // 2 + 1, feature_size)` weights of the bands."""
        return mel_filters(self.feature_size, self.n_fft, self.sampling_rate)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON-ready values, without the filters, which follow from them."""
        return {name: value for name, value in super().to_dict().items() if name != "mel_filters"}

    def __call__(
        self,
        raw_speech: Any,
        truncation: bool | None = None,
        pad_to_multiple_of: int | None = None,
        return_tensors: str | None = None,
        return_attention_mask: bool | None = None,
        padding: bool | str = "max_length",
        max_length: int | None = None,
        sampling_rate: int | None = None,
        do_normalize: bool | None = None,
        device: str | torch.device = "cpu",
    ) -> BatchFeature:
        """Prepare clips.

        Args:
            raw_speech: Samples within -1…1: one clip (`(n,)` array, tensor or list) or several (`(b, n)`, or a list of clips).
            truncation: True keeps the beginning of longer clips, False all of them; None refuses them.
            pad_to_multiple_of: As in `pad`, in samples.
            return_tensors: `"pt"`, or `"np"` (None is the same, and a list of arrays where clips are not padded and differ).
            return_attention_mask: Whether to return the mask, 1 at the steps where a clip is; None takes the setting.
            padding: As in `pad`; the model takes `"max_length"` only.
            max_length: Samples to pad to and to cut at, instead of 30 s.
            sampling_rate: The rate of `raw_speech` in Hz; one that differs from the setting is refused.
            do_normalize: Bring samples to mean 0 and variance 1 first. `attention_mask`, in samples, is returned too, unless
                `return_attention_mask` asks for the one in steps.
            device: Where spectrograms are computed.

        Returns:
            `input_features`, float32 `(b, feature_size, steps)`, 3000 steps for 30 s; `attention_mask`, int32 `(b, steps)`,
            where one is asked for.

        Raises:
            TypeError: something that is not audio, or whole numbers.
            ValueError: another sampling rate, several channels, empty or too long clips, NaN or infinity.
        """
        check_sampling_rate(sampling_rate, self.sampling_rate, type(self).__name__)
        clips = read_clips(raw_speech)
        limit = self.n_samples if max_length is None else max_length
        if truncation is None:
            self._refuse_long(clips, limit)
        clips = [clip[: cut_length(bool(truncation), limit, pad_to_multiple_of)] for clip in clips]
        clips = [normalised(clip) for clip in clips] if do_normalize else clips
        length = self.padded_length([len(clip) for clip in clips], padding, limit, pad_to_multiple_of)
        padded = [self._filled(clip, length, self.padding_value) for clip in clips]
        silent = self.padding_value == 0 and self.dither == 0 and self.padding_side == "right"
        active = max(map(len, clips)) if silent else None
        wanted = self.return_attention_mask if return_attention_mask is None else return_attention_mask
        masks = [self._filled(np.ones(len(clip), np.int32), length, 0) for clip in clips]
        features: Any
        if len({len(clip) for clip in padded}) == 1:
            features = self._spectrograms(np.stack(padded), active, device)
        else:
            features = [self._spectrograms(clip[None], None, device)[0] for clip in padded]
        entries = {"input_features": features}
        if wanted:
            # a remainder of samples makes no step of its own
            steps = [mask[:: self.hop_length][: len(mask) // self.hop_length] for mask in masks]
            entries["attention_mask"] = steps if isinstance(features, list) else np.stack(steps)
        elif do_normalize:
            entries["attention_mask"] = masks if isinstance(features, list) else np.stack(masks)
        return BatchFeature(entries, return_tensors)

    def _refuse_long(self, clips: list[Clip], limit: int) -> None:
        for index, clip in enumerate(clips):
            if len(clip) > limit:
                raise ValueError(
                    f"Clip {index} has {len(clip) / self.sampling_rate:.1f} s, and the model takes "
                    f"{limit / self.sampling_rate:g} s at a time. Cut it into pieces and transcribe each, as "
                    f"examples/transcribe.py does; truncation=True keeps its beginning alone, "
                    f"truncation=False gives the spectrogram of all of it."
                )

    def _spectrograms(self, waveforms: Array, active: int | None, device: str | torch.device) -> Array:
        if waveforms.shape[1] <= self.n_fft // 2:
            raise ValueError(
                f"Clips of {waveforms.shape[1]} samples are shorter than half a window ({self.n_fft // 2}); pad them: "
                f"padding='max_length'."
            )
        samples = torch.from_numpy(waveforms).to(device)
        if self.dither:
            samples = samples + self.dither * torch.randn(samples.shape, device=samples.device)
        filters = torch.from_numpy(np.array(self.mel_filters)).to(samples)
        return log_mel(samples, filters, self.n_fft, self.hop_length, active).numpy(force=True)
