"""Tokens, words and entities against those of transformers, on small checkpoints whose classes change from token to token."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from alike import alike
from placeless import Placeless
from text_folders import LONGEST, write_text_model
from tiny_vocab import WORDS

from vertebra import PreTrainedTokenizerFast, pipeline
from vertebra.pipelines.base import Row
from vertebra.pipelines.entities import STRATEGIES, words_of
from vertebra.pipelines.errors import PipelineItemError

LABELS = ["MISC", "B-PER", "I-PER", "B-LOC", "I-LOC", "O", "I-x-y"]
TEXTS = [
    "Hello, unaffable world! the cat zzz hello",
    "the café\tthe UNAFF unaaab abb",
    "the",
    "a b c d e. zzz yyy, hello unaffable! cat ' the world",
    "",
    "日本 hello 😀 cafe unab",
]
LONG = " ".join(TEXTS * 3)
WORD_LISTS = [["hello", "unaffable,", "world"], ["cat"], ["the", "zzz", "café", "unab!"]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("tokens")
    return {
        name: write_text_model(root / name, family, "ForTokenClassification", LABELS, side)
        for name, family, side in (
            ("bert", "Bert", "right"),
            ("left", "Bert", "left"),
            ("distilbert", "DistilBert", "right"),
        )
    }


def pipeline_words(pipe: Any, text: str) -> list[str]:
    """What a strategy takes for words, whatever their classes."""
    (row,) = pipe.prepare(text)
    logits = torch.randn(1, len(row.context.tokens), len(LABELS))
    words = words_of(pipe._tokens(Row({"logits": logits}, row.context)), "max", " ".join)
    return [text[word.start : word.end] for word in words]


@cache
def theirs(folder: Path) -> Any:
    return transformers.pipeline("token-classification", model=str(folder), device="cpu")


@pytest.mark.parametrize("name", ["bert", "left", "distilbert"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy(name: str, strategy: str, made: dict[str, Path]) -> None:
    expected = theirs(made[name])(TEXTS, aggregation_strategy=strategy)
    assert len({entity.get("entity_group", entity.get("entity")) for found in expected for entity in found}) > 1
    for use_fast in (True, False):
        pipe = pipeline("ner", model=made[name], aggregation_strategy=strategy, use_fast=use_fast)
        for batch_size in (1, 3):
            alike(pipe(TEXTS, batch_size=batch_size), expected)
        alike(pipe(TEXTS[0]), expected[0])


@pytest.mark.parametrize(
    ("ignored", "strategy"),
    [([], "none"), (["PER", "O"], "simple"), (["B-PER", "MISC"], "none"), (["LOC", "y"], "max")],
)
def test_ignored_labels(ignored: list[str], strategy: str, made: dict[str, Path]) -> None:
    options = {"ignore_labels": ignored, "aggregation_strategy": strategy}
    pipe = pipeline("ner", model=made["bert"])
    expected = theirs(made["bert"])(TEXTS, **options)
    alike(pipe(TEXTS, **options), expected)
    assert expected != theirs(made["bert"])(TEXTS, aggregation_strategy=strategy)
    assert pipe(TEXTS[0], ignore_labels=None) == pipe(TEXTS[0], ignore_labels="O") == pipe(TEXTS[0])


@pytest.mark.parametrize(
    ("name", "strategy", "stride"),
    [("bert", "simple", 0), ("bert", "first", 5), ("left", "average", 5), ("distilbert", "max", 9)],
)
def test_long_texts_are_read_in_windows(
    name: str, strategy: str, stride: int, made: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"aggregation_strategy": strategy, "stride": stride}
    oracle = theirs(made[name])
    # transformers pads the last window, on the left as well, where its places are then others
    monkeypatch.setattr(oracle.tokenizer, "padding_side", "right")
    expected = oracle([LONG, TEXTS[1]], **options)
    assert expected[0][-1]["end"] > len(LONG) - 20
    for use_fast in (True, False):
        pipe = pipeline("ner", model=made[name], use_fast=use_fast, **options)
        assert len(pipe.prepare(LONG, **options)) > 3
        for batch_size in (1, 3):
            alike(pipe([LONG, TEXTS[1]], batch_size=batch_size), expected)


def test_without_a_stride_long_texts_are_cut(made: dict[str, Path]) -> None:
    pipe = pipeline("ner", model=made["bert"], ignore_labels=[])
    found = pipe(LONG)
    assert len(found) == LONGEST - 2
    alike(found, theirs(made["bert"])(LONG, ignore_labels=[]))


@pytest.mark.parametrize(
    ("strategy", "delimiter"), [("none", None), ("simple", ""), ("first", " "), ("average", " -- "), ("max", "\n")]
)
def test_words(strategy: str, delimiter: str | None, made: dict[str, Path]) -> None:
    options = {"is_split_into_words": True, "aggregation_strategy": strategy}
    options |= {} if delimiter is None else {"delimiter": delimiter}
    expected = theirs(made["bert"])(WORD_LISTS, **options)
    for use_fast in (True, False):
        pipe = pipeline("ner", model=made["bert"], use_fast=use_fast)
        alike(pipe(WORD_LISTS, batch_size=2, **options), expected)
        alike(pipe(WORD_LISTS[0], **options), theirs(made["bert"])(WORD_LISTS[0], **options))
    always = pipeline("ner", model=made["bert"], **options)
    assert always(WORD_LISTS) == pipe(WORD_LISTS, **options)


def test_places_that_are_given(made: dict[str, Path]) -> None:
    """Those of another text, of which this one was made."""
    text = "hello world"
    pipe, oracle = pipeline("ner", model=made["bert"], ignore_labels=[]), theirs(made["bert"])
    places = [(0, 0), (0, 2), (3, 7), (0, 0)]
    expected = oracle(text, offset_mapping=places, ignore_labels=[])
    assert [(entity["start"], entity["end"]) for entity in expected] == places[1:3]
    alike(pipe(text, offset_mapping=places), expected)
    assert pipe(text, offset_mapping=[places]) == pipe(text, offset_mapping=places)
    alike(pipe([text], offset_mapping=places), oracle([text], offset_mapping=places, ignore_labels=[]))
    two = pipe([text, "cat"], offset_mapping=[places, [(0, 0), (5, 6), (0, 0)]])
    assert two[0] == pipe(text, offset_mapping=places)
    assert (two[1][0]["start"], two[1][0]["end"]) == (5, 6)


def test_tokenizers_without_marks_join_up_to_a_space(made: dict[str, Path]) -> None:
    """A vocabulary of words alone, in which punctuation is a token of its own."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    plain = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]"}
    ours = pipeline("ner", model=made["bert"], tokenizer=PreTrainedTokenizerFast(tokenizer_object=plain, **special))
    oracle = transformers.pipeline(
        "ner",
        model=str(made["bert"]),
        tokenizer=transformers.PreTrainedTokenizerFast(tokenizer_object=plain, **special),
        device="cpu",
    )
    text = "hello, world! cat ' the zzz. b"
    with pytest.warns(UserWarning, match="fallback heuristic"):
        expected = oracle(text, aggregation_strategy="average")
    alike(ours(text, aggregation_strategy="average"), expected)
    (first, *_) = pipeline_words(ours, text)
    assert first == "hello,"


