"""What Whisper writes, token for token as transformers, and the prompts it begins with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from oracle import perturb
from whisper_cases import TINY, make

from vertebra import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration
from vertebra.audio.languages import CODES, NAMES, language_code
from vertebra.audio.whisper_prompt import prompt_tokens

LANGUAGES = {"<|en|>": 20, "<|de|>": 21, "<|haw|>": 22}
TASKS = {"transcribe": 30, "translate": 31}
SEVERAL: dict[str, Any] = {
    "is_multilingual": True,
    "lang_to_id": LANGUAGES,
    "task_to_id": TASKS,
    "no_timestamps_token_id": 59,
}


def spectrograms(rows: int = 4) -> torch.Tensor:
    return 3 * torch.randn(rows, 8, 20, generator=torch.Generator().manual_seed(1))


def pair(folder: Path, seed: int = 0, **rules: Any) -> tuple[Any, Any]:
    """A model of transformers, whose texts vary and end, and ours from its files."""
    theirs = make(folder, "WhisperForConditionalGeneration")
    perturb(theirs, seed, scale=0.6)
    theirs.generation_config._from_model_config = False  # or transformers makes it anew when loading
    for name, value in rules.items():
        setattr(theirs.generation_config, name, value)
    theirs.save_pretrained(folder)
    return theirs, WhisperForConditionalGeneration.from_pretrained(folder)


@pytest.mark.parametrize("seed", range(6))
def test_texts_are_those_of_transformers(seed: int, tmp_path: Path) -> None:
    theirs, ours = pair(tmp_path, seed)
    for options in ({"max_new_tokens": 19}, {"max_length": 6}, {"max_new_tokens": 1}):
        expected = theirs.generate(spectrograms(), **options)
        found = ours.generate(spectrograms(), **options)
        assert torch.equal(found, expected), options
        assert not set(found.flatten().tolist()) & {3, 6, 7}


def test_texts_of_different_lengths(tmp_path: Path) -> None:
    """Each of a batch is what it is alone, filled up."""
    lengths = set()
    for seed in range(4):
        theirs, ours = pair(tmp_path, seed)
        endless = ours.generate(spectrograms(8), max_new_tokens=12, eos_token_id=[])
        end = int(endless[seed, 2 + seed])
        ours.generation_config.eos_token_id = theirs.generation_config.eos_token_id = end
        together = ours.generate(spectrograms(8), max_new_tokens=12)
        assert torch.equal(together, theirs.generate(spectrograms(8), max_new_tokens=12))
        for row, features in zip(together, spectrograms(8), strict=True):
            alone = ours.generate(features[None], max_new_tokens=12)[0]
            assert torch.equal(row[: len(alone)], alone)
            assert (row[len(alone) :] == 1).all()
            lengths.add(len(alone))
    assert len(lengths) > 2
    endless = ours.generate(spectrograms(8), max_new_tokens=12, eos_token_id=[])
    several = ours.generate(spectrograms(8), max_new_tokens=12, eos_token_id=[int(endless[0, 2]), int(endless[1, 3])])
    assert not set(several.flatten().tolist()) & {int(endless[0, 2]), int(endless[1, 3])}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"language": "en"},
        {"language": "German", "task": "translate"},
        {"language": "<|haw|>", "task": "transcribe"},
        {"task": "translate"},
        {"language": ["de", "english", "haw", "de"]},
    ],
    ids=str,
)
@pytest.mark.parametrize("forced", [None, [[1, None], [2, 30]], [[1, 21], [2, 31]]], ids=str)
def test_prompts(options: dict[str, Any], forced: Any, tmp_path: Path) -> None:
    rules = {**SEVERAL, **({"forced_decoder_ids": forced} if forced else {})}
    theirs, ours = pair(tmp_path, 2, **rules)
    expected = theirs.generate(spectrograms(), max_new_tokens=8, **options)
    assert torch.equal(ours.generate(spectrograms(), max_new_tokens=8, **options), expected)


def test_prompt_of_an_english_model(tmp_path: Path) -> None:
    rules = {"is_multilingual": False, "forced_decoder_ids": [[1, 59]], "no_timestamps_token_id": 59}
    theirs, ours = pair(tmp_path, 1, **rules)
    assert prompt_tokens(ours.generation_config, 4, 2, lambda tokens: []) == [[4, 59], [4, 59]]
    assert torch.equal(
        ours.generate(spectrograms(), max_new_tokens=5), theirs.generate(spectrograms(), max_new_tokens=5)
    )
    with pytest.raises(
        ValueError, match="The model knows English alone, and language='en', task=None are for models of"
    ):
        ours.generate(spectrograms(), language="en")


def test_languages_are_told(tmp_path: Path) -> None:
    theirs, ours = pair(tmp_path, 3, **SEVERAL)
    memory = ours.get_encoder()(spectrograms(12)).last_hidden_state
    expected = theirs.detect_language(spectrograms(12), generation_config=theirs.generation_config)
    assert torch.equal(ours.detect_language(spectrograms(12)), expected)
    assert torch.equal(ours.detect_language(encoder_outputs=(memory,)), expected)
    english = GenerationConfig(lang_to_id={"<|en|>": 20})
    assert ours.detect_language(spectrograms(2), generation_config=english).tolist() == [20, 20]
    with pytest.raises(
        ValueError, match=r"generation_config has no lang_to_id, the tokens of languages to choose from"
    ):
        ours.detect_language(spectrograms(2), generation_config=GenerationConfig())


def test_what_was_encoded_before(tmp_path: Path) -> None:
    _, ours = pair(tmp_path)
    encoded = ours.get_encoder()(spectrograms())
    expected = ours.generate(spectrograms(), max_new_tokens=6)
    assert torch.equal(ours.generate(encoder_outputs=encoded, max_new_tokens=6), expected)
    for given in ((encoded[0],), [encoded[0]], {"last_hidden_state": encoded[0]}):
        assert torch.equal(ours.generate(encoder_outputs=given, max_new_tokens=6), expected)
    with pytest.raises(TypeError, match=r"encoder_outputs is a Tensor; .* \(states,\)"):
        ours.generate(encoder_outputs=encoded[0])


class TestRules:
    def test_files_both_ways(self, tmp_path: Path) -> None:
        theirs, ours = pair(tmp_path, **SEVERAL, prev_sot_token_id=58)
        assert ours.generation_config.prev_sot_token_id == 58
        assert GenerationConfig.from_pretrained(tmp_path) == ours.generation_config
        with pytest.raises(AttributeError, match=r"GenerationConfig has no 'max_lenght'\. Did you mean 'max_length'"):
            ours.generation_config.max_lenght  # noqa: B018
        ours.save_pretrained(tmp_path / "ours")
        again = transformers.WhisperForConditionalGeneration.from_pretrained(tmp_path / "ours")
        written, before = (
            json.loads((folder / "generation_config.json").read_text()) for folder in (tmp_path / "ours", tmp_path)
        )
        assert written == before
        found = again.generate(spectrograms(), language="de", max_new_tokens=4)
        assert torch.equal(found, theirs.generate(spectrograms(), language="de", max_new_tokens=4))

    def test_without_a_file_the_configuration_says_it(self, tmp_path: Path) -> None:
        pair(tmp_path)
        (tmp_path / "generation_config.json").unlink()
        ours = WhisperForConditionalGeneration.from_pretrained(tmp_path)
        rules = ours.generation_config
        assert (rules.suppress_tokens, rules.begin_suppress_tokens) == ([6, 7], [3, 5])
        assert (rules.decoder_start_token_id, rules.eos_token_id, rules.pad_token_id) == (4, 3, 1)

    def test_for_one_call_and_for_good(self, tmp_path: Path) -> None:
        _, ours = pair(tmp_path)
        usual = ours.generate(spectrograms(), max_new_tokens=3)
        first = sorted(set(usual[:, 0].tolist()))
        other = ours.generate(spectrograms(), max_new_tokens=3, begin_suppress_tokens=first)
        assert not set(other[:, 0].tolist()) & set(first)
        assert torch.equal(ours.generate(spectrograms(), max_new_tokens=3), usual)
        ours.generation_config.suppress_tokens = first
        assert not set(ours.generate(spectrograms(), max_new_tokens=3).flatten().tolist()) & set(first)
        beyond = ours.generate(spectrograms(), max_new_tokens=3, suppress_tokens=[*first, 220, 50256])
        assert torch.equal(beyond, ours.generate(spectrograms(), max_new_tokens=3))
        chosen = GenerationConfig(eos_token_id=3, max_new_tokens=2)
        assert ours.generate(spectrograms(), chosen).shape[1] <= 2

    def test_room(self, tmp_path: Path) -> None:
        _, ours = pair(tmp_path, eos_token_id=[])
        assert ours.generate(spectrograms()).shape == (4, 23)
        assert ours.generate(spectrograms(), max_length=100).shape == (4, 23)
        assert ours.generate(spectrograms(), max_new_tokens=0).shape == (4, 0)
        with pytest.raises(ValueError, match=r"max_new_tokens=24, but the model takes 24 tokens .* 23 is the most"):
            ours.generate(spectrograms(), max_new_tokens=24)

    @pytest.mark.parametrize(
        ("options", "error", "text"),
        [
            (
                {"num_beams": 5},
                ValueError,
                r"num_beams=5 is not here: generate\(\) writes the likeliest token each time",
            ),
            ({"do_sample": True}, ValueError, "do_sample=True is not here"),
            ({"repetition_penalty": 1.3}, ValueError, r"repetition_penalty=1\.3 is not here"),
            ({"prompt_ids": np.array([58, 9])}, ValueError, "prompt_ids=.* is not here"),
            ({"temperature": (0.0, 0.2)}, ValueError, "temperature=.* is not here"),
            ({"max_new_tokens": -1}, ValueError, "max_new_tokens=-1 must be a whole number, from 0"),
            ({"max_length": 2.5}, ValueError, "max_length=2.5 must be a whole number, from 0"),
            ({"generation_config": {"max_length": 3}}, TypeError, r"is a dict; .*GenerationConfig\.from_dict"),
            (
                {"generation_config": transformers.GenerationConfig()},
                TypeError,
                r"is a transformers\..*from_dict\(generation_config\.to_dict\(\)\)",
            ),
            ({"inputs": 1}, TypeError, "no argument 'inputs'. Did you mean 'input_features'"),
            ({"return_timestamps": True}, ValueError, "return_timestamps=True is not here"),
            ({"max_new_token": 5}, TypeError, "no argument 'max_new_token'. Did you mean 'max_new_tokens'"),
            ({"language": "Klingon"}, ValueError, r"language='Klingon' is not known\."),
            ({"language": "germn"}, ValueError, "Did you mean 'german'"),
            ({"language": "fr"}, ValueError, r"no token '<\|fr\|>' for language='fr'; it has <\|en\|>, <\|de\|>"),
            ({"language": ["en"]}, ValueError, "language has 1 entries, and there are 4 clips"),
            ({"task": "sing"}, ValueError, "task='sing' is not known; .* has 'transcribe', 'translate'"),
            ({"forced_decoder_ids": [[2, 5]]}, ValueError, r"must be \[place, token\] pairs of the places 1, 2"),
        ],
    )
    def test_refusals(self, options: dict[str, Any], error: type[Exception], text: str) -> None:
        model = WhisperForConditionalGeneration(WhisperConfig(**TINY)).eval()
        model.generation_config = GenerationConfig.from_dict({**SEVERAL, "eos_token_id": 3})
        with pytest.raises(error, match=text):
            model.generate(spectrograms(), **options)

    @pytest.mark.parametrize(
        ("name", "other", "same"),
        [("repetition_penalty", 1.5, 1.0), ("no_repeat_ngram_size", 1, 0), ("bad_words_ids", [[9]], None)],
    )
    def test_rules_of_a_file_that_are_not_here(self, name: str, other: Any, same: Any, tmp_path: Path) -> None:
        """They change what transformers writes, so they are refused, not passed over."""
        theirs, ours = pair(tmp_path, 2, **{name: other})
        with pytest.raises(ValueError, match=rf"{name}=.* is not here: .* generation_config\.json says it"):
            ours.generate(spectrograms(), max_new_tokens=12)
        setattr(theirs.generation_config, name, same)
        expected = theirs.generate(spectrograms(), max_new_tokens=12)
        assert torch.equal(ours.generate(spectrograms(), max_new_tokens=12, **{name: same}), expected)

    def test_changed_while_loading_and_saved(self, tmp_path: Path) -> None:
        rules = {"eos_token_id": 3, "repetition_penalty": 1.5}
        GenerationConfig.from_dict(rules).save_pretrained(tmp_path / "rules")
        again = GenerationConfig.from_pretrained(tmp_path / "rules", max_new_tokens=4, repetition_penalty=1.0)
        assert again.to_dict() == {"eos_token_id": 3, "max_new_tokens": 4, "repetition_penalty": 1.0}
        assert transformers.GenerationConfig.from_pretrained(tmp_path / "rules").repetition_penalty == 1.5
        with pytest.raises(TypeError, match="no argument 'max_new_token'"):
            GenerationConfig.from_pretrained(tmp_path / "rules", max_new_token=4)

    def test_languages_need_their_tokens(self) -> None:
        model = WhisperForConditionalGeneration(WhisperConfig(**TINY)).eval()
        with pytest.raises(
            ValueError, match="language='de' needs the tokens of languages, and generation_config has no lang_to_id"
        ):
            model.generate(spectrograms(), language="de")
        damaged = spectrograms()
        damaged[2, 3, 4] = torch.nan
        with pytest.raises(ValueError, match="The encoder's states of clip 2 hold NaN or infinity"):
            model.generate(damaged)
        with pytest.raises(TypeError, match=r"generate\(\) needs input_features"):
            model.generate()


def test_language_names_are_those_of_transformers() -> None:
    from transformers.models.whisper.tokenization_whisper import LANGUAGES as THEIRS
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    assert list(NAMES) == list(THEIRS)
    assert {name.replace(" ", "_"): code for name, code in TO_LANGUAGE_CODE.items()} == CODES
    assert language_code("Haitian Creole") == language_code("haitian") == "ht"
