"""Processors of speech: a feature extractor for the sound, a tokenizer for what is said."""

from __future__ import annotations

from typing import Any

from vertebra.auto.processing import ProcessorMixin
from vertebra.errors import listing


class SpeechProcessor(ProcessorMixin):
    """Audio to the model's input, transcripts to `labels`.

    Args:
        feature_extractor: Prepares audio.
        tokenizer: Prepares transcripts, and makes text of the model's output.

    Raises:
        TypeError: one of both is missing, or something else.
    """

    def __init__(self, feature_extractor: Any, tokenizer: Any) -> None:
        super().__init__(feature_extractor, tokenizer)

    def __call__(self, audio: Any = None, text: Any = None, **options: Any) -> Any:  # type: ignore[override]
        """Prepare clips, transcripts, or both.

        Args:
            audio: As the feature extractor takes it.
            text: As the tokenizer takes it.
            **options: As in `ProcessorMixin`: `sampling_rate`, `return_tensors`, `padding`, ….

        Returns:
            The feature extractor's batch for audio, with the ids of texts as `labels` where both are given; the tokenizer's batch
            for texts alone.

        Raises:
            ValueError: neither is given; and as the parts do.
            TypeError: an option that no part has; and as the parts do.
        """
        if audio is None and text is None:
            raise ValueError(
                f"{type(self).__name__}() got nothing to prepare; give audio=… (samples) or text=… (transcripts)."
            )
        arguments = self._arguments(options)
        if audio is None:
            return self.tokenizer(text, **arguments["tokenizer"])
        batch = self.feature_extractor(audio, **arguments["feature_extractor"])
        if text is not None:
            batch["labels"] = self.tokenizer(text, **arguments["tokenizer"])["input_ids"]
        return batch


class Wav2Vec2Processor(SpeechProcessor):
    """A `Wav2Vec2FeatureExtractor` with the tokenizer of a CTC model.

    Args:
        feature_extractor: Prepares audio.
        tokenizer: Prepares transcripts, and makes text of the best ids of each step.

    Raises:
        TypeError: one of both is missing, or something else.
    """

    def pad(self, input_features: Any = None, labels: Any = None, **options: Any) -> Any:
        """Pad clips, transcripts, or both to one length each; what a data loader's `collate_fn` needs.

        Args:
            input_features: As `feature_extractor.pad` takes them: a list of `{"input_values": clip}`.
            labels: As `tokenizer.pad` takes them: a list of `{"input_ids": ids}`.
            **options: Options of both (`padding`, `return_tensors`, …).

        Returns:
            The batch of the clips, with the padded ids as `labels` where both are given; the batch of the ids where they are alone.

        Raises:
            ValueError: neither is given; and as the parts do.
        """
        if input_features is None and labels is None:
            raise ValueError(
                "pad() got nothing to pad; give input_features=[{'input_values': …}, …] or labels=[{'input_ids': …}, …]."
            )
        if input_features is None:
            return self.tokenizer.pad(labels, **options)
        batch = self.feature_extractor.pad(input_features, **options)
        if labels is not None:
            batch["labels"] = self.tokenizer.pad(labels, **options)["input_ids"]
        return batch

    @property
    def model_input_names(self) -> list[str]:
        """The entries of a call with audio and texts."""
        return [*self.feature_extractor.model_input_names, "labels"]


class WhisperProcessor(SpeechProcessor):
    """A `WhisperFeatureExtractor` with Whisper's tokenizer.

    Args:
        feature_extractor: Prepares audio.
        tokenizer: Prepares transcripts, and makes text of generated ids.

    Raises:
        TypeError: one of both is missing, or something else.
    """

    def get_decoder_prompt_ids(
        self, task: str | None = None, language: str | None = None, no_timestamps: bool = True
    ) -> list[tuple[int, int]]:
        """Return the tokens that a text begins with, after the first: `generation_config.forced_decoder_ids`.

        Args:
            task: `"transcribe"`, or `"translate"` (to English).
            language: English name or code of the language that is spoken.
            no_timestamps: Whether texts come without times.

        Returns:
            Pairs `(place, token)`.

        Raises:
            ValueError: a language or task that is not known, or that the vocabulary lacks.
        """
        from vertebra.audio.languages import language_code

        if task not in (None, "transcribe", "translate"):
            raise ValueError(f"task={task!r} is not known; it is 'transcribe' or 'translate'.")
        names = [language and f"<|{language_code(language)}|>", task and f"<|{task}|>"]
        names = [name for name in (*names, "<|notimestamps|>" if no_timestamps else None) if name]
        vocabulary = self.tokenizer.get_vocab()
        missing = [name for name in names if name not in vocabulary]
        if missing:
            raise ValueError(f"The vocabulary has no {listing(missing)}: it is not that of a model that knows it.")
        return [(place, vocabulary[name]) for place, name in enumerate(names, start=1)]