def test_a_tokenizer_that_knows_no_places(made: dict[str, Path]) -> None:
    pipe = pipeline("ner", model=made["bert"], tokenizer=Placeless.from_pretrained(made["bert"]))
    known = pipeline("ner", model=made["bert"], use_fast=False)
    for strategy in ("none", "simple"):
        found = pipe(TEXTS[1], aggregation_strategy=strategy)
        expected = known(TEXTS[1], aggregation_strategy=strategy)
        assert [entity["score"] for entity in found] == [entity["score"] for entity in expected]
        assert {(entity["start"], entity["end"]) for entity in found} == {(None, None)}
    needing: list[tuple[Any, dict[str, Any], str]] = [
        (TEXTS[0], {"aggregation_strategy": "first"}, "aggregation_strategy='first'"),
        (TEXTS[0], {"aggregation_strategy": "average"}, "aggregation_strategy='average'"),
        (TEXTS[0], {"aggregation_strategy": "max"}, "aggregation_strategy='max'"),
        (LONG, {"aggregation_strategy": "simple", "stride": 2}, "stride"),
        (["hello"], {"is_split_into_words": True}, "is_split_into_words=True"),
    ]
    for item, options, what in needing:
        with pytest.raises(
            ValueError,
            match=re.escape(
                f"{what} needs to know where in a text tokens stand, which Placeless does not say; use a fast tokenizer, or let "
                f"yours define _pieces instead of _tokenize."
            ),
        ) as caught:
            pipe(item, **options)
        assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("item", "options", "kind", "message"),
    [
        (3, {}, TypeError, "a text is a str, not a int."),
        (b"hello", {}, TypeError, "a text is a str, not a bytes; decode it: value.decode('utf-8')."),
        (
            {"words": 1},
            {},
            TypeError,
            "a text is a str, not a dict with the keys 'words'; give what is under one of them.",
        ),
        (["hello", 3], {"is_split_into_words": True}, TypeError, "word 1 is a str, not a int."),
        (
            "hello",
            {"is_split_into_words": True},
            TypeError,
            "is_split_into_words=True takes lists of words, not a str: ",
        ),
        (
            "a b",
            {"stride": 22, "aggregation_strategy": "max"},
            ValueError,
            "stride=22 must be less than the 22 tokens that",
        ),
    ],
)
def test_bad_items(item: Any, options: Any, kind: type[Exception], message: str, made: dict[str, Path]) -> None:
    pipe = pipeline("ner", model=made["bert"])
    with pytest.raises((kind, PipelineItemError), match=re.escape(message)) as caught:
        pipe(item, **options)
    assert isinstance(caught.value.__cause__ or caught.value, kind)


