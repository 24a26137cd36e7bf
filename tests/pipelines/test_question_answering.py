"""Answers against those of transformers 4.57.6, whose pipeline version 5 has not, and against a plain search."""

import json
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from oracle import perturb
from placeless import Placeless
from tiny_vocab import WORDS, write_vocab

from vertebra import pipeline
from vertebra.pipelines.errors import PipelineItemError
from vertebra.pipelines.question_answering import HOW

CONTEXT = "The cat hid. hello unaffable world, the un cafe! a b c d e; hello cat"
QUESTION = "the world"


@pytest.fixture(scope="module")
def expected(v4: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((v4 / "question_answering" / "expected.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DistilBERT that answers, with a vocabulary of a few words."""
    folder = tmp_path_factory.mktemp("distilbert")
    torch.manual_seed(0)
    config = transformers.DistilBertConfig(
        vocab_size=len(WORDS), dim=12, n_heads=3, n_layers=2, hidden_dim=20, max_position_embeddings=64
    )
    perturb(transformers.DistilBertForQuestionAnswering(config), scale=0.5).save_pretrained(folder)
    write_vocab(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "model_max_length": 64}))
    return folder


def assert_answers(found: Any, expected: Any) -> None:
    """The same answers in the same order; probabilities to 1e-5."""
    assert type(found) is type(expected)
    for ours, theirs in zip(*([one] if isinstance(one, dict) else one for one in (found, expected)), strict=True):
        assert list(ours) == list(theirs) == ["score", "start", "end", "answer"]
        assert type(ours["score"]) is float
        assert ours == {**theirs, "score": pytest.approx(theirs["score"], rel=1e-4, abs=1e-6)}


@pytest.mark.parametrize("use_fast", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_answers_of_version_4(batch_size: int, use_fast: bool, v4: Path, expected: dict[str, Any]) -> None:
    pipe = pipeline("question-answering", model=v4 / "question_answering", use_fast=use_fast, batch_size=batch_size)
    pairs = [{"question": one, "context": text} for one, text in product(expected["questions"], expected["contexts"])]
    for number, options in enumerate(expected["options"]):
        for found, theirs in zip(
            pipe(pairs, **options), expected["answers"][number :: len(expected["options"])], strict=True
        ):
            assert_answers(found, theirs)
    flat = [one for answer in expected["answers"] for one in (answer if isinstance(answer, list) else [answer])]
    assert len({answer["answer"] for answer in flat}) > 50
    assert any(answer["answer"] == "" for answer in flat)
    assert len(pipe.prepare(pairs[2])) > 2


def test_the_ways_to_ask(v4: Path, expected: dict[str, Any]) -> None:
    pipe = pipeline("question-answering", model=v4 / "question_answering")
    (first, second, *_), (context, other, _) = expected["questions"], expected["contexts"]
    one, two = pipe(question=first, context=context), pipe(question=second, context=context)
    assert_answers(one, expected["answers"][0])
    pair = {"question": first, "context": context}
    assert pipe(pair) == pipe([pair]) == pipe(question=[first], context=[context]) == pipe(first, context) == one
    assert pipe({**pair, "id": "5733", "answers": {"text": ["cat"]}}) == one
    assert pipe(question=[first, second], context=context) == [one, two]
    both = pipe(question=[first, second], context=[context, other])
    assert both == pipe([pair, {"question": second, "context": other}])
    assert both[0] == one

    def pairs() -> Iterator[dict[str, str]]:
        yield pair
        yield {"question": second, "context": context}

    stream = pipe(pairs())
    assert not isinstance(stream, list)
    assert list(stream) == [one, two]
    assert pipe(pair, topk=3) == pipe(pair, top_k=3)
    assert pipeline("question-answering", model=v4 / "question_answering", top_k=3)(pair) == pipe(pair, top_k=3)


def searched(pipe: Any, question: str, context: str, longest: int, top_k: int) -> list[tuple[str, float]]:
    """Answers of a context that is one window, word by word as the text has them: all spans are tried, one by one."""
    first = pipe.tokenizer.padding_side == "right"
    row = pipe.tokenizer(*((question, context) if first else (context, question)), return_tensors="pt")
    output = pipe.model(**row)
    texts = row.sequence_ids()
    mine = [at for at, text in enumerate(texts) if text == int(first)]
    counted = [0, *mine]
    start, end = (
        dict(zip(counted, output[name][0, counted].softmax(-1).tolist(), strict=True))
        for name in ("start_logits", "end_logits")
    )
    spans = [(start[a] * end[b], a, b) for a in mine for b in mine if a <= b < a + longest]
    found: dict[str, float] = {}
    for score, a, b in sorted(spans, reverse=True)[: 2 * top_k + 10]:
        begin, close = (row.word_to_chars(row.token_to_word(at), sequence_index=int(first)) for at in (a, b))
        text = context[begin.start : close.end]
        key = next((one for one in found if one.lower() == text.lower()), text)
        found[key] = found.get(key, 0) + score
    return sorted(found.items(), key=lambda pair: -pair[1])[:top_k]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("longest", [1, 3, 15])
def test_every_span_is_considered(side: str, longest: int, small: Path) -> None:
    """Where the tokenizer pads on the left, the context stands first; transformers then takes answers from the question too."""
    pipe = pipeline("question-answering", model=small, batch_size=3)
    pipe.tokenizer.padding_side = side
    pairs = [{"question": QUESTION, "context": text} for text in (CONTEXT, CONTEXT[:30], CONTEXT[9:])]
    for pair, found in zip(pairs, pipe(pairs, top_k=4, max_answer_len=longest), strict=True):
        plain = searched(pipe, pair["question"], pair["context"], longest, 4)
        assert [answer["answer"] for answer in found] == [text for text, _ in plain]
        assert [answer["score"] for answer in found] == pytest.approx([score for _, score in plain], rel=1e-4)
        assert all(pair["context"][one["start"] : one["end"]] == one["answer"] for one in found)


def test_padding_changes_no_answer(small: Path) -> None:
    pipe = pipeline("question-answering", model=small)
    plain = pipe(question=QUESTION, context=CONTEXT, top_k=3)
    assert_answers(pipe(question=QUESTION, context=CONTEXT, top_k=3, padding="max_length"), plain)
    for side in ("left", "right"):
        pipe.tokenizer.padding_side = side
        many = [{"question": QUESTION, "context": CONTEXT[: 20 + at]} for at in range(0, 40, 9)]
        for alone, together in zip(pipe(many), pipe(many, batch_size=5), strict=True):
            assert_answers(together, alone)


def test_there_are_no_more_answers_than_spans(small: Path) -> None:
    pipe = pipeline("question-answering", model=small)
    found = pipe(question="the", context="cat world", top_k=99)
    assert sorted(answer["answer"] for answer in found) == ["cat", "cat world", "world"]
    assert sum(answer["score"] for answer in found) <= 1
    assert pipe(question="the", context="cat", top_k=99)["answer"] == "cat"
    found = pipe(question="the", context="cat", top_k=99, handle_impossible_answer=True)
    assert {answer["answer"] for answer in found} == {"cat", ""}


def test_long_questions_are_cut(small: Path) -> None:
    pipe = pipeline("question-answering", model=small)
    cut = pipe(question="the cat hello a b c d e", context=CONTEXT, max_question_len=3)
    assert cut == pipe(question="the cat hello", context=CONTEXT)
    assert cut != pipe(question="the cat hello a b c d e", context=CONTEXT)


@pytest.mark.parametrize(
    ("asked", "kind", "message"),
    [
        ({"question": "", "context": "a"}, ValueError, "the question is empty; give a text."),
        ({"question": "a", "context": " \n"}, ValueError, "the context is empty; give a text."),
        ({"question": "a", "context": 3}, TypeError, "context is a str, not a int."),
        (
            {"question": ["a"], "context": "b"},
            TypeError,
            "question is a str, not a list; give several texts as one flat",
        ),
        ({"question": "a"}, TypeError, f"there is no 'context' in {{'question'}}. Give {HOW}."),
        ("a", TypeError, f"a question needs a context to look in: {HOW}; got a str."),
        (
            {"question": "a", "context": "\u200b"},
            ValueError,
            "the context has no token that could be in an answer: '\\u200b'.",
        ),
    ],
)
def test_bad_items(asked: Any, kind: type[Exception], message: str, small: Path) -> None:
    pipe = pipeline("question-answering", model=small)
    with pytest.raises(kind, match=re.escape(message)):
        pipe(asked)
    good = {"question": QUESTION, "context": CONTEXT}
    with pytest.raises(PipelineItemError, match=re.escape(message)) as caught:
        pipe([good, asked])
    assert caught.value.index == 1
    assert pipe([good, asked], on_error="skip")[1] is None


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({}, TypeError, f"question-answering needs a question and the context to look in ({HOW})."),
        ({"question": "a"}, TypeError, f"question and context go together, and with nothing else. Give {HOW}."),
        ({"inputs": {}, "question": "a", "context": "b"}, TypeError, "question and context go together"),
        (
            {"question": ["a", "b"], "context": ["c"]},
            ValueError,
            "there are 2 questions and 1 contexts; give as many of both, or one context.",
        ),
        ({"inputs": []}, ValueError, "question-answering got nothing to do: inputs is empty."),
    ],
)
def test_bad_questions(arguments: dict[str, Any], kind: type[Exception], message: str, small: Path) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        pipeline("question-answering", model=small)(**arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k=0 must be a whole number, 1 or more."),
        ({"topk": True}, "topk=True must be a whole number, 1 or more."),
        ({"max_answer_len": -1}, "max_answer_len=-1 must be a whole number, 1 or more."),
        ({"doc_stride": -1}, "doc_stride=-1 must be a whole number, 0 or more."),
        (
            {"max_seq_len": 12, "doc_stride": 7},
            "doc_stride=7 must be less than the 7 tokens of the context that a window of max_seq_len=12 holds; lower doc_stride or "
            "raise max_seq_len.",
        ),
        (
            {"max_seq_len": 5},
            "max_seq_len=5 leaves no room for the context beside 3 special tokens and 2 of the question; raise max_seq_len, or "
            "lower max_question_len to less than 2.",
        ),
    ],
)
def test_bad_options(options: dict[str, Any], message: str, small: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        pipeline("question-answering", model=small)(question=QUESTION, context=CONTEXT, **options)


def test_a_stride_matters_to_long_contexts_only(small: Path) -> None:
    pipe = pipeline("question-answering", model=small, max_seq_len=12, doc_stride=7)
    assert pipe(question=QUESTION, context="cat world")["answer"]


def test_a_tokenizer_that_knows_no_places(small: Path) -> None:
    pipe = pipeline("question-answering", model=small, tokenizer=Placeless.from_pretrained(small))
    with pytest.raises(
        ValueError,
        match=re.escape(
            "question-answering needs to know where in a text tokens stand, which Placeless does not say; use a fast tokenizer, or "
            "let yours define _pieces instead of _tokenize."
        ),
    ):
        pipe(question=QUESTION, context=CONTEXT)
