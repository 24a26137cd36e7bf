"""The pipeline blocks of transformers' quick tour, run here: the calls are the tour's, the import is vertebra.

The hub is the loopback server with small checkpoints of the same architectures; answers are compared with those of transformers'
pipelines on the same files.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import datasets
import maskformer_cases
import numpy as np
import pytest
import torch
import transformers
from guide_hub import DISTILBERT, REPOSITORIES, UNCASED, write_words
from hub_server import HubServer
from oracle import perturb
from PIL import Image
from real import lite0, photos
from scipy.io import wavfile

from vertebra import AutoImageProcessor, pipeline
from vertebra.auto.tasks import TASKS

SST = TASKS["text-classification"].default
REVIEWS = "nlptown/bert-base-multilingual-uncased-sentiment"
SPEECH = "facebook/wav2vec2-base-960h"
MASKS = "facebook/maskformer-resnet50-coco-stuff"
HAPPY = "We are very happy to show you the 🤗 Transformers library."
HATE = "We hope you don't hate it."
FRENCH = "Nous sommes très heureux de vous présenter la bibliothèque 🤗 Transformers."
LABELS = dict(enumerate(["cat", "daisy", "cup", "moped"]))


def sentiment(folder: Path) -> None:
    config = transformers.DistilBertConfig(**DISTILBERT, id2label={0: "NEGATIVE", 1: "POSITIVE"})
    perturb(transformers.DistilBertForSequenceClassification(config).eval()).save_pretrained(folder)
    write_words(folder / "vocab.txt", UNCASED, 30522)


def masks(folder: Path) -> None:
    config = transformers.MaskFormerConfig(
        backbone_config=maskformer_cases.backbones()["resnet"],
        decoder_config=transformers.DetrConfig(**maskformer_cases.DECODER),
        **{**maskformer_cases.HEAD, "id2label": LABELS, "label2id": {name: index for index, name in LABELS.items()}},
    )
    perturb(transformers.MaskFormerForInstanceSegmentation(config).eval(), scale=0.6).save_pretrained(folder)
    size = {"shortest_edge": 64, "longest_edge": 96}
    transformers.MaskFormerImageProcessor(size=size, num_labels=len(LABELS)).save_pretrained(folder)


def speech(folder: Path) -> None:
    """The guides' checkpoint, with all letters about as likely, so that the texts say something."""
    REPOSITORIES[SPEECH](folder)
    model = perturb(transformers.Wav2Vec2ForCTC.from_pretrained(folder).eval(), scale=0.3)
    with torch.no_grad():
        model.lm_head.weight.mul_(30)
        model.lm_head.bias.sub_(model(torch.randn(1, 20000)).logits[0].mean(0))
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tour")
    made = {SST[0]: sentiment, REVIEWS: REPOSITORIES[REVIEWS], SPEECH: speech, MASKS: masks}
    for name, write in made.items():
        torch.manual_seed(0)
        write(root / name)
    return {name: root / name for name in made}


@pytest.fixture(autouse=True)
def at_work(repositories: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: HubServer) -> None:
    """A working folder of its own, and the hub with the repositories that the tour loads."""
    monkeypatch.chdir(tmp_path)
    for name, folder in repositories.items():
        hub.add(name, folder)
    hub.add(SST[0], repositories[SST[0]], revision=SST[1])


def assert_equal(actual: Any, expected: Any, tol: float = 1e-5) -> None:
    """The same keys in the same order, labels and texts; scores to `tol`; masks but for one pixel in 10,000."""
    if isinstance(expected, dict):
        assert list(actual) == list(expected)
        for name in expected:
            assert_equal(actual[name], expected[name], tol)
    elif isinstance(expected, list):
        assert len(actual) == len(expected)
        for pair in zip(actual, expected, strict=True):
            assert_equal(*pair, tol)
    elif isinstance(expected, float):
        assert actual == pytest.approx(expected, abs=tol)
    elif isinstance(expected, Image.Image):
        assert (actual.mode, actual.size) == (expected.mode, expected.size)
        assert np.mean(np.asarray(actual) != np.asarray(expected)) <= 1e-4
    else:
        assert actual == expected


