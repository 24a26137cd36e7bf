"""The pipelines of recordings against transformers', on the same tiny checkpoints and noise; and on real speech."""

from __future__ import annotations

import io
import json
import re
import weakref
from collections.abc import Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import processor_cases
import pytest
import soundfile
import torch
import transformers
import wav2vec2_cases
import whisper_cases
from oracle import perturb
from processor_cases import LETTERS
from real_speech import speech, whisper
from scipy.io import wavfile
from scipy.signal import resample_poly

from vertebra import AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer, pipeline
from vertebra.pipelines.audios import resampled
from vertebra.pipelines.cutting import overlapping_spans, quiet_spans
from vertebra.pipelines.errors import PipelineItemError
from vertebra.pipelines.sound_files import decoded

RATE = 16000
LABELS = dict(enumerate(["yes", "no", "up", "down"]))
NAMES = {"id2label": LABELS, "label2id": {name: index for index, name in LABELS.items()}}
ADAPTED = {**wav2vec2_cases.STABLE, "add_adapter": True, "num_adapter_layers": 1, "output_hidden_size": 16}
SPEECH, CLASSES = "automatic-speech-recognition", "audio-classification"


def saved(model: Any, folder: Path, mask: bool) -> Path:
    perturb(model.eval(), scale=0.3)
    if hasattr(model, "lm_head"):
        with torch.no_grad():  # all letters are about as likely
            model.lm_head.weight.mul_(30)
            model.lm_head.bias.sub_(model(torch.randn(1, 20000)).logits[0].mean(0))
    model.save_pretrained(folder)
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=mask)
    vocabulary = folder / "vocab.json"
    vocabulary.write_text(json.dumps({letter: number for number, letter in enumerate(LETTERS)}))
    transformers.Wav2Vec2Processor(extractor, transformers.Wav2Vec2CTCTokenizer(str(vocabulary))).save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints by name, made with transformers."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("audio")

    def config(**settings: Any) -> Any:
        words = {"vocab_size": len(LETTERS), "pad_token_id": 0}
        return transformers.Wav2Vec2Config(**{**wav2vec2_cases.TINY, **words, **NAMES, **settings})

    stable = wav2vec2_cases.STABLE
    several = config(**stable, problem_type="multi_label_classification")
    processor = processor_cases.whisper(root / "words")
    writer = transformers.WhisperConfig(
        **{
            **whisper_cases.TINY,
            "vocab_size": len(processor.tokenizer),
            "max_source_positions": 50,
            "pad_token_id": processor.tokenizer.pad_token_id,
            "eos_token_id": processor.tokenizer.eos_token_id,
            "decoder_start_token_id": processor.tokenizer.convert_tokens_to_ids("<|startoftranscript|>"),
        }
    )
    torch.manual_seed(0)
    model = perturb(transformers.WhisperForConditionalGeneration(writer).eval(), scale=0.3)
    for layer in model.model.decoder.layers:  # texts hang on what is heard
        layer.encoder_attn.out_proj.weight.data.mul_(10)
        layer.encoder_attn.v_proj.weight.data.mul_(10)
    model.save_pretrained(root / "whisper")
    processor.save_pretrained(root / "whisper")
    heads = transformers.Wav2Vec2ForCTC, transformers.Wav2Vec2ForSequenceClassification
    return {
        "ctc": saved(heads[0](config()), root / "ctc", False),
        "stable": saved(heads[0](config(**stable)), root / "stable", True),
        "adapted": saved(heads[0](config(**ADAPTED)), root / "adapted", True),
        "classes": saved(heads[1](config()), root / "classes", False),
        "stable classes": saved(heads[1](config(**stable)), root / "stable_classes", True),
        "several": saved(heads[1](several), root / "several", True),
        "whisper": root / "whisper",
    }


@pytest.fixture(scope="module")
def clips() -> list[Any]:
    """Five clips of noise that swells and ebbs, two of them of one length."""
    noise = np.random.default_rng(0)
    lengths = (4000, 2500, 4000, 9000, 700)
    return [(noise.standard_normal(n) * np.abs(np.sin(np.arange(n) / 300)) * 0.15).astype(np.float32) for n in lengths]


