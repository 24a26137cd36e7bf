"""Recordings of speech to text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar, NamedTuple

from vertebra.audio.clips import Clip
from vertebra.audio.generation_config import GREEDY, GenerationConfig
from vertebra.errors import listing
from vertebra.pipelines.audios import FILE, RATE, SAMPLES, AudioPipeline
from vertebra.pipelines.base import CALL_OPTIONS, Piece, Row
from vertebra.pipelines.cutting import Span, overlapping_spans, quiet_spans
from vertebra.preprocessor import refuse_unknown

GENERATION = [*(part.name for part in fields(GenerationConfig) if part.name != "other"), *GREEDY]
"""Arguments of `generate`."""
TIMES = ("char", "word")
OVERLAP = 1 / 6
"""Part of a piece that it shares with each neighbour, unless told."""
STRIDE = "stride"


class _Part(NamedTuple):
    """What the answer needs to know of a piece: where it is, and what else the item said."""

    span: Span
    is_cut: bool
    extra: Mapping[str, Any]


class AutomaticSpeechRecognitionPipeline(AudioPipeline):
    """What is said in a recording: `{"text": str}`, with `"chunks": [{"text": str, "timestamp": (begin, end)}, …]` on request.

    Models are of two kinds. Those trained by CTC (Wav2Vec2) score the letters of every step; they say when each was spoken, and
    long recordings go through in overlapping pieces (`chunk_length_s`). Those that write (Whisper) take 30 s; longer recordings
    are cut where it is quiet, and the texts of the pieces are joined. They write the likeliest token each time, as transformers'
    pipeline with `num_beams=1`, which follows five texts at once unless told; and they tell no times.

    What else the dict of an item holds comes back with its text, in a list with one entry for every piece, as in transformers.
    """

    task = "automatic-speech-recognition"
    needs: ClassVar[tuple[str, ...]] = ("tokenizer", "feature_extractor")

    @property
    def writes(self) -> bool:
        """Whether the model writes text, rather than scoring the letters of every step."""
        return callable(getattr(self.model, "generate", None))

    def prepare(
        self,
        item: Any,
        *,
        chunk_length_s: float | None = None,
        stride_length_s: float | Sequence[float] | None = None,
        allow_urls: bool = False,
        timeout: float | None = None,
    ) -> Sequence[Piece]:
        """Prepare a recording.

        Args:
            item: As in `AudioPipeline`, or an address. For CTC models a dict may say `"stride": (left, right)`, samples at its
                ends that have no part in the text.
            chunk_length_s: Seconds of a piece; None or 0 takes a recording whole. For models that write, the most seconds of a
                piece, which is what they take at a time unless told.
            stride_length_s: For CTC models, seconds that a piece shares with each neighbour, or a pair of these for left and
                right; a sixth of a piece unless told.
            allow_urls: Whether addresses are fetched.
            timeout: Seconds to wait for an address.
        """
        clip = self.recorded(item, allow_urls, timeout)
        stride = item.get(STRIDE) if isinstance(item, Mapping) else None
        if self.writes:
            if stride is not None:
                raise ValueError(
                    f"'stride' is for CTC models; {type(self.model).__name__} takes recordings whole. Leave it out."
                )
            spans = list(quiet_spans(clip, self._longest(chunk_length_s)))
        elif chunk_length_s:
            spans = list(self._overlapping(len(clip), chunk_length_s, stride_length_s))
        else:
            spans = [Span(0, len(clip), *self._stride(item, stride, len(clip)))]
        extra = {name: item[name] for name in item if name not in OWN} if isinstance(item, Mapping) else {}
        is_cut = bool(chunk_length_s) or stride is not None
        return [Piece(self._heard(clip[span.begin : span.end]), _Part(span, is_cut, extra)) for span in spans]

    def run(
        self, inputs: Mapping[str, Any], *, generate_kwargs: Mapping[str, Any] | None = None, **settings: Any
    ) -> Mapping[str, Any]:
        """Find the tokens of each piece.

        Args:
            inputs: Of the model.
            generate_kwargs: For models that write, arguments of `generate`, such as `{"language": "de", "task": "translate"}`.
            **settings: The same, each by itself.
        """
        model: Any = self.model
        if self.writes:
            return {"tokens": model.generate(**inputs, **{**(generate_kwargs or {}), **settings})}
        return {"tokens": model(**inputs)["logits"].argmax(-1)}

    def answer(self, rows: Sequence[Row], *, return_timestamps: str | bool | None = None) -> dict[str, Any]:
        """Read the tokens of all pieces as text.

        Args:
            rows: What the model said.
            return_timestamps: For CTC models `"char"` or `"word"`: also tell the seconds at which each begins and ends.
        """
        first: _Part = rows[0].context
        extra = {name: [value] * len(rows) for name, value in first.extra.items()}
        if self.writes:
            texts = [self.tokenizer.decode(row.output["tokens"][0], skip_special_tokens=True) for row in rows]
            return {"text": "".join(texts), **extra}
        tokens = [token for row in rows for token in self._own(row)]
        if not return_timestamps:
            return {"text": self.tokenizer.decode(tokens), **extra}
        found = self.tokenizer.decode(tokens, **{f"output_{return_timestamps}_offsets": True})
        chunks = [
            {"text": entry[return_timestamps], "timestamp": tuple(map(self._seconds, (entry["start_offset"], entry["end_offset"])))}
            for entry in found[f"{return_timestamps}_offsets"]
        ]  # fmt: skip
        return {"text": found["text"], "chunks": chunks, **extra}

    # Pieces

    def _heard(self, samples: Clip) -> dict[str, Any]:
        return self.features(samples, **({"return_attention_mask": True} if self.masks else {}))

    @property
    def _samples_a_step(self) -> int:
        return int(self.model.config.inputs_to_logits_ratio)

    def _seconds(self, step: int) -> float:
        return step * self._samples_a_step / float(self.feature_extractor.sampling_rate)

    def _own(self, row: Row) -> list[int]:
        """The tokens that a piece answers for: without padding, and without what its neighbours answer for."""
        span, is_cut, _ = row.context
        samples = span.end - span.begin
        tokens: list[int] = row.output["tokens"][0].tolist()
        model: Any = self.model
        if self.masks:
            tokens = tokens[: model.state_lengths(samples)]
        if not is_cut:
            return tokens
        steps = round(samples / self._samples_a_step)
        left, right = (round(part / samples * steps) for part in (span.left, span.right))
        return tokens[left : steps - right]

    def _longest(self, chunk_length_s: float | None) -> int:
        """Samples of a piece for a model that writes."""
        extractor = self.feature_extractor
        most: int = extractor.n_samples
        if not chunk_length_s:
            return most
        found = _number("chunk_length_s", chunk_length_s) * extractor.sampling_rate
        if found > most:
            raise ValueError(
                f"chunk_length_s={chunk_length_s!r} is more than {type(self.model).__name__} takes at a time, "
                f"{most / extractor.sampling_rate:g} s. Leave it out: longer recordings are cut where it is quiet."
            )
        return round(found)

    def _overlapping(self, total: int, chunk_length_s: float, stride_length_s: Any) -> Iterator[Span]:
        """Pieces of whole steps; one too short to make a step at the very end has nothing to say."""
        chunk = _number("chunk_length_s", chunk_length_s)
        given = chunk * OVERLAP if stride_length_s is None else stride_length_s
        pair = list(given) if isinstance(given, (list, tuple)) else [given, given]
        if len(pair) != 2:
            raise ValueError(
                f"stride_length_s={stride_length_s!r} must be a number, or a pair of them for left and right."
            )
        length, left, right = (
            self._whole(seconds) for seconds in (chunk, *(_number("stride_length_s", part) for part in pair))
        )
        if length <= left + right:
            raise ValueError(
                f"chunk_length_s={chunk_length_s!r} must be more than what a piece shares with both neighbours, "
                f"stride_length_s={stride_length_s!r}. Leave stride_length_s out for a sixth of a piece each."
            )
        least = self.shortest()
        return (span for span in overlapping_spans(total, length, left, right) if span.end - span.begin >= least)

    def _whole(self, seconds: float) -> int:
        return round(seconds * self.feature_extractor.sampling_rate / self._samples_a_step) * self._samples_a_step

    def _stride(self, item: Any, stride: Any, samples: int) -> tuple[int, int]:
        """`"stride"` of an item in samples at the model's rate."""
        if stride is None:
            return 0, 0
        ratio = self.feature_extractor.sampling_rate / item.get(RATE, self.feature_extractor.sampling_rate)
        left, right = (round(part * ratio) for part in stride)
        if left < 0 or right < 0 or left + right > samples:
            raise ValueError(
                f"'stride' {tuple(stride)!r} must be samples at both ends of the recording that have no part in its text; it has "
                f"{round(samples / ratio)}."
            )
        return left, right

    # Options

    @classmethod
    def checked_options(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """As in `Pipeline`; arguments of `generate` are known too."""
        known = [*(option for names, _ in cls._hooks() for option in names), *CALL_OPTIONS, *GENERATION]
        refuse_unknown(f"{cls.__name__}()", options, known)
        return dict(options)

    def check(self, options: Mapping[str, Any]) -> None:
        """Refuse options that are for another kind of model, and values with which nothing could be heard."""
        named = {option for names, _ in self._hooks() for option in names}
        writing = {**(options.get("generate_kwargs") or {}), **{k: v for k, v in options.items() if k not in named}}
        times, name = options.get("return_timestamps"), type(self.model).__name__
        if self.writes:
            self._check_written(name, times, options.get("stride_length_s"), writing)
            self._longest(options.get("chunk_length_s"))
            return
        if times and times not in TIMES:
            raise ValueError(
                f"return_timestamps={times!r} must be one of {listing(map(repr, TIMES))}, or None, for {name}, a CTC model."
            )
        if writing:
            raise ValueError(
                f"{listing(writing)} tell models such as Whisper how to write; {name} scores letters and takes none of them. Leave "
                f"them out."
            )
        if options.get("chunk_length_s"):
            self._overlapping(0, options["chunk_length_s"], options.get("stride_length_s"))

    def _check_written(self, name: str, times: Any, stride: Any, writing: Mapping[str, Any]) -> None:
        if times:
            raise ValueError(
                f"return_timestamps={times!r} is not here for {name}, which writes text without times. Leave it out, or take a CTC "
                f"model: pipeline({self.task!r}, model='facebook/wav2vec2-base-960h', return_timestamps='word')."
            )
        if stride is not None:
            raise ValueError(
                f"stride_length_s={stride!r} is for CTC models; recordings for {name} are cut where it is quiet, into pieces that "
                f"do not overlap. Leave it out."
            )
        rules = getattr(self.model, "generation_config", None)
        if isinstance(rules, GenerationConfig):
            rules.updated(writing).check()


OWN = {*SAMPLES, *FILE, RATE, STRIDE}


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise ValueError(f"{name}={value!r} must be seconds, 0 or more.")
    return float(value)