def test_a_list_in_a_list_is_no_text(made: dict[str, Path]) -> None:
    with pytest.raises(
        PipelineItemError,
        match=re.escape("item 1 (a list): a text is a str, not a list; give several texts as one flat list."),
    ):
        pipeline("ner", model=made["bert"])(["a", ["b"]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"stride": 3},
            "stride=3 reads a long text in windows, whose entities are joined: pass aggregation_strategy='simple', or another but "
            "'none'.",
        ),
        (
            {"aggregation_strategy": "mean"},
            "aggregation_strategy='mean' must be one of 'none', 'simple', 'first', 'average', 'max'.",
        ),
        ({"delimiter": "-"}, "delimiter is what stands between words: pass is_split_into_words=True with it."),
        (
            {"offset_mapping": [(0, 0), (0, 5)]},
            "offset_mapping has 2 places, and the text 3 tokens with the special ones; they must be as many.",
        ),
    ],
)
def test_bad_options(options: dict[str, Any], message: str, made: dict[str, Path]) -> None:
    pipe = pipeline("ner", model=made["bert"])
    with pytest.raises(ValueError, match=re.escape(message)):
        pipe("hello", **options)
    if "offset_mapping" not in options:
        with pytest.raises(ValueError, match=re.escape(message)):
            pipeline("ner", model=made["bert"], **options)


def test_bad_places(made: dict[str, Path]) -> None:
    pipe = pipeline("ner", model=made["bert"])
    places = [(0, 0), (0, 5), (0, 0)]
    with pytest.raises(ValueError, match=r"offset_mapping is of 1 texts, and there are 2; each needs its own."):
        pipe(["hello", "cat"], offset_mapping=[places])
    with pytest.raises(TypeError, match="offset_mapping goes with a text or a list of texts, not with a stream"):
        pipe(iter(["hello"]), offset_mapping=places)
    with pytest.raises(ValueError, match="offset_mapping is of one row of tokens, and stride makes several"):
        pipe(LONG, offset_mapping=places, stride=2, aggregation_strategy="simple")
