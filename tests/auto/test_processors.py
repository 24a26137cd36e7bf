"""Processors against transformers': what a call returns, files both ways, and AutoProcessor's choice."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import processor_cases as cases
import pytest
import torch
import transformers
from hub_server import HubServer
from hub_writes import WritableHubServer

from vertebra import (
    AutoConfig,
    AutoProcessor,
    BertTokenizerFast,
    CLIPImageProcessor,
    CLIPProcessor,
    LayoutLMv2Processor,
    PreTrainedConfig,
    ProcessorMixin,
    ViTImageProcessor,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
    WhisperProcessor,
)

SPEECH = {"audio": cases.clips(), "text": ["AB C", "D"], "sampling_rate": 16000}
IMAGES = {"images": [cases.picture(), cases.picture(33, 50)], "text": ["the cat", "a"], "padding": True}
PAGE = {"images": cases.picture(), "text": cases.PAGE, "boxes": cases.BOXES}
QUESTION = {"images": cases.picture(), "text": "hello cat", "text_pair": cases.PAGE, "boxes": cases.BOXES}
PAGES = {
    "images": [cases.picture(), cases.picture(seed=1)],
    "text": [cases.PAGE, cases.PAGE[:2]],
    "boxes": [cases.BOXES, cases.BOXES[:2]],
    "word_labels": [[0, 1, 2, 3, 4], [5, 6]],
    "padding": "max_length",
    "max_length": 16,
}

CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "wav2vec2": ("wav2vec2", {**SPEECH, "padding": True, "return_tensors": "pt"}),
    "wav2vec2 lists": ("wav2vec2", SPEECH),
    "wav2vec2 audio": ("wav2vec2", {"audio": cases.clips()[0], "sampling_rate": 16000, "return_tensors": "np"}),
    "wav2vec2 text": ("wav2vec2", {"text": ["AB", "C"], "padding": True, "return_tensors": "pt"}),
    "wav2vec2 groups": (
        "wav2vec2",
        {
            "audio": cases.clips(),
            "text": ["AB", "C"],
            "audio_kwargs": {"sampling_rate": 16000, "padding": "max_length", "max_length": 1000},
            "text_kwargs": {"padding": "max_length", "max_length": 5},
            "common_kwargs": {"return_tensors": "pt"},
        },
    ),
    "whisper": ("whisper", {**SPEECH, "text": ["the cat"] * 2, "return_tensors": "pt"}),
    "whisper text": ("whisper", {"text": ["the", "a cat"]}),
    "clip": ("clip", {**IMAGES, "return_tensors": "pt"}),
    "clip lists": ("clip", IMAGES),
    "clip images": ("clip", {"images": cases.picture(), "return_tensors": "np", "do_normalize": False}),
    "clip text": ("clip", {"text": "the cat", "max_length": 3, "truncation": True}),
    "layoutlmv2": ("layoutlmv2", {**PAGE, "return_tensors": "pt"}),
    "layoutlmv2 lists": ("layoutlmv2", PAGE),
    "layoutlmv2 question": ("layoutlmv2", {**QUESTION, "return_tensors": "np"}),
    "layoutlmv2 pages": ("layoutlmv2", {**PAGES, "return_tensors": "pt"}),
}


class BeatsConfig(PreTrainedConfig):
    model_type = "beats"


class PartsByName(ProcessorMixin):
    """Parts as transformers 4 declares them."""

    attributes = ("feature_extractor", "tokenizer")


class BeatsProcessor(ProcessorMixin):
    """Parts and a setting of one's own."""

    def __init__(self, image_processor: Any, tokenizer: Any, tempo: int = 120) -> None:
        super().__init__(image_processor, tokenizer)
        self.tempo = tempo