@cache
def theirs_of(task: str, folder: Path) -> Any:
    return transformers.pipeline(task, model=str(folder), device="cpu")


@cache
def ours_of(task: str, folder: Path) -> Any:
    return pipeline(task, model=folder, device="cpu")


def assert_equal(actual: Any, expected: Any) -> None:
    """The same keys in the same order, labels, texts and times; scores to 1e-5."""
    if isinstance(expected, dict):
        assert list(actual) == list(expected)
        for name in expected:
            assert_equal(actual[name], expected[name])
    elif isinstance(expected, list):
        assert len(actual) == len(expected)
        for pair in zip(actual, expected, strict=True):
            assert_equal(*pair)
    elif isinstance(expected, float):
        assert actual == pytest.approx(expected, abs=1e-5)
    else:
        assert actual == expected


# What is heard


@pytest.mark.parametrize("name", ["classes", "stable classes", "several"])
@pytest.mark.parametrize(
    "options", [{}, {"top_k": 2}, {"top_k": None}, {"function_to_apply": "none"}, {"function_to_apply": "sigmoid"}]
)
def test_classification(name: str, options: dict[str, Any], made: dict[str, Path], clips: list[Any]) -> None:
    theirs, ours = theirs_of(CLASSES, made[name]), ours_of(CLASSES, made[name])
    expected = theirs(clips, **options)
    for batch_size in (1, 3):
        assert_equal(ours(clips, batch_size=batch_size, **options), expected)
    assert_equal(ours(clips[0], **options), theirs(clips[0], **options))


# What is said


@pytest.mark.parametrize("name", ["ctc", "stable"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"return_timestamps": "char"},
        {"return_timestamps": "word"},
        {"chunk_length_s": 0.1},
        {"chunk_length_s": 0.1, "stride_length_s": 0.03, "return_timestamps": "char"},
        {"chunk_length_s": 0.1, "stride_length_s": (0.02, 0.01), "return_timestamps": "word"},
        {"chunk_length_s": 0.12, "stride_length_s": (0, 0.02)},
    ],
)
def test_speech(name: str, options: dict[str, Any], made: dict[str, Path], clips: list[Any]) -> None:
    theirs, ours = theirs_of(SPEECH, made[name]), ours_of(SPEECH, made[name])
    expected = theirs(clips, **options)
    assert len(set("".join(found["text"] for found in expected))) > 3, "the oracle must hear several letters"
    for batch_size in (1, 3):
        assert_equal(ours(clips, batch_size=batch_size, **options), expected)
    assert_equal(ours(clips[0], **options), theirs(clips[0], **options))


def test_items_with_strides_and_notes(made: dict[str, Path], clips: list[Any]) -> None:
    items = [{"raw": clip, "sampling_rate": RATE, "stride": (400, 200), "note": "n"} for clip in clips[:3]]
    theirs = transformers.pipeline(SPEECH, model=str(made["stable"]), device="cpu")
    expected = [theirs(dict(item)) for item in items]
    assert expected[0]["note"] == ["n"]
    ours = pipeline(SPEECH, model=made["stable"], device="cpu")
    for batch_size in (1, 3):
        assert_equal(ours(items, batch_size=batch_size), expected)
    whole = ours([{**item, "stride": None} for item in items])
    assert [found["text"] for found in whole] == [found["text"] for found in ours(clips[:3])]
    with pytest.raises(ValueError, match=r"'stride' \(4000, 200\) must be samples at both ends .* it has 4000\."):
        ours({**items[0], "stride": (4000, 200)})


def test_only_what_is_padded_without_a_trace_shares_a_batch(made: dict[str, Path], clips: list[Any]) -> None:
    for name, most in (("ctc", 2), ("stable", 5), ("adapted", 2)):
        pipe = pipeline(SPEECH, model=made[name], device="cpu", batch_size=5)
        rows: list[int] = []
        handle = pipe.model.register_forward_pre_hook(
            lambda _, args, kwargs, rows=rows: rows.append(len(kwargs["input_values"])), with_kwargs=True
        )
        found = pipe(clips)
        assert max(rows) == most
        handle.remove()
        assert found == [pipe(clip) for clip in clips]