def test_a_text_and_a_list_of_texts() -> None:
    classifier = pipeline("sentiment-analysis")
    theirs = transformers.pipeline("sentiment-analysis", device="cpu")
    assert_equal(classifier(HAPPY), theirs(HAPPY))

    results = classifier([HAPPY, HATE])
    assert_equal(results, theirs([HAPPY, HATE]))
    for result in results:
        line = f"label: {result['label']}, with score: {round(result['score'], 4)}"
        assert re.fullmatch(r"label: (POSITIVE|NEGATIVE), with score: [01]\.\d{1,4}", line)


def test_french_with_a_model_and_its_tokenizer() -> None:
    from vertebra import AutoModelForSequenceClassification, AutoTokenizer

    model_name = REVIEWS
    model = AutoModelForSequenceClassification.from_pretrained(model_name)
    tokenizer = AutoTokenizer.from_pretrained(model_name)
    classifier = pipeline("sentiment-analysis", model=model, tokenizer=tokenizer)
    found = classifier(FRENCH)
    assert_equal(found, transformers.pipeline("sentiment-analysis", model=model_name, device="cpu")(FRENCH))
    assert found[0]["label"].endswith(("star", "stars"))


def test_texts_of_a_dataset() -> None:
    """Its tokens by `map`, and its column through a pipeline."""
    from vertebra import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(REVIEWS)
    dataset = datasets.Dataset.from_dict({"text": [HAPPY, HATE, FRENCH] * 4})

    def tokenize_dataset(dataset: Any) -> Any:
        return tokenizer(dataset["text"])

    theirs = transformers.AutoTokenizer.from_pretrained(REVIEWS)
    found = dataset.map(tokenize_dataset, batched=True)
    assert found.column_names == ["text", "input_ids", "token_type_ids", "attention_mask"]
    assert found["input_ids"][:] == theirs(dataset["text"][:])["input_ids"]

    classifier = pipeline("sentiment-analysis", model=REVIEWS, batch_size=4)
    expected = classifier(dataset["text"][:])
    assert list(classifier(dataset["text"])) == expected
    assert list(classifier(row["text"] for row in dataset)) == expected


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """A folder of five recordings of noise at 8 kHz, the rate of the tour's dataset."""
    noise = np.random.default_rng(0)
    (folder := tmp_path / "recordings").mkdir()
    for number, length in enumerate((4000, 2500, 4000, 6000, 1200)):
        samples = noise.standard_normal(length) * np.abs(np.sin(np.arange(length) / 150)) * 4000
        wavfile.write(folder / f"{number}.wav", 8000, samples.astype(np.int16))
    return folder


def test_recordings_of_a_dataset(recordings: Path) -> None:
    """As files that are not decoded, and as samples: what `datasets` gives without torchcodec."""
    speech_recognizer = pipeline("automatic-speech-recognition", model=SPEECH)
    files = sorted(map(str, recordings.iterdir()))
    expected = speech_recognizer(files)
    assert len({result["text"] for result in expected}) > 3
    rate = speech_recognizer.feature_extractor.sampling_rate
    dataset = datasets.Dataset.from_dict({"audio": files}).cast_column("audio", datasets.Audio(rate, decode=False))
    assert speech_recognizer(dataset[:4]["audio"]) == expected[:4]
    assert list(speech_recognizer(dataset["audio"], batch_size=2)) == expected
    samples = [{"array": wavfile.read(file)[1] / 32768, "sampling_rate": 8000} for file in files]
    assert list(speech_recognizer(datasets.Dataset.from_dict({"audio": samples})["audio"])) == expected


