"""The Auto classes for tasks on sound."""

from __future__ import annotations

from vertebra.auto.factory import AutoModelFactory


class AutoModelForAudioClassification(AutoModelFactory):
    """Chooses the class with a classifier of whole recordings. Not constructed itself."""

    task = "audio_classification"


class AutoModelForAudioFrameClassification(AutoModelFactory):
    """Chooses the class with a classifier of every frame. Not constructed itself."""

    task = "audio_frame_classification"


class AutoModelForAudioXVector(AutoModelFactory):
    """Chooses the class with one vector for every speaker. Not constructed itself."""

    task = "audio_xvector"


class AutoModelForCTC(AutoModelFactory):
    """Chooses the class that scores letters of every frame. Not constructed itself."""

    task = "ctc"


class AutoModelForSpeechSeq2Seq(AutoModelFactory):
    """Chooses the class that writes down speech token by token. Not constructed itself."""

    task = "speech_seq2seq"


class AutoModelForTextToSpectrogram(AutoModelFactory):
    """Chooses the class that turns texts into spectrograms. Not constructed itself."""

    task = "text_to_spectrogram"


class AutoModelForTextToWaveform(AutoModelFactory):
    """Chooses the class that turns texts into sound. Not constructed itself."""

    task = "text_to_waveform"
