"""Wav2Vec2's feature extractor against transformers', and the padding that all sequence extractors share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from vertebra import (
    FeatureExtractionMixin,
    SequenceFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

LENGTHS = (1600, 4013, 7, 2999)


def clips(dtype: Any = np.float32, lengths: tuple[int, ...] = LENGTHS) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return [(0.3 * rng.standard_normal(length) + 0.1).astype(dtype) for length in lengths]


def assert_same(ours: Any, theirs: Any) -> None:
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert len(ours[name]) == len(theirs[name])
        for mine, other in zip(ours[name], theirs[name], strict=True):
            assert type(mine) is type(other)
            assert mine.dtype == other.dtype
            np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("mask", [None, False, True])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": False},
        {"padding": True},
        {"padding": "longest", "return_tensors": "np"},
        {"padding": True, "return_tensors": "pt", "pad_to_multiple_of": 128},
        {"padding": "max_length", "max_length": 5000, "return_tensors": "pt"},
        {"padding": "max_length", "max_length": 3000, "truncation": True, "return_tensors": "np"},
        {"padding": True, "max_length": 2000, "truncation": True, "pad_to_multiple_of": 64},
        {"max_length": 1000, "truncation": True},
    ],
    ids=str,
)
def test_equals_transformers(options: dict[str, Any], normalize: bool, mask: bool | None) -> None:
    settings = {"do_normalize": normalize, "return_attention_mask": mask is None}
    ours, theirs = Wav2Vec2FeatureExtractor(**settings), transformers.Wav2Vec2FeatureExtractor(**settings)
    call = {**options, "return_attention_mask": mask, "sampling_rate": 16000}
    for given in (clips(), clips(np.float64), [list(clip) for clip in clips(np.float64)]):
        assert_same(ours(given, **call), theirs(given, **call))


@pytest.mark.parametrize("tensors", [None, "np", "pt"])
def test_kinds_of_one_clip(tensors: str | None) -> None:
    (clip,) = clips(lengths=(500,))
    extractor, theirs = Wav2Vec2FeatureExtractor(), transformers.Wav2Vec2FeatureExtractor()
    call: dict[str, Any] = {"sampling_rate": 16000, "return_tensors": tensors}
    expected = theirs(clip, **call)
    for given in (
        clip,
        list(clip),
        torch.from_numpy(clip),
        clip[None],
        torch.from_numpy(clip)[None],
        [clip],
        [list(clip)],
    ):
        assert_same(extractor(given, **call), expected)


def test_without_a_mask_the_padding_counts_as_in_transformers() -> None:
    extractor = Wav2Vec2FeatureExtractor()
    short, long = clips(lengths=(100, 1000))
    alone = extractor(short, sampling_rate=16000)["input_values"][0]
    beside = extractor([short, long], sampling_rate=16000, padding=True)["input_values"][0]
    masked = extractor([short, long], sampling_rate=16000, padding=True, return_attention_mask=True)["input_values"][0]
    assert abs(alone.mean()) < 1e-6
    assert abs(alone.std() - 1) < 1e-5
    np.testing.assert_array_equal(masked[:100], alone)
    assert not masked[100:].any()
    assert abs(beside[:100] - alone).max() > 0.1


def test_padding_on_the_left_normalises_the_clip_alone() -> None:
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True, padding_side="left")
    short, long = clips(lengths=(100, 1000))
    batch = extractor([short, long], sampling_rate=16000, padding=True, return_tensors="np")
    np.testing.assert_array_equal(batch.input_values[0, 900:], extractor(short, sampling_rate=16000).input_values[0])
    assert batch.attention_mask.sum(1).tolist() == [100, 1000]
    assert not batch.attention_mask[0, :900].any()


class TestPad:
    ours = SequenceFeatureExtractor(feature_size=1, sampling_rate=8000, padding_value=-1.0)

    @pytest.fixture
    def theirs(self) -> Any:
        extractor = transformers.SequenceFeatureExtractor(feature_size=1, sampling_rate=8000, padding_value=-1.0)
        extractor.model_input_names = ["input_values", "attention_mask"]
        return extractor

    @pytest.mark.parametrize("side", ["right", "left"])
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"return_tensors": "pt"},
            {"padding": "max_length", "max_length": 9, "return_attention_mask": False},
            {"padding": "longest", "max_length": 2, "truncation": True, "pad_to_multiple_of": 4},
        ],
        ids=str,
    )
    def test_equals_transformers(self, theirs: Any, options: dict[str, Any], side: str) -> None:
        ours = SequenceFeatureExtractor(1, 8000, -1.0, padding_side=side)
        theirs.padding_side = side
        rows = [[0.5, 1.0, 2.0, 3.0, 4.0], [0.25], [1.0, 2.0]]
        for given in (
            {"input_values": rows},
            [{"input_values": np.asarray(row, np.float32), "labels": index} for index, row in enumerate(rows)],
            [{"input_values": torch.tensor(row)} for row in rows],
        ):
            expected = theirs.pad(given, **options)
            found = ours.pad(given, **options)
            for name in expected:
                assert type(found[name]) is type(expected[name])
                np.testing.assert_array_equal(found[name], expected[name])

    def test_vectors_at_each_step(self, theirs: Any) -> None:
        theirs.feature_size = 3
        rows = clips(lengths=(12, 6))
        given = {"input_values": [row.reshape(-1, 3) for row in rows]}
        ours = SequenceFeatureExtractor(3, 8000, -1.0)
        np.testing.assert_array_equal(ours.pad(given)["input_values"], theirs.pad(given)["input_values"])

    def test_refusals(self) -> None:
        with pytest.raises(
            ValueError, match=r"SequenceFeatureExtractor\.pad\(\) pads 'input_values', and was given 'x'"
        ):
            self.ours.pad({"x": [[1.0]]})
        with pytest.raises(TypeError, match=r"a list of \{name: sequence\}, got list: pad\(\{'input_values'"):
            self.ours.pad([[1.0]])
        with pytest.raises(ValueError, match=r"Item 1 has the entries 'y', and item 0 has 'input_values'"):
            self.ours.pad([{"input_values": [1.0]}, {"y": [1.0]}])
        with pytest.raises(ValueError, match="padding='max_length' needs max_length=…"):
            self.ours.pad({"input_values": [[1.0]]}, padding="max_length")
        with pytest.raises(ValueError, match="truncation=True needs max_length=…"):
            self.ours.pad({"input_values": [[1.0]]}, truncation=True)
        with pytest.raises(ValueError, match=r"padding='longst' does not exist; .* Did you mean 'longest'"):
            self.ours.pad({"input_values": [[1.0]]}, padding="longst")
        with pytest.raises(ValueError, match=r"entry 0 of 'input_values' is no sequence; .* a list of sequences"):
            self.ours.pad({"input_values": [1.0, 2.0]})
        with pytest.raises(ValueError, match="attention_mask 0 has 1 steps, and its sequence 2"):
            self.ours.pad({"input_values": [[1.0, 2.0]], "attention_mask": [[1]]})

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"max_length": -3, "truncation": True}, "max_length=-3 must be a whole number, from 1"),
            ({"max_length": 0, "truncation": True}, "max_length=0 must be a whole number, from 1"),
            ({"max_length": 8000.0, "padding": "max_length"}, r"max_length=8000\.0 must be a whole number"),
            ({"pad_to_multiple_of": 7.5}, r"pad_to_multiple_of=7\.5 must be a whole number, from 1"),
        ],
        ids=str,
    )
    def test_lengths(self, options: dict[str, Any], text: str) -> None:
        for prepare in (
            lambda: self.ours.pad({"input_values": [[1.0]]}, **options),
            lambda: Wav2Vec2FeatureExtractor()(np.zeros(900), sampling_rate=16000, **{"padding": True, **options}),
            lambda: WhisperFeatureExtractor()(np.zeros(900), sampling_rate=16000, **options),
        ):
            with pytest.raises(ValueError, match=text):
                prepare()
        with pytest.raises(TypeError, match="truncation='do_not_truncate' is a str; give True or False"):
            self.ours.pad({"input_values": [[1.0]]}, truncation="do_not_truncate", max_length=1)  # type: ignore[arg-type]


class TestFiles:
    def test_defaults_are_those_of_transformers(self) -> None:
        ours, theirs = Wav2Vec2FeatureExtractor(), transformers.Wav2Vec2FeatureExtractor()
        assert json.loads(ours.to_json_string()) == json.loads(theirs.to_json_string())

    def test_both_ways(self, tmp_path: Path) -> None:
        theirs = transformers.Wav2Vec2FeatureExtractor(
            return_attention_mask=True, padding_value=1.0, do_normalize=False
        )
        theirs.save_pretrained(tmp_path / "theirs")
        ours = Wav2Vec2FeatureExtractor.from_pretrained(tmp_path / "theirs")
        assert ours.to_dict() == json.loads(theirs.to_json_string())
        ours.save_pretrained(tmp_path / "ours")
        again = transformers.Wav2Vec2FeatureExtractor.from_pretrained(tmp_path / "ours")
        assert json.loads(again.to_json_string()) == ours.to_dict()

    def test_nested_in_a_processors_file(self, tmp_path: Path) -> None:
        stored = {"feature_extractor": {"sampling_rate": 8000, "feature_extractor_type": "Wav2Vec2FeatureExtractor"}}
        (tmp_path / "processor_config.json").write_text(json.dumps(stored))
        assert Wav2Vec2FeatureExtractor.from_pretrained(tmp_path).sampling_rate == 8000
        assert Wav2Vec2FeatureExtractor.from_pretrained(tmp_path, sampling_rate=11025).sampling_rate == 11025

    def test_unknown_keys_are_kept(self, tmp_path: Path) -> None:
        (tmp_path / "preprocessor_config.json").write_text('{"processor_class": "Wav2Vec2Processor", "new": [1]}')
        ours = Wav2Vec2FeatureExtractor.from_pretrained(tmp_path)
        assert ours.new == [1]
        assert ours.to_dict()["processor_class"] == "Wav2Vec2Processor"

    def test_one_of_ones_own_in_transformers_style(self, tmp_path: Path) -> None:
        class Frames(SequenceFeatureExtractor):
            model_input_names = ["frames"]

            def __init__(self, feature_size: int = 1, sampling_rate: int = 9, width: int = 4, **kwargs: Any) -> None:
                kwargs.setdefault("padding_value", 0.5)
                super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, **kwargs)
                self.width = width

        Frames(width=7, padding_side="left").save_pretrained(tmp_path)
        again = Frames.from_pretrained(tmp_path, sampling_rate=50)
        assert (again.width, again.padding_side, again.sampling_rate, again.padding_value) == (7, "left", 50, 0.5)
        assert issubclass(Frames, FeatureExtractionMixin)

    def test_refusals(self, tmp_path: Path) -> None:
        with pytest.raises(
            FileNotFoundError, match=r"nor 'processor_config\.json' with 'feature_extractor'\. Build one"
        ):
            Wav2Vec2FeatureExtractor.from_pretrained(tmp_path)
        with pytest.raises(TypeError, match=r"got an unknown setting 'do_normalise'\. Did you mean 'do_normalize'"):
            Wav2Vec2FeatureExtractor(do_normalise=False)
        with pytest.raises(ValueError, match="sampling_rate=0 must be a whole number, from 1"):
            Wav2Vec2FeatureExtractor(sampling_rate=0)
        with pytest.raises(ValueError, match="padding_side='top' does not exist; it is 'right' or 'left'"):
            Wav2Vec2FeatureExtractor(padding_side="top")
        with pytest.raises(TypeError, match="do_normalize='yes' is a str; give True or False"):
            Wav2Vec2FeatureExtractor(do_normalize="yes")  # type: ignore[arg-type]
