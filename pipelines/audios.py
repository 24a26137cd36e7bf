"""What the pipelines of recordings share: how one is read, and which of them share a batch."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from math import gcd
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.signal import resample_poly

from vertebra.audio.clips import FEW_CHANNELS, Clip, read_clips
from vertebra.errors import listing
from vertebra.pipelines.addresses import fetched, is_address
from vertebra.pipelines.base import Pipeline
from vertebra.pipelines.sound_files import decoded

SAMPLES = ("raw", "array")
FILE = ("bytes", "path")
RATE = "sampling_rate"


class AudioPipeline(Pipeline):
    """Base of pipelines whose items are recordings.

    A recording is one of

    - a path of a wav file, or of any file that soundfile reads, where that is installed;
    - the bytes of such a file;
    - an array or tensor of samples within -1…1 at the model's rate: `(n,)`, or with a few channels `(channels, n)` or
      `(n, channels)`;
    - `{"array": samples, "sampling_rate": Hz}` (or `"raw"`), as `datasets` gives it, or `{"bytes": …, "path": …}`, as it gives
      files that it does not decode;
    - a decoder of torchcodec, as `datasets` 4 and later give it.

    Channels are averaged. Other rates than the model's are converted by `scipy.signal.resample_poly`. transformers has
    torchaudio's `resample` do that for arrays, and ffmpeg for files. All are low-pass filters at half the lower rate:
    torchaudio's is a sinc under a Hann window of 6 zero crossings on each side, scipy's one under a Kaiser window of 10, so
    that frequencies just below that half fare differently. Lengths are equal; recordings of speech at 48 kHz, made 16 kHz,
    differ by 0.2 to 6 % of their loudest sample. To have transformers' numbers, resample first.
    """

    needs: ClassVar[tuple[str, ...]] = ("feature_extractor",)
    an_item = "a recording (a path, an array of samples, {'array': samples, 'sampling_rate': Hz})"
    workers = 1

    def is_item(self, inputs: Any) -> bool:
        """One recording: also an array, a tensor or a decoder of torchcodec."""
        return isinstance(inputs, (np.ndarray, torch.Tensor)) or _decodes(inputs) or super().is_item(inputs)

    def recorded(self, item: Any, allow_urls: bool, timeout: float | None) -> Clip:
        """The samples of a recording at the model's rate, float32 `(n,)`.

        Args:
            item: As in the class.
            allow_urls: Whether addresses are fetched.
            timeout: Seconds to wait for an address.

        Raises:
            TypeError: it is no recording, or its samples are whole numbers.
            ValueError: it is empty, damaged, holds NaN or infinity, or says no rate. All say what to do.
        """
        wanted = self.feature_extractor.sampling_rate
        if isinstance(item, Mapping):
            samples, rate = _of_mapping(item)
        elif _decodes(item):
            samples, rate = _played(item)
        elif is_address(item):
            samples, rate = decoded(fetched(item, allow_urls, timeout))
        elif isinstance(item, (str, Path)):
            samples, rate = decoded(_content(item))
        elif isinstance(item, bytes):
            samples, rate = decoded(item)
        elif isinstance(item, (np.ndarray, torch.Tensor)):
            samples, rate = item, wanted
        else:
            raise TypeError(
                f"a recording is a path, the bytes of a file, an array of samples, or {{'array': samples, 'sampling_rate': Hz}}, "
                f"not a {type(item).__name__}. A list holds several recordings; samples in a list become one by "
                f"numpy.asarray(samples, numpy.float32)."
            )
        (clip,) = read_clips(averaged(samples))
        clip = resampled(clip, rate, wanted)
        least = self.shortest()
        if len(clip) < least:
            raise ValueError(
                f"the recording has {len(clip)} samples at {wanted} Hz, and {type(self.model).__name__} hears nothing in fewer "
                f"than {least}. Leave it out."
            )
        return clip

    def shortest(self) -> int:
        """Samples that the model needs, where it says so."""
        model: Any = self.model
        return model.shortest() if hasattr(model, "shortest") else 1

    def features(self, clip: Clip, **settings: Any) -> dict[str, Any]:
        """Prepare samples: the tensors of the feature extractor, without the axis of the batch."""
        rate = self.feature_extractor.sampling_rate
        prepared = self.feature_extractor(clip, sampling_rate=rate, return_tensors="pt", **settings)
        return {name: value[0] for name, value in prepared.items()}

    @property
    def masks(self) -> bool:
        """Whether the model leaves out padding without a trace: one that norms each step by itself and does not shorten them."""
        config = self.model.config
        takes = self.feature_extractor.model_input_names[:1] == ["input_values"]
        steps = getattr(config, "feat_extract_norm", None) == "layer" and not getattr(config, "add_adapter", False)
        return takes and steps and self.feature_extractor.padding_side == "right"

    def alike(self, inputs: Mapping[str, Any]) -> Hashable:
        """Recordings of any length share a batch where the model leaves out padding without a trace, else those of one length."""
        return None if self.masks else super().alike(inputs)

    def gather(self, inputs: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Pad recordings to the longest of them, where the model leaves that out."""
        if len(inputs) == 1 or not self.masks:
            return super().gather(inputs)
        padded: Mapping[str, Any] = self.feature_extractor.pad(
            [dict(one) for one in inputs], return_attention_mask=True, return_tensors="pt"
        )
        return padded


