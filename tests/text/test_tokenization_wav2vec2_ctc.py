"""Wav2Vec2's tokenizer against transformers': ids of texts, and texts of steps."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from vertebra.text.tokenization.wav2vec2_ctc import Wav2Vec2CTCTokenizer

LETTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVKXJQZ'", "ß", "日", "NG"]
VOCAB = {token: index for index, token in enumerate(LETTERS)}
TEXTS = [
    "HELLO WORLD",
    "hello world",
    "THE  CAT'S  MAT ",
    " A",
    "",
    "|",
    "A|B",
    "SINGING NG N G",
    "ÄÖÜ ß 日本",
    "<s>HI</s> THERE <pad> <unk>",
    "A\tB\nC",
    "<S> 😀",
]


def write(folder: Path, vocab: Any = VOCAB) -> str:
    (folder / "vocab.json").write_text(json.dumps(vocab))
    return str(folder / "vocab.json")


def pair(folder: Path, **settings: Any) -> tuple[Wav2Vec2CTCTokenizer, Any]:
    path = write(folder)
    return Wav2Vec2CTCTokenizer(path, **settings), transformers.Wav2Vec2CTCTokenizer(path, **settings)


def steps(seed: int, count: int = 60) -> list[int]:
    """Tokens as a model's steps have them: repeated, with blanks between."""
    rng = random.Random(seed)
    found: list[int] = []
    while len(found) < count:
        token = rng.choice([0, 0, 4, *range(5, len(LETTERS)), *range(1, 4)])
        found += [token] * rng.randint(1, 4)
    return found[:count]


@pytest.mark.parametrize(
    "settings",
    [{}, {"do_lower_case": True}, {"word_delimiter_token": "'"}, {"unk_token": "Z", "pad_token": "X"}],
    ids=str,
)
class TestLikeTransformers:
    def test_texts_to_ids(self, settings: dict[str, Any], tmp_path: Path) -> None:
        ours, theirs = pair(tmp_path, **settings)
        for text in TEXTS:
            assert ours.tokenize(text) == theirs.tokenize(text), text
            assert ours(text)["input_ids"] == theirs(text)["input_ids"], text
        batch, expected = (each(TEXTS[:4], padding=True, return_tensors="pt") for each in (ours, theirs))
        assert torch.equal(batch["input_ids"], expected["input_ids"])
        assert torch.equal(batch["attention_mask"], expected["attention_mask"])
        assert ours.get_vocab() == theirs.get_vocab()
        assert (len(ours), ours.vocab_size) == (len(theirs), theirs.vocab_size)
        assert ours.word_delimiter_token_id == theirs.word_delimiter_token_id

    def test_steps_to_texts(self, settings: dict[str, Any], tmp_path: Path) -> None:
        ours, theirs = pair(tmp_path, **settings)
        options: list[dict[str, Any]] = [
            {},
            {"group_tokens": False},
            {"spaces_between_special_tokens": True},
            {"clean_up_tokenization_spaces": True},
        ]
        for seed in range(30):
            ids = steps(seed)
            for option in options:
                assert ours.decode(ids, **option) == theirs.decode(ids, **option)
        batch = np.array([steps(seed) for seed in range(5)])
        assert ours.batch_decode(torch.from_numpy(batch)) == theirs.batch_decode(batch)
        assert ours.decode([4, 4, 0]) == theirs.decode([4, 4, 0])
        assert ours.decode([]) == ""

    def test_offsets(self, settings: dict[str, Any], tmp_path: Path) -> None:
        ours, theirs = pair(tmp_path, **settings)
        asked = {"output_char_offsets": True, "output_word_offsets": True}
        for seed in range(30):
            found, expected = ours.decode(steps(seed), **asked), theirs.decode(steps(seed), **asked)
            assert found.text == expected.text
            assert found["char_offsets"] == expected["char_offsets"]
            assert found.word_offsets == expected.word_offsets
        found = ours.batch_decode([steps(1), steps(2)], output_word_offsets=True)
        expected = theirs.batch_decode([steps(1), steps(2)], output_word_offsets=True)
        assert dict(found) == {
            "text": expected.text,
            "char_offsets": [None, None],
            "word_offsets": expected.word_offsets,
        }
        json.dumps(found)  # plain numbers


def test_doubled_letters_survive_without_special_tokens(tmp_path: Path) -> None:
    ours, theirs = pair(tmp_path)
    letters = "H E L <pad> L L O | | <s> W".split()
    ids = [VOCAB[letter] for letter in letters]
    assert ours.decode(ids) == "HELLO <s>W"
    assert ours.decode(ids, skip_special_tokens=True) == "HELLO W"
    assert theirs.decode(ids, skip_special_tokens=True) == "HELO W"  # the blank is taken out too early


