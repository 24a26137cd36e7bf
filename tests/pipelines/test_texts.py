"""Labels, features and masked words of texts against transformers', on the same small checkpoints."""

import logging
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from alike import alike
from text_folders import LONGEST, write_text_model
from tiny_vocab import WORDS

from vertebra import pipeline
from vertebra.pipelines.errors import PipelineItemError

LABELS = ["bad", "poor", "fair", "good"]
TEXTS = ["Hello, unaffable world!", "the café zzz", "", "a b c d e. un unab cat ' the", "hello hello hello", "cat"]
MASKED = [
    "the [MASK] hello.",
    "[MASK]",
    "a b [MASK] d e [MASK], un [MASK] cat",
    "hello [MASK] unaffable world! the cat",
]
PAIRS = [
    {"text": "hello world", "text_pair": "the cat"},
    {"text": "un", "text_pair": "hello unaffable cafe ! b"},
    {"text": "the cat"},
]
CHECKPOINTS = [
    ("bert", "Bert", "ForSequenceClassification", "right", {}),
    ("left", "Bert", "ForSequenceClassification", "left", {}),
    ("distilbert", "DistilBert", "ForSequenceClassification", "right", {}),
    ("several", "Bert", "ForSequenceClassification", "right", {"problem_type": "multi_label_classification"}),
    ("number", "DistilBert", "ForSequenceClassification", "right", {"problem_type": "regression"}),
    ("bert_model", "Bert", "Model", "right", {}),
    ("left_model", "Bert", "Model", "left", {}),
    ("distilbert_model", "DistilBert", "Model", "right", {}),
    ("bert_words", "Bert", "ForMaskedLM", "right", {}),
    ("left_words", "Bert", "ForMaskedLM", "left", {}),
    ("distilbert_words", "DistilBert", "ForMaskedLM", "right", {}),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("texts")
    return {
        name: write_text_model(root / name, family, head, LABELS, side, **more)
        for name, family, head, side, more in CHECKPOINTS
    }


@cache
def theirs(task: str, folder: Path) -> Any:
    return transformers.pipeline(task, model=str(folder), device="cpu")


# labels


@cache
def classifier(folder: Path, use_fast: bool) -> Any:
    return pipeline("sentiment-analysis", model=folder, use_fast=use_fast)


@pytest.mark.parametrize("name", ["bert", "left", "distilbert", "several", "number"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_k": None},
        {"top_k": 1},
        {"top_k": 3},
        {"function_to_apply": "sigmoid"},
        {"function_to_apply": "none", "top_k": 99},
        {"truncation": True, "max_length": 4},
    ],
    ids=str,
)
def test_labels(name: str, options: dict[str, Any], made: dict[str, Path]) -> None:
    oracle = theirs("text-classification", made[name])
    expected, alone = oracle(TEXTS, **options), oracle(TEXTS[0], **options)
    assert len({str(answer) for answer in expected}) > 3
    for use_fast in (True, False):
        ours = classifier(made[name], use_fast)
        for batch_size in (1, 3):
            alike(ours(TEXTS, batch_size=batch_size, **options), expected)
        alike(ours(TEXTS[0], **options), alone)
    if "truncation" not in options:
        alike(list(ours(iter(TEXTS), **options)), expected)


@pytest.mark.parametrize("name", ["bert", "left", "distilbert"])
def test_pairs(name: str, made: dict[str, Path]) -> None:
    oracle, ours = theirs("text-classification", made[name]), pipeline("text-classification", model=made[name])
    expected = oracle(PAIRS, top_k=None)
    assert expected[0] != oracle("hello world", top_k=None)
    for batch_size in (1, 3):
        alike(ours(PAIRS, top_k=None, batch_size=batch_size), expected)
    alike(ours(PAIRS[0]), oracle(PAIRS[0]))


def test_options_of_the_constructor(made: dict[str, Path]) -> None:
    oracle = transformers.pipeline("text-classification", model=str(made["bert"]), device="cpu", top_k=2)
    ours = pipeline("text-classification", model=made["bert"], top_k=2)
    alike(ours(TEXTS), oracle(TEXTS))
    alike(ours(TEXTS[0]), oracle(TEXTS[0]))


# features


@pytest.mark.parametrize("name", ["bert_model", "left_model", "distilbert_model"])
def test_features(name: str, made: dict[str, Path]) -> None:
    oracle = theirs("feature-extraction", made[name])
    expected = oracle(TEXTS)
    for use_fast in (True, False):
        ours = pipeline("feature-extraction", model=made[name], use_fast=use_fast)
        for batch_size in (1, 3):  # padding is left out, which transformers has in batches
            alike(ours(TEXTS, batch_size=batch_size), expected)
    alike(ours(TEXTS[0]), oracle(TEXTS[0]))
    tensors = ours(TEXTS, return_tensors=True, batch_size=3)
    alike(tensors, oracle(TEXTS, return_tensors=True))
    assert all(one.untyped_storage().nbytes() == one.nbytes for one in tensors)
    for options in ({"truncation": True}, {"tokenize_kwargs": {"truncation": True, "max_length": 6}}):
        alike(ours("hello " * 40, **options), oracle("hello " * 40, **options))
    words = {"is_split_into_words": True}
    alike(ours([["hello", "cat"]], tokenize_kwargs=words), oracle([["hello", "cat"]], tokenize_kwargs=words))


# masked words


@pytest.mark.parametrize("name", ["bert_words", "left_words", "distilbert_words"])
@pytest.mark.parametrize(
    "options", [{}, {"top_k": 1}, {"top_k": 7}, {"targets": ["cat", "world", "hello"]}, {"targets": "un", "top_k": 3}]
)
def test_masked_words(name: str, options: dict[str, Any], made: dict[str, Path]) -> None:
    oracle = theirs("fill-mask", made[name])
    expected = oracle(MASKED, **options)
    for use_fast in (True, False):
        ours = pipeline("fill-mask", model=made[name], use_fast=use_fast)
        for batch_size in (1, 3):
            alike(ours(MASKED, batch_size=batch_size, **options), expected)
        alike(ours(MASKED[2], **options), oracle(MASKED[2], **options))
        alike(ours(MASKED[:1], **options), oracle(MASKED[:1], **options))
    if "targets" not in options:
        tokens = {entry["token"] for answer in expected for entry in answer if isinstance(entry, dict)}
        assert len(tokens) >= min(2, len(expected[0]))


def test_all_words_and_cut_texts(made: dict[str, Path]) -> None:
    ours, oracle = pipeline("fill-mask", model=made["bert_words"]), theirs("fill-mask", made["bert_words"])
    assert len(ours(MASKED[0], top_k=10**6)) == len(WORDS)
    assert ours(MASKED[0], top_k=None) == ours(MASKED[0])
    options = {"tokenizer_kwargs": {"truncation": True}}
    text = "the [MASK] " + "cat " * 60
    alike(ours(text, **options), oracle(text, **options))
    assert ours(text, **options)[0]["sequence"].count("cat") == LONGEST - 4


def test_targets_that_are_no_words(made: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    ours, oracle = pipeline("fill-mask", model=made["bert_words"]), theirs("fill-mask", made["bert_words"])
    targets = ["unaffable", "cat", "", "cat"]
    expected = oracle(MASKED[:2], targets=targets)
    with caplog.at_level(logging.WARNING, logger="vertebra"):
        alike(ours(MASKED[:2], targets=targets), expected)
    assert caplog.messages == [
        "fill-mask: the target 'unaffable' is no token of its own; 'un' stands for it.",
        "fill-mask: the target '' has no token and is left out.",
    ]
    with pytest.raises(ValueError, match=re.escape("targets=[''] has no word with a token; give at least one.")):
        ours(MASKED[0], targets=[""])
    with pytest.raises(ValueError, match=re.escape("targets=[] has no word with a token; give at least one.")):
        pipeline("fill-mask", model=made["bert_words"], targets=[])


# bad input

HOW = "A pair of texts is {'text': …, 'text_pair': …}."


@pytest.mark.parametrize(
    ("name", "item", "kind", "message"),
    [
        ("bert", 3, TypeError, f"a text is a str, not a int. {HOW}"),
        ("bert", None, TypeError, f"a text is a str, not a NoneType. {HOW}"),
        ("bert", b"a", TypeError, "a text is a str, not a bytes; decode it: value.decode('utf-8')."),
        ("bert", {"text": "a", "pair": "b"}, TypeError, f"{HOW} This one has the keys 'text', 'pair'."),
        ("bert", {"text_pair": "b"}, TypeError, f"{HOW} This one has the keys 'text_pair'."),
        ("bert", {"text": "a", "text_pair": 3}, TypeError, "'text_pair' is a str, not a int."),
        ("bert", ["a", "b"], TypeError, f"a text is a str, not a list; give several texts as one flat list. {HOW}"),
        (
            "bert_model",
            {"text": "a"},
            TypeError,
            "a text is a str, not a dict with the keys 'text'; give what is under",
        ),
        ("bert_words", 3, TypeError, "a text is a str, not a int."),
        ("bert_words", "", ValueError, "the text has no [MASK], the token that is to be filled in: ''."),
        ("bert_words", "the cat", ValueError, "the text has no [MASK], the token that is to be filled in: 'the cat'."),
    ],
)
def test_bad_items(name: str, item: Any, kind: type[Exception], message: str, made: dict[str, Path]) -> None:
    pipe = pipeline(model=made[name]) if not name.endswith("_model") else pipeline("feature-extraction", made[name])
    good = MASKED[0]
    with pytest.raises(PipelineItemError, match=re.escape(message)) as caught:
        pipe([good, item])
    assert caught.value.index == 1
    assert isinstance(caught.value.__cause__, kind)
    assert pipe([item, good], on_error="skip") == [None, pipe([good, good])[0]]
    if not isinstance(item, list):
        with pytest.raises(kind, match=re.escape(message)):
            pipe(item)


@pytest.mark.parametrize(
    ("name", "options", "kind", "message"),
    [
        ("bert", {"top_k": 0}, ValueError, "top_k=0 must be 1 or more, or None for all 4 labels."),
        ("bert", {"top_k": "3"}, ValueError, "top_k='3' must be 1 or more, or None for all 4 labels."),
        ("bert", {"function_to_apply": "tanh"}, ValueError, "function_to_apply='tanh' must be one of 'softmax', "),
        (
            "bert",
            {"add_special_tokens": False},
            ValueError,
            "'' has no token for BertForSequenceClassification to read.",
        ),
        ("bert_words", {"top_k": -1}, ValueError, "top_k=-1 must be 1 or more, or None for 5."),
        ("bert_words", {"top_k": True}, ValueError, "top_k=True must be 1 or more, or None for 5."),
        (
            "bert_model",
            {"truncation": True, "tokenize_kwargs": {"truncation": False}},
            ValueError,
            "truncation is given twice, by itself and in tokenize_kwargs; give it once.",
        ),
        ("bert_model", {"pooling": True}, TypeError, "FeatureExtractionPipeline() got an unknown setting 'pooling'."),
    ],
)
def test_bad_options(
    name: str, options: dict[str, Any], kind: type[Exception], message: str, made: dict[str, Path]
) -> None:
    pipe = pipeline(model=made[name]) if not name.endswith("_model") else pipeline("feature-extraction", made[name])
    with pytest.raises(kind, match=re.escape(message)):
        pipe("", **options)


def test_a_tokenizer_without_a_mask(made: dict[str, Path]) -> None:
    pipe = pipeline("fill-mask", model=made["bert_words"])
    pipe.tokenizer.mask_token = None
    with pytest.raises(ValueError, match=r"BertTokenizerFast has no mask token; set tokenizer.mask_token."):
        pipe("the [MASK]")


def test_a_tokenizer_without_padding(made: dict[str, Path]) -> None:
    """Texts of one length share a batch, the others have one of their own."""
    pipe = pipeline("text-classification", model=made["bert"])
    expected = pipe(TEXTS)
    pipe.tokenizer.pad_token = None
    alike(pipe(TEXTS, batch_size=4), expected)