def averaged(samples: Any) -> Any:
    """The mean of the channels of an array or tensor; `(n,)`, float, for `(channels, n)` and `(n, channels)`.

    Raises:
        ValueError: it has another number of axes, or both could be the channels.
    """
    shape = tuple(samples.shape)
    few = [axis for axis, size in enumerate(shape) if size <= FEW_CHANNELS]
    if len(shape) != 2:
        if len(shape) != 1:
            raise ValueError(f"a recording has the shape (samples,) or (channels, samples), not {shape}.")
        return samples
    if 0 in shape:
        raise ValueError(f"the recording of shape {shape} is empty: it has no samples. Leave it out.")
    if 1 not in shape and len(few) != 1:
        raise ValueError(
            f"a recording of shape {shape} has no axis that can only be its channels, of which there are up to {FEW_CHANNELS}. "
            f"Average them first (samples.mean(axis=…)); several recordings are given as a list: list(samples)."
        )
    channels = shape.index(1) if 1 in shape else few[0]
    if shape[channels] == 1:
        return samples.reshape(-1)
    if not (samples.is_floating_point() if isinstance(samples, torch.Tensor) else samples.dtype.kind == "f"):
        return samples[0] if channels == 0 else samples[:, 0]  # whole numbers are refused with what to divide by
    return samples.mean(channels)


def resampled(clip: Clip, rate: int, wanted: int) -> Clip:
    """Samples `(n,)` of one rate as those of another, both in Hz."""
    if rate == wanted:
        return clip
    divisor = gcd(rate, wanted)
    found: Clip = resample_poly(clip, wanted // divisor, rate // divisor).astype(np.float32)
    return found


def _content(path: str | Path) -> bytes:
    if not Path(path).is_file():
        what = "is a folder; give the files in it" if Path(path).is_dir() else "does not exist"
        raise FileNotFoundError(f"the recording is the path {str(path)!r}, which {what}.")
    return Path(path).read_bytes()


def _decodes(item: Any) -> bool:
    return hasattr(item, "get_all_samples")


def _played(decoder: Any) -> tuple[Any, int]:
    played = decoder.get_all_samples()
    return played.data, int(played.sample_rate)


def _of_mapping(item: Mapping[str, Any]) -> tuple[Any, int]:
    given = next((name for name in SAMPLES if item.get(name) is not None), None)
    if given is None:
        if item.get(FILE[0]) is not None:
            return decoded(bytes(item[FILE[0]]))
        if item.get(FILE[1]) is not None:
            return decoded(_content(item[FILE[1]]))
        raise ValueError(
            f"a recording as a dict has its samples under 'array' or 'raw' and their rate under 'sampling_rate', or a file under "
            f"'bytes' or 'path'; this one has {listing(map(repr, item)) or 'nothing'}."
        )
    rate = item.get(RATE)
    if isinstance(rate, bool) or not isinstance(rate, (int, float, np.number)) or rate <= 0 or rate != int(rate):
        raise ValueError(
            f"sampling_rate={rate!r} must say how many samples a second {given!r} has, such as 16000."
            if RATE in item
            else f"a recording as a dict also says the rate of its samples: {{{given!r}: samples, 'sampling_rate': 16000}}."
        )
    samples = item[given]
    return samples if isinstance(samples, torch.Tensor) else np.asarray(samples), int(rate)