@pytest.fixture
def clean_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    from vertebra.auto import preparers, registry

    monkeypatch.setattr(registry, "_configs", {})
    monkeypatch.setattr(preparers, "_registered", {})


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of the four processors as transformers saves them."""
    root = tmp_path_factory.mktemp("processors")
    for name in ("wav2vec2", "whisper", "clip", "layoutlmv2"):
        getattr(cases, name)(root / "vocabularies" / name).save_pretrained(root / name)
    return root


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None removes one."""
    content = {**(json.loads(path.read_text()) if path.exists() else {}), **changes}
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def as_lists(value: Any) -> Any:
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return value.tolist()
    return [as_lists(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def check_equal(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    assert list(ours) == list(theirs)
    for name, expected in theirs.items():
        assert type(ours[name]) is type(expected), name
        if (
            name == "input_features"
        ):  # transformers' own spectrograms differ by as much from one thread count to another
            np.testing.assert_allclose(np.asarray(ours[name]), np.asarray(expected), rtol=0, atol=1e-6)
        else:
            assert as_lists(ours[name]) == as_lists(expected), name


@pytest.mark.parametrize("case", CALLS)
def test_calls_equal_transformers(case: str, folders: Path) -> None:
    family, arguments = CALLS[case]
    ours = AutoProcessor.from_pretrained(folders / family)
    theirs = transformers.AutoProcessor.from_pretrained(folders / family)
    assert type(ours).__name__ == type(theirs).__name__
    check_equal(ours(**arguments), theirs(**arguments))
    assert ours.model_input_names == list(dict.fromkeys(theirs.model_input_names))


@pytest.mark.parametrize("family", ["wav2vec2", "whisper", "clip", "layoutlmv2"])
def test_files_both_ways(family: str, folders: Path, tmp_path: Path, hub: HubServer) -> None:
    ours = AutoProcessor.from_pretrained(folders / family)
    assert json.loads(ours.to_json_string()) == json.loads((folders / family / "processor_config.json").read_text())
    paths = ours.save_pretrained(tmp_path / "ours")
    assert sorted(paths) == sorted(str(path) for path in (tmp_path / "ours").iterdir() if not path.name.startswith("."))
    theirs = transformers.AutoProcessor.from_pretrained(tmp_path / "ours")
    assert type(theirs).__name__ == type(ours).__name__
    arguments = CALLS[family][1]
    check_equal(ours(**arguments), theirs(**arguments))
    again = type(ours).from_pretrained(tmp_path / "ours")
    assert again.to_dict() == ours.to_dict()
    assert again.to_json_string() in repr(again)
    (tmp_path / "ours" / "processor_config.json").unlink()  # as versions before 4.56 read and write it
    older = AutoProcessor.from_pretrained(tmp_path / "ours")
    assert (type(older), older.to_dict()) == (type(ours), ours.to_dict())
    assert hub.requests == []


def test_a_part_saved_later_counts(folders: Path, tmp_path: Path) -> None:
    ours = AutoProcessor.from_pretrained(folders / "clip")
    ours.save_pretrained(tmp_path)
    ours.image_processor.image_mean = (0.25, 0.25, 0.25)
    paths = ours.image_processor.save_pretrained(tmp_path)
    assert [Path(path).name for path in paths] == ["preprocessor_config.json", "processor_config.json"]
    assert AutoProcessor.from_pretrained(tmp_path).to_dict() == ours.to_dict()
    theirs = transformers.AutoProcessor.from_pretrained(tmp_path)
    assert list(theirs.image_processor.image_mean) == [0.25] * 3


@pytest.mark.parametrize("where", ["preprocessor_config", "tokenizer_config", "config", None])
def test_where_the_class_is_named(where: str | None, folders: Path, tmp_path: Path) -> None:
    Wav2Vec2Processor.from_pretrained(folders / "wav2vec2").save_pretrained(tmp_path)
    (tmp_path / "processor_config.json").unlink()
    for name in ("preprocessor_config", "tokenizer_config", "config"):
        edit(tmp_path / f"{name}.json", processor_class="Wav2Vec2Processor" if name == where else None)
    if where is None:
        edit(tmp_path / "config.json", model_type="wav2vec2")
    assert type(AutoProcessor.from_pretrained(tmp_path)) is Wav2Vec2Processor


def test_model_types_without_a_model_here(folders: Path, tmp_path: Path) -> None:
    for model_type, cls in (("layoutlmv2", LayoutLMv2Processor), ("clip", CLIPProcessor)):
        folder = tmp_path / model_type
        cls.from_pretrained(folders / model_type).save_pretrained(folder)
        (folder / "processor_config.json").unlink()
        edit(folder / "preprocessor_config.json", processor_class=None)
        edit(folder / "tokenizer_config.json", processor_class=None)
        edit(folder / "config.json", model_type=model_type)
        assert type(AutoProcessor.from_pretrained(folder)) is cls


def test_single_parts(tmp_path: Path, folders: Path) -> None:
    BertTokenizerFast.from_pretrained(folders / "vocabularies" / "layoutlmv2").save_pretrained(tmp_path / "text")
    ViTImageProcessor(size=32).save_pretrained(tmp_path / "images")
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "audio")
    (tmp_path / "older").mkdir()
    edit(tmp_path / "older" / "preprocessor_config.json", feature_extractor_type="ViTFeatureExtractor", size=48)
    assert type(AutoProcessor.from_pretrained(tmp_path / "text")) is BertTokenizerFast
    assert AutoProcessor.from_pretrained(tmp_path / "images", image_mean=[0.1] * 3).image_mean == (0.1,) * 3
    assert type(AutoProcessor.from_pretrained(tmp_path / "audio")) is Wav2Vec2FeatureExtractor
    assert AutoProcessor.from_pretrained(tmp_path / "older").size == {"height": 48, "width": 48}
    edit(tmp_path / "audio" / "preprocessor_config.json", feature_extractor_type=None)
    edit(tmp_path / "audio" / "config.json", model_type="wav2vec2")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"none of a tokenizer's files, so how its inputs are prepared"):
        AutoProcessor.from_pretrained(tmp_path / "empty")


@pytest.mark.parametrize(("family", "part"), [("wav2vec2", Wav2Vec2FeatureExtractor), ("clip", CLIPImageProcessor)])
def test_an_implied_processor_without_its_tokenizer_is_its_other_part(
    family: str, part: type, folders: Path, tmp_path: Path
) -> None:
    """Audio classifiers have the type of recognisers, and no vocabulary."""
    ours = AutoProcessor.from_pretrained(folders / family)
    getattr(ours, ours.attributes[0]).save_pretrained(tmp_path)
    edit(tmp_path / "config.json", model_type=family)
    assert type(AutoProcessor.from_pretrained(tmp_path)) is part
    edit(tmp_path / "preprocessor_config.json", processor_class=type(ours).__name__)
    with pytest.raises(FileNotFoundError, match="has no vocabulary"):  # what a file names must be there
        AutoProcessor.from_pretrained(tmp_path)


def test_a_save_is_all_or_nothing(folders: Path, tmp_path: Path) -> None:
    ours = AutoProcessor.from_pretrained(folders / "clip")
    (tmp_path / "processor_config.json").mkdir()
    (tmp_path / "added_tokens.json").write_text("{}")
    with pytest.raises(IsADirectoryError, match="there is a folder of this name"):
        ours.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["added_tokens.json", "processor_config.json"]
    (tmp_path / "processor_config.json").rmdir()
    ours.save_pretrained(tmp_path)
    assert not (tmp_path / "added_tokens.json").exists()  # what a former tokenizer left


def test_saving_changes_no_part(folders: Path, tmp_path: Path) -> None:
    tokenizer = BertTokenizerFast.from_pretrained(folders / "vocabularies" / "layoutlmv2")
    CLIPProcessor(CLIPImageProcessor(), tokenizer).save_pretrained(tmp_path / "both")
    assert json.loads((tmp_path / "both" / "tokenizer_config.json").read_text())["processor_class"] == "CLIPProcessor"
    tokenizer.save_pretrained(tmp_path / "alone")
    assert type(AutoProcessor.from_pretrained(tmp_path / "alone")) is BertTokenizerFast


def test_from_the_hub(folders: Path, hub: HubServer, cache: Path) -> None:
    hub.add("someone/pages", folders / "layoutlmv2")
    ours = AutoProcessor.from_pretrained("someone/pages", cache_dir=cache)
    assert type(ours) is LayoutLMv2Processor
    again = AutoProcessor.from_pretrained("someone/pages", cache_dir=cache, local_files_only=True)
    assert again.to_dict() == ours.to_dict()


def test_push(folders: Path, hub: WritableHubServer, cache: Path) -> None:
    ours = AutoProcessor.from_pretrained(folders / "clip")
    hub.account("hf_someone", "someone")
    ours.push_to_hub("someone/clip-processor", token="hf_someone")
    again = AutoProcessor.from_pretrained("someone/clip-processor", cache_dir=cache)
    assert again.to_dict() == ours.to_dict()


def test_overrides(folders: Path) -> None:
    ours = AutoProcessor.from_pretrained(
        folders / "clip", size={"shortest_edge": 30}, model_max_length=5, use_fast=False
    )
    assert ours.image_processor.size == {"shortest_edge": 30}
    assert (ours.image_processor.backend, ours.tokenizer.is_fast, ours.tokenizer.model_max_length) == ("pil", False, 5)
    both = AutoProcessor.from_pretrained(folders / "wav2vec2", padding_side="left", do_normalize=False)
    assert (both.feature_extractor.padding_side, both.tokenizer.padding_side) == ("left", "left")
    assert both.feature_extractor.do_normalize is False
    with pytest.raises(TypeError, match=r"got 'do_normalise', which no part of it takes\. Did you mean 'do_normalize'"):
        AutoProcessor.from_pretrained(folders / "clip", do_normalise=False)
    _, unused = AutoProcessor.from_pretrained(folders / "clip", other=1, size=9, return_unused_kwargs=True)
    assert unused == {"other": 1}


@pytest.mark.usefixtures("clean_registry")
def test_register(folders: Path, tmp_path: Path) -> None:
    AutoConfig.register("beats", BeatsConfig)
    with pytest.raises(ValueError, match=r"must be a class that derives from vertebra\.ProcessorMixin"):
        AutoProcessor.register(BeatsConfig, ViTImageProcessor)
    AutoProcessor.register(BeatsConfig, BeatsProcessor)
    with pytest.raises(ValueError, match="BeatsConfig has a processor already; pass exist_ok=True"):
        AutoProcessor.register(BeatsConfig, BeatsProcessor)
    assert list(BeatsProcessor.attributes) == ["image_processor", "tokenizer"]
    clip = CLIPProcessor.from_pretrained(folders / "clip")
    BeatsProcessor(clip.image_processor, clip.tokenizer, tempo=90).save_pretrained(tmp_path)
    ours = AutoProcessor.from_pretrained(tmp_path)
    assert (type(ours), ours.tempo) == (BeatsProcessor, 90)
    assert AutoProcessor.from_pretrained(tmp_path, tempo=60).tempo == 60
    for name in ("processor_config", "preprocessor_config", "tokenizer_config"):
        edit(tmp_path / f"{name}.json", processor_class=None)
    assert type(AutoProcessor.from_pretrained(tmp_path, config=BeatsConfig())) is BeatsProcessor


def test_parts_and_text(folders: Path, tmp_path: Path) -> None:
    ours = AutoProcessor.from_pretrained(folders / "wav2vec2")
    ids = [5, 5, 0, 5, 4, 6]
    assert ours.decode(ids) == ours.tokenizer.decode(ids) == "AA B"
    assert ours.batch_decode([ids, [7]]) == ["AA B", "C"]
    theirs = transformers.AutoProcessor.from_pretrained(folders / "wav2vec2")
    rows = [{"input_values": clip} for clip in cases.clips()], [{"input_ids": [5]}, {"input_ids": [6, 7]}]
    check_equal(ours.pad(*rows, return_tensors="pt"), theirs.pad(rows[0], labels=rows[1], return_tensors="pt"))
    check_equal(ours.pad(labels=rows[1]), theirs.pad(labels=rows[1]))
    with pytest.raises(ValueError, match=r"pad\(\) got nothing to pad"):
        ours.pad()
    right = {"feature_extractor": ours.feature_extractor, "tokenizer": ours.tokenizer}
    assert Wav2Vec2Processor(**right).to_dict() == ours.to_dict()
    with pytest.raises(TypeError, match="feature_extractor is a Wav2Vec2CTCTokenizer, not a feature extractor"):
        Wav2Vec2Processor(ours.tokenizer, ours.feature_extractor)
    with pytest.raises(
        TypeError, match="tokenizer is a Wav2Vec2CTCTokenizer of transformers, not a tokenizer of vertebra"
    ):
        Wav2Vec2Processor(ours.feature_extractor, theirs.tokenizer)
    with pytest.raises(TypeError, match="tokenizer is missing"):
        CLIPProcessor(CLIPImageProcessor())
    with pytest.raises(NotADirectoryError, match="this is a file; give a folder"):
        ours.save_pretrained(cases.ctc_vocabulary(tmp_path))
    with pytest.raises(TypeError, match="save_pretrained has no argument 'pusch_to_hub'"):
        ours.save_pretrained(tmp_path, pusch_to_hub=True)
    assert isinstance(ours.tokenizer, Wav2Vec2CTCTokenizer)


def test_parts_in_attributes(folders: Path, tmp_path: Path) -> None:
    speech = AutoProcessor.from_pretrained(folders / "wav2vec2")
    ours = PartsByName(speech.feature_extractor, tokenizer=speech.tokenizer)
    ours.save_pretrained(tmp_path)
    again = PartsByName.from_pretrained(tmp_path)
    assert again.to_dict() == ours.to_dict()
    both = again(text="AB", audio=cases.clips()[0], sampling_rate=16000)
    assert list(both) == ["input_ids", "attention_mask", "input_values"]
    with pytest.raises(TypeError, match="image_processor is no part of it"):
        PartsByName(speech.feature_extractor, speech.tokenizer, image_processor=CLIPImageProcessor())


def test_pages_with_the_tokenizer_in_plain_python(folders: Path) -> None:
    fast = AutoProcessor.from_pretrained(folders / "layoutlmv2")
    slow = AutoProcessor.from_pretrained(folders / "layoutlmv2", use_fast=False)
    assert type(slow.tokenizer).__name__ == "LayoutLMv2Tokenizer"
    arguments = CALLS["layoutlmv2 pages"][1]
    ours, expected = slow(**arguments), fast(**arguments)
    assert all(torch.equal(ours[name], expected[name]) for name in expected if name != "image")


def test_prompts_of_whisper(folders: Path) -> None:
    ours = AutoProcessor.from_pretrained(folders / "whisper")
    assert type(ours) is WhisperProcessor
    asked = ours.get_decoder_prompt_ids(task="translate", language="German")
    names = ours.tokenizer.convert_ids_to_tokens([token for _, token in asked])
    assert ([place for place, _ in asked], names) == ([1, 2, 3], ["<|de|>", "<|translate|>", "<|notimestamps|>"])
    assert ours.get_decoder_prompt_ids(no_timestamps=False) == []
    with pytest.raises(ValueError, match=r"The vocabulary has no <\|fr\|>"):
        ours.get_decoder_prompt_ids(language="french")
    with pytest.raises(ValueError, match="task='write' is not known"):
        ours.get_decoder_prompt_ids(task="write")


def test_refused_calls(folders: Path) -> None:
    speech = AutoProcessor.from_pretrained(folders / "wav2vec2")
    clip = AutoProcessor.from_pretrained(folders / "clip")
    with pytest.raises(ValueError, match=r"give audio=… \(samples\) or text=… \(transcripts\)"):
        speech()
    with pytest.raises(ValueError, match="got nothing to prepare; give images or text"):
        clip()
    with pytest.raises(ValueError, match="CLIPProcessor has no feature_extractor; its parts are image_processor"):
        clip(audio=cases.clips())
    with pytest.raises(
        ValueError, match="CLIPProcessor\\(\\) got audio_kwargs, and it has no feature_extractor; its parts are"
    ):
        clip(text="a", audio_kwargs={"sampling_rate": 16000})
    with pytest.raises(TypeError, match="got images_kwargs=3; it is a dict of options"):
        clip(text="a", images_kwargs=3)
    with pytest.raises(ValueError, match="got 'padding' twice, alone and in text_kwargs"):
        clip(text="a", padding=True, text_kwargs={"padding": "max_length"})
    both = clip(text="a", text_kwargs={"return_tensors": "np"}, common_kwargs={"return_tensors": "pt"})
    assert isinstance(both["input_ids"], np.ndarray)
    with pytest.raises(TypeError, match=r"has no option 'paddding'\. Did you mean 'padding'"):
        clip(text="a", paddding=True)
    with pytest.raises(ValueError, match="sampling_rate"):
        speech(cases.clips(), sampling_rate=8000)


def test_refusals(tmp_path: Path, folders: Path) -> None:
    with pytest.raises(OSError, match=r"call AutoProcessor\.from_pretrained\(name or folder\)"):
        AutoProcessor()
    with pytest.raises(ValueError, match="trust_remote_code=True is refused"):
        AutoProcessor.from_pretrained(tmp_path, trust_remote_code=True)
    edit(tmp_path / "processor_config.json", processor_class="Wav2Vec2ProcessorWithLM")
    with pytest.raises(ValueError, match=r"is not known\. Did you mean 'Wav2Vec2Processor'"):
        AutoProcessor.from_pretrained(tmp_path)
    (tmp_path / "clip").mkdir()
    edit(tmp_path / "clip" / "processor_config.json", processor_class="CLIPProcessor")
    with pytest.raises(FileNotFoundError, match="so how its images are prepared"):
        AutoProcessor.from_pretrained(tmp_path / "clip")
    with pytest.raises(TypeError, match="has no option 'resize'"):
        AutoProcessor.from_pretrained(folders / "clip")(images=cases.picture(), resize=3)


def test_a_tokenizer_alone_needs_no_torch(folders: Path, tmp_path: Path) -> None:
    BertTokenizerFast.from_pretrained(folders / "vocabularies" / "layoutlmv2").save_pretrained(tmp_path)
    code = f"import sys; from vertebra import AutoProcessor as A; A.from_pretrained({str(tmp_path)!r})('hello')"
    code += "; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.endswith("False\n")