def test_what_a_step_and_a_word_are(tmp_path: Path) -> None:
    ours, _ = pair(tmp_path)
    ids = [VOCAB[letter] for letter in "<pad> H H <pad> I | | O".split()]
    found = ours.decode(ids, output_char_offsets=True, output_word_offsets=True)
    assert found.text == "HI O"
    assert [(c["char"], c["start_offset"], c["end_offset"]) for c in found.char_offsets] == [
        ("H", 1, 3),
        ("I", 4, 5),
        (" ", 5, 7),
        ("O", 7, 8),
    ]
    assert found.word_offsets == [
        {"word": "HI", "start_offset": 1, "end_offset": 5},
        {"word": "O", "start_offset": 7, "end_offset": 8},
    ]
    with pytest.raises(AttributeError, match="This text has no 'words'; it has 'text', 'char_offsets', 'word_offsets'"):
        found.words  # noqa: B018


@pytest.mark.parametrize("settings", [{}, {"do_lower_case": True}], ids=str)
def test_files_both_ways(settings: dict[str, Any], tmp_path: Path) -> None:
    _, theirs = pair(tmp_path, **settings)
    theirs.add_tokens(["~"])
    theirs.save_pretrained(tmp_path / "theirs")
    ours = Wav2Vec2CTCTokenizer.from_pretrained(tmp_path / "theirs")
    ours.save_pretrained(tmp_path / "ours")
    again = transformers.Wav2Vec2CTCTokenizer.from_pretrained(tmp_path / "ours")
    for tokenizer in (ours, again):
        assert len(tokenizer) == len(theirs)
        for text in (*TEXTS, "A~B"):
            assert tokenizer(text)["input_ids"] == theirs(text)["input_ids"], text
        assert tokenizer.decode(steps(3)) == theirs.decode(steps(3))
    assert type(transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")).__name__ == "Wav2Vec2CTCTokenizer"


def test_another_delimiter_survives_a_save(tmp_path: Path) -> None:  # transformers 5.23 forgets it
    pair(tmp_path, word_delimiter_token="'")[0].save_pretrained(tmp_path / "ours")
    again = Wav2Vec2CTCTokenizer.from_pretrained(tmp_path / "ours")
    assert again("A B")["input_ids"] == [VOCAB[letter] for letter in "A'B"]
    assert (
        Wav2Vec2CTCTokenizer.from_pretrained(tmp_path / "ours", word_delimiter_token="|").word_delimiter_token_id == 4
    )


def test_several_languages(tmp_path: Path) -> None:
    nested = {"eng": VOCAB, "deu": {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "Ä": 5, "SCH": 6, "A": 7}}
    path = write(tmp_path, nested)
    theirs = transformers.Wav2Vec2CTCTokenizer(path, target_lang="eng")
    ours = Wav2Vec2CTCTokenizer(path, target_lang="eng")
    assert ours("SCHÄ A")["input_ids"] == theirs("SCHÄ A")["input_ids"]
    ours.set_target_lang("deu")
    theirs.set_target_lang("deu")
    assert ours("SCHÄ A")["input_ids"] == theirs("SCHÄ A")["input_ids"] == [6, 5, 4, 7]
    ours.save_pretrained(tmp_path / "ours")
    again = Wav2Vec2CTCTokenizer.from_pretrained(tmp_path / "ours")
    assert again.target_lang == "deu"
    assert again.decode([6, 6, 0, 5]) == "SCHÄ"
    with pytest.raises(
        ValueError, match=r"target_lang='den' must be a language .*Did you mean .*'deu'.* It has eng, deu\."
    ):
        ours.set_target_lang("den")
    with pytest.raises(ValueError, match="target_lang=None must be a language of the vocabulary"):
        Wav2Vec2CTCTokenizer(nested)
    with pytest.raises(ValueError, match="target_lang='deu' is for vocabularies of several languages"):
        Wav2Vec2CTCTokenizer(VOCAB).set_target_lang("deu")


def test_without_a_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs a vocabulary: Wav2Vec2CTCTokenizer\('vocab\.json'\)"):
        Wav2Vec2CTCTokenizer()
    with pytest.raises(FileNotFoundError, match=r"vocab_file='nowhere\.json' does not exist"):
        Wav2Vec2CTCTokenizer("nowhere.json")
    with pytest.raises(ValueError, match="The vocabulary of Wav2Vec2CTCTokenizer gives 'a' and 'b' the same number 0"):
        Wav2Vec2CTCTokenizer({"de": {"a": 0, "b": 0}}, target_lang="de")
    with pytest.raises(OSError, match=r"vocab\.json"):
        Wav2Vec2CTCTokenizer.from_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text('{"a": ')
    with pytest.raises(ValueError, match="is not a JSON file"):
        Wav2Vec2CTCTokenizer.from_pretrained(tmp_path)