TOUR = """
import json, sys
import torch
from vertebra import pipeline

speech_recognizer = pipeline("automatic-speech-recognition", model="facebook/wav2vec2-base-960h")

from datasets import load_dataset, Audio

dataset = load_dataset("audiofolder", data_dir=sys.argv[1], split="train")
dataset = dataset.cast_column("audio", Audio(sampling_rate=speech_recognizer.feature_extractor.sampling_rate))
result = speech_recognizer(dataset[:4]["audio"])

whole = list(speech_recognizer(dataset["audio"], batch_size=3))
samples = [audio.get_all_samples() for audio in dataset["audio"]]
torch.save([(each.data, each.sample_rate) for each in samples], sys.argv[2])
print(json.dumps([result, whole]))
"""


def ffmpeg(folder: Path) -> str:
    """Where torchcodec finds FFmpeg: the libraries that the package av brings, under the names that they have in FFmpeg."""
    libraries = Path(str(distribution("av").locate_file("av.libs")))
    folder.mkdir()
    for path in libraries.iterdir():
        if found := re.fullmatch(r"(lib(?:av|sw)\w+)-\w+(\.so\.\d+)[\d.]*", path.name):
            (folder / "".join(found.groups())).symlink_to(path)
    return f"{folder}:{libraries}"


def test_speech_of_a_dataset(recordings: Path, tmp_path: Path) -> None:
    """In a process of its own, as the linker looks for FFmpeg where it was told at the start; transformers gets its samples."""
    paths = [os.environ.get("LD_LIBRARY_PATH"), ffmpeg(tmp_path / "ffmpeg")]
    done = subprocess.run(
        [sys.executable, "-c", TOUR, str(recordings), str(tmp_path / "samples.pt")],
        env={**os.environ, "LD_LIBRARY_PATH": ":".join(filter(None, paths)), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if "libtorch_cuda" in done.stderr:
        pytest.skip("torchcodec of this index needs a torch with CUDA: pip install both from the index of CPU wheels")
    assert done.returncode == 0, done.stderr
    result, whole = json.loads(done.stdout)
    theirs = transformers.pipeline("automatic-speech-recognition", model=SPEECH, device="cpu")
    samples = torch.load(tmp_path / "samples.pt")
    expected = theirs([{"array": data[0].numpy(), "sampling_rate": rate} for data, rate in samples])
    assert {(len(data), rate) for data, rate in samples} == {(1, 16000)}
    assert len({answer["text"] for answer in expected}) > 3
    assert result == expected[:4]
    assert whole == expected


@pytest.mark.parametrize("subtask", ["panoptic", "instance", "semantic"])
def test_segmentation(subtask: str) -> None:
    """Queries of instances are counted in another way here, unless the processor is to do as transformers' does."""
    processor = AutoImageProcessor.from_pretrained(MASKS, compat=True) if subtask == "instance" else None
    segmenter = pipeline("image-segmentation", model=MASKS, image_processor=processor)
    theirs = transformers.pipeline("image-segmentation", model=MASKS, device="cpu")
    image = str(sorted(photos().iterdir())[0])
    options = {"subtask": subtask, "threshold": 0.2, "mask_threshold": 0.4, "overlap_mask_area_threshold": 0.3}
    expected = theirs(image, **options)
    assert expected, "the oracle must find something"
    assert_equal(segmenter(image, **options), expected)


def test_a_classifier_with_real_weights() -> None:
    """PIL shrinks as transformers does; what is usual here is within one grey level."""
    files = [str(file) for file in sorted(photos().iterdir())]
    classifier = pipeline("image-classification", model=lite0())
    found = classifier(files)
    assert [answer[0]["label"] for answer in found] == ["tiger cat", "daisy", "espresso", "moped", "palace"]
    pictures = [Image.open(file).convert("RGB") for file in files]
    expected = transformers.pipeline("image-classification", model=str(lite0()), device="cpu")(pictures)
    assert_equal(found, expected, tol=2e-3)
    processor = AutoImageProcessor.from_pretrained(lite0(), backend="pil")
    assert_equal(pipeline("image-classification", model=lite0(), image_processor=processor)(files), expected)