def test_pieces_too_short_for_a_step_are_left_out(made: dict[str, Path], clips: list[Any]) -> None:
    """The last piece of 4010 samples would be 10 long, where a step takes 30."""
    pipe = pipeline(SPEECH, model=made["ctc"], device="cpu")
    options = {"chunk_length_s": 0.125, "stride_length_s": 0.0}
    assert pipe(np.pad(clips[0], (0, 10)), **options) == pipe(clips[0], **options)


@pytest.mark.parametrize(
    "options", [{}, {"generate_kwargs": {"language": "de", "task": "translate"}}, {"language": "de"}]
)
def test_whisper(options: dict[str, Any], made: dict[str, Path], clips: list[Any]) -> None:
    theirs = transformers.pipeline(SPEECH, model=str(made["whisper"]), device="cpu")
    ours = pipeline(SPEECH, model=made["whisper"], device="cpu")
    for model in (theirs.model, ours.model):  # the languages, as a multilingual checkpoint has them
        rules = model.generation_config
        number = theirs.tokenizer.convert_tokens_to_ids
        rules.is_multilingual = True
        rules.lang_to_id = {f"<|{code}|>": number(f"<|{code}|>") for code in ("en", "de")}
        rules.task_to_id = {task: number(f"<|{task}|>") for task in ("transcribe", "translate")}
        rules.no_timestamps_token_id = number("<|notimestamps|>")
    expected = theirs(clips, num_beams=1, max_new_tokens=12, **options)
    assert len({found["text"] for found in expected}) > 1
    for batch_size in (1, 3):
        assert_equal(ours(clips, batch_size=batch_size, max_new_tokens=12, **options), expected)


def test_long_recordings_are_cut_where_it_is_quiet(made: dict[str, Path]) -> None:
    """Whisper here takes 1 s; transformers' pipeline gets the pieces."""
    loud = np.random.default_rng(0).standard_normal(2 * RATE + 6000).astype(np.float32) * 0.3
    loud[15000:15400] = loud[29000:29400] = 0
    spans = list(quiet_spans(loud, RATE))
    assert [(span.begin, span.end) for span in spans[1:]] == [(spans[0].end, spans[1].end), (spans[1].end, len(loud))]
    assert 15000 < spans[0].end < 15400
    assert 29000 < spans[1].end < 29400
    pipe = pipeline(SPEECH, model=made["whisper"], device="cpu", max_new_tokens=8)
    texts = [pipe(loud[span.begin : span.end])["text"] for span in spans]
    assert len(texts) == 3
    assert pipe([loud, loud], batch_size=2) == [{"text": "".join(texts)}] * 2
    shorter = [pipe(loud[span.begin : span.end])["text"] for span in quiet_spans(loud, RATE // 2)]
    assert pipe(loud, chunk_length_s=0.5) == {"text": "".join(shorter)}


def test_spans_cover_a_recording_once() -> None:
    noise = np.random.default_rng(0)
    for total in (1, 99, 100, 101, 1234):
        found = list(quiet_spans(noise.standard_normal(total).astype(np.float32), 100))
        assert [span.begin for span in found] == [0, *(span.end for span in found[:-1])]
        assert found[-1].end == total
        assert max(span.end - span.begin for span in found) <= 100
        own = [(span.begin + span.left, span.end - span.right) for span in overlapping_spans(total, 50, 8, 5)]
        assert own[0][0] == 0
        assert own[-1][1] == total
        assert [end for _, end in own[:-1]] == [begin for begin, _ in own[1:]]


def test_real_speech() -> None:
    pipe = pipeline(SPEECH, model=whisper(), device="cpu")
    files = [speech() / f"{name}.wav" for name in ("Front_Center", "Side_Right")]
    texts = [" Front, center.", " Side, right."]
    assert pipe(files, batch_size=2) == [{"text": text} for text in texts]
    theirs = transformers.pipeline(SPEECH, model=str(whisper()), device="cpu")
    _, samples = wavfile.read(files[0])
    at_rate = resample_poly(samples / 32768, 1, 3).astype(np.float32)
    assert theirs({"raw": at_rate, "sampling_rate": RATE}, num_beams=1) == {"text": texts[0]}
    assert pipe(at_rate) == {"text": texts[0]}


# What a recording may be


@pytest.fixture(scope="module")
def pipe(made: dict[str, Path]) -> Any:
    return pipeline(CLASSES, model=made["classes"], device="cpu", function_to_apply="none", top_k=None)


class Decoder:
    """What `datasets` gives for a decoded column: the interface of torchcodec's AudioDecoder."""

    def __init__(self, data: torch.Tensor, sample_rate: int) -> None:
        self.samples = data, sample_rate

    def get_all_samples(self) -> Any:
        return SimpleNamespace(data=self.samples[0], sample_rate=self.samples[1])


def test_forms_of_one_recording(pipe: Any, clips: list[Any], tmp_path: Path) -> None:
    clip = clips[0]
    wavfile.write(path := tmp_path / "clip.wav", RATE, clip)
    soundfile.write(flac := tmp_path / "clip.flac", clip, RATE, subtype="PCM_24")
    expected = pipe(clip)
    stereo = np.stack([clip * 0.5, clip * 1.5])
    for item in (
        path,
        str(path),
        path.read_bytes(),
        flac,
        torch.from_numpy(clip),
        clip.astype(np.float64),
        clip[None],
        stereo,
        stereo.T,
        torch.from_numpy(stereo),
        {"array": clip, "sampling_rate": RATE},
        {"raw": torch.from_numpy(clip), "sampling_rate": RATE, "path": "elsewhere.wav"},
        {"array": clip.tolist(), "sampling_rate": float(RATE)},
        {"bytes": path.read_bytes(), "path": "elsewhere.wav"},
        {"bytes": None, "path": str(path)},
        Decoder(torch.from_numpy(stereo), RATE),
    ):
        assert_equal(pipe(item), expected)


def test_other_rates_are_converted(pipe: Any, clips: list[Any], tmp_path: Path) -> None:
    clip = clips[3]
    for rate, (up, down) in {48000: (1, 3), 8000: (2, 1), 44100: (160, 441), 22050: (320, 441)}.items():
        expected = pipe(resample_poly(clip, up, down).astype(np.float32))
        assert_equal(pipe({"array": clip, "sampling_rate": rate}), expected)
        wavfile.write(path := tmp_path / f"{rate}.wav", rate, clip)
        assert_equal(pipe(path), expected)
    tone = np.sin(2 * np.pi * 440 * np.arange(48000) / 48000)
    found = resampled(tone.astype(np.float32), 48000, RATE)
    np.testing.assert_allclose(found[200:-200], np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)[200:-200], atol=2e-3)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["WAV", "WAVEX"])
def test_wav_files(subtype: str, channels: int, kind: str) -> None:
    """Soundfile is the oracle; the encodings that are not read by ourselves are read by it."""
    samples = np.random.default_rng(0).uniform(-1, 1, (1001, channels)).astype(np.float32)
    soundfile.write(file := io.BytesIO(), samples, 22050, subtype=subtype, format=kind)
    expected, rate = soundfile.read(io.BytesIO(file.getvalue()), dtype="float32", always_2d=True)
    found = decoded(file.getvalue())
    assert (found[0].dtype, found[1]) == (np.float32, rate)
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-7)


def test_wav_files_of_programs_that_did_not_know_the_end(clips: list[Any]) -> None:
    wavfile.write(file := io.BytesIO(), RATE, clips[0])
    content = bytearray(file.getvalue())
    at = content.index(b"data") + 4
    for size in (b"\0\0\0\0", b"\xff\xff\xff\xff"):
        content[at : at + 4] = size
        np.testing.assert_array_equal(decoded(bytes(content))[0][:, 0], clips[0])


@pytest.fixture
def server(clips: list[Any]) -> Iterator[str]:
    """The address of a web server with one recording."""
    wavfile.write(content := io.BytesIO(), RATE, clips[0])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content.getvalue())

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        thread = Thread(target=web.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{web.server_port}/clip.wav"
        web.shutdown()
        thread.join()


def test_addresses_are_refused_unless_allowed(pipe: Any, server: str, clips: list[Any]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{server!r} is an address, and a pipeline fetches nothing")):
        pipe(server)
    assert_equal(pipe(server, allow_urls=True), pipe(clips[0]))


CLIP = np.zeros(400, np.float32)
WAV = io.BytesIO()
wavfile.write(WAV, RATE, CLIP)


@pytest.mark.parametrize(
    ("item", "kind", "message"),
    [
        ("nowhere.wav", FileNotFoundError, "the recording is the path 'nowhere.wav', which does not exist."),
        (".", FileNotFoundError, "the recording is the path '.', which is a folder; give the files in it."),
        (b"no sound at all", ValueError, "the file begins with b'no sound at all' and is no sound that soundfile reads"),
        (WAV.getvalue()[:-100], ValueError, "the wav file is cut short: it says 1600 bytes of samples, and 1500 are there."),
        (WAV.getvalue()[:30], ValueError, "the wav file is damaged: it does not say how its samples are written ('fmt ')."),
        (b"RIFF\0\0\0\0WAVE", ValueError, "the wav file is damaged: it does not say how its samples are written ('fmt ')."),
        (WAV.getvalue()[:40], ValueError, "the wav file is damaged: it holds no samples ('data')."),
        (3, TypeError, "a recording is a path, the bytes of a file, an array of samples, or {'array': samples, "),
        (np.zeros((2, 3, 400)), ValueError, "a recording has the shape (samples,) or (channels, samples), not (2, 3, 400)."),
        (np.zeros((20, 400)), ValueError, "a recording of shape (20, 400) has no axis that can only be its channels"),
        (np.zeros((2, 4)), ValueError, "a recording of shape (2, 4) has no axis that can only be its channels"),
        (np.zeros(0, np.float32), ValueError, "Clip 0 is empty: it has no samples."),
        (np.zeros((2, 0)), ValueError, "the recording of shape (2, 0) is empty"),
        (np.zeros((2, 400), np.int16), TypeError, "samples of dtype int16; models take floats within -1…1: divide by 32768"),
        (np.where(np.arange(400) == 7, np.nan, CLIP), ValueError, "Clip 0 holds nan at sample 7, and 1 such in all."),
        (np.zeros(20, np.float32), ValueError, "the recording has 20 samples at 16000 Hz, and Wav2Vec2ForSequenceClass"),
        ({"array": CLIP}, ValueError, "also says the rate of its samples: {'array': samples, 'sampling_rate': 16000}."),
        ({"array": CLIP, "sampling_rate": 0}, ValueError, "sampling_rate=0 must say how many samples a second 'array' has"),
        ({"sound": CLIP}, ValueError, "under 'bytes' or 'path'; this one has 'sound'."),
    ],
)  # fmt: skip
def test_bad_recordings(item: Any, kind: type[Exception], message: str, pipe: Any) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        pipe(item)


def test_lists_of_numbers_are_no_recordings(pipe: Any) -> None:
    with pytest.raises(
        PipelineItemError, match=r"item 0 \(0.1\): .* become one by numpy.asarray\(samples, numpy.float32\)"
    ):
        pipe([0.1, 0.2])


def test_other_formats_need_soundfile(pipe: Any, clips: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(file := io.BytesIO(), clips[0], RATE, format="FLAC")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"begins with b'fLaC' and is no plain wav file; .* pip install soundfile\."):
        pipe(file.getvalue())


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_bad_recording_is_named_or_skipped(batch_size: int, made: dict[str, Path], clips: list[Any]) -> None:
    pipe = pipeline(SPEECH, model=made["stable"], device="cpu", batch_size=batch_size)
    items = [clips[0], clips[1] * np.nan, clips[2]]
    with pytest.raises(PipelineItemError, match=r"item 1 \(a ndarray\): Clip 0 holds nan at sample 0"):
        pipe(items)
    found = pipe(items, on_error="skip")
    assert found == [pipe(clips[0]), None, pipe(clips[2])]


def test_a_long_stream_keeps_nothing(made: dict[str, Path]) -> None:
    alive: list[weakref.ref[Any]] = []
    most = 0

    def recordings() -> Iterator[Any]:
        nonlocal most
        noise = np.random.default_rng(0)
        for _ in range(300):
            clip = noise.standard_normal(200).astype(np.float32)
            alive.append(weakref.ref(clip))
            most = max(most, sum(ref() is not None for ref in alive))
            yield clip

    pipe = pipeline(SPEECH, model=made["stable"], device="cpu", batch_size=4)
    assert sum("text" in found for found in pipe(recordings())) == 300
    assert most <= 16


# Options


@pytest.mark.parametrize(
    ("name", "options", "kind", "message"),
    [
        ("ctc", {"return_timestamps": True}, ValueError, "return_timestamps=True must be one of 'char', 'word', or None, for Wav"),
        ("ctc", {"generate_kwargs": {"language": "de"}}, ValueError, "language tell models such as Whisper how to write; Wav"),
        ("ctc", {"language": "de", "num_beams": 2}, ValueError, "language, num_beams tell models such as Whisper how"),
        ("ctc", {"chunk_length": 3}, TypeError, "got an unknown setting 'chunk_length'. Did you mean 'chunk_length_s'"),
        ("ctc", {"chunk_length_s": -1}, ValueError, "chunk_length_s=-1 must be seconds, 0 or more."),
        ("ctc", {"chunk_length_s": 0.1, "stride_length_s": 0.05}, ValueError, "chunk_length_s=0.1 must be more than what a piece"),
        ("ctc", {"chunk_length_s": 1, "stride_length_s": (1, 2, 3)}, ValueError, "stride_length_s=(1, 2, 3) must be a number"),
        ("whisper", {"chunk_length_s": 2}, ValueError, "chunk_length_s=2 is more than WhisperForConditionalGeneration takes"),
        ("whisper", {"num_beams": 5}, ValueError, "num_beams=5 is not here: generate() writes the likeliest token each time"),
        ("whisper", {"return_timestamps": True}, ValueError, "return_timestamps=True is not here for WhisperForConditional"),
        ("whisper", {"stride_length_s": 5}, ValueError, "stride_length_s=5 is for CTC models; recordings for Whisper"),
        ("whisper", {"langauge": "de"}, TypeError, "got an unknown setting 'langauge'. Did you mean 'language'"),
        ("whisper", {"generate_kwargs": {"langauge": "de"}}, TypeError, "generate() has no argument 'langauge'. Did you me"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit(
    name: str, options: dict[str, Any], kind: type[Exception], message: str, made: dict[str, Path]
) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        pipeline(SPEECH, model=made[name], device="cpu", **options)
    pipe = pipeline(SPEECH, model=made[name], device="cpu")
    with pytest.raises(kind, match=re.escape(message)):
        pipe([CLIP], **options)


def test_bad_options_of_classes(pipe: Any) -> None:
    with pytest.raises(ValueError, match=r"top_k=0 must be 1 or more, or None for all 4 labels."):
        pipe(CLIP, top_k=0)
    with pytest.raises(ValueError, match=r"function_to_apply='relu' must be one of 'softmax', 'sigmoid', 'none'"):
        pipe(CLIP, function_to_apply="relu")


def test_models_and_parts_as_objects(made: dict[str, Path], clips: list[Any], tmp_path: Path) -> None:
    model = AutoModelForCTC.from_pretrained(made["stable"])
    parts = {
        "tokenizer": AutoTokenizer.from_pretrained(made["stable"]),
        "feature_extractor": AutoFeatureExtractor.from_pretrained(made["stable"]),
    }
    pipe = pipeline(SPEECH, model=model, device="cpu", **parts)
    expected = pipeline(SPEECH, model=made["stable"], device="cpu")(clips)
    assert pipe(clips) == expected
    pipe.save_pretrained(tmp_path)
    assert pipeline(model=tmp_path, device="cpu")(clips) == expected
    assert "tokenizer=Wav2Vec2CTCTokenizer, feature_extractor=Wav2Vec2FeatureExtractor" in repr(pipe)


def test_sixteen_bits(made: dict[str, Path], clips: list[Any]) -> None:
    half = pipeline(CLASSES, model=made["stable classes"], device="cpu", dtype=torch.bfloat16, top_k=None)
    full = pipeline(CLASSES, model=made["stable classes"], device="cpu", top_k=None)
    assert half.dtype == torch.bfloat16
    for answer, expected in zip(half(clips, batch_size=2), full(clips), strict=True):
        scores = {entry["label"]: entry["score"] for entry in expected}
        assert all(entry["score"] == pytest.approx(scores[entry["label"]], abs=0.05) for entry in answer)
