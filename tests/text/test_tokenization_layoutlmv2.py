"""LayoutLMv2's tokenizers give boxes and labels as transformers', and say what does not fit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from tiny_vocab import write_vocab

from vertebra import LayoutLMv2Tokenizer, LayoutLMv2TokenizerFast

WORDS = ["Hello", "un-aff", "unaffable", "", "café"]
BOXES = [[at, at + 1, at + 10, at + 20] for at in range(5)]
LABELS = [1, 2, 3, 4, 5]
CALLS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((WORDS,), {"boxes": BOXES, "word_labels": LABELS}),
    (([WORDS, WORDS[:2]],), {"boxes": [BOXES, BOXES[:2]], "padding": True, "return_tensors": "np"}),
    (("what is it ?", WORDS), {"boxes": BOXES, "padding": "max_length", "max_length": 30, "return_offsets_mapping": True}),
    ((["what", "a b"], [WORDS, WORDS[:3]]), {
        "boxes": [BOXES, BOXES[:3]], "padding": True, "truncation": "only_second", "max_length": 7,
        "return_overflowing_tokens": True,
    }),
    (([WORDS, WORDS[:3]],), {
        "boxes": [BOXES, BOXES[:3]], "padding": True, "truncation": True, "max_length": 6, "stride": 2,
        "return_overflowing_tokens": True, "word_labels": [LABELS, LABELS[:3]],
    }),
]  # fmt: skip


@pytest.fixture(params=[LayoutLMv2Tokenizer, LayoutLMv2TokenizerFast], ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


def plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


@pytest.mark.parametrize("all_labels", [False, True])
@pytest.mark.parametrize("number", range(len(CALLS)))
def test_like_transformers(number: int, all_labels: bool, kind: Any, tmp_path: Path) -> None:
    folder = write_vocab(tmp_path)
    settings = {"only_label_first_subword": not all_labels, "sep_token_box": [9, 9, 9, 9]}
    arguments, options = CALLS[number]
    expected = transformers.LayoutLMv2Tokenizer.from_pretrained(folder, **settings)(*arguments, **options)
    tokenizer = kind.from_pretrained(folder, **settings)
    found = tokenizer(*arguments, **options)
    assert {name: plain(value) for name, value in found.items()} == {
        name: plain(value) for name, value in expected.items()
    }
    tokenizer.save_pretrained(tmp_path / "saved")
    again = kind.from_pretrained(tmp_path / "saved")(*arguments, **options)
    assert {name: plain(value) for name, value in again.items()} == {
        name: plain(value) for name, value in found.items()
    }


def test_questions_have_no_labels(kind: Any, tmp_path: Path) -> None:
    tokenizer = kind.from_pretrained(write_vocab(tmp_path))
    batch = tokenizer("a b", ["hello", "unaffable"], boxes=BOXES[:2], word_labels=[7, 8])
    assert batch["labels"] == [-100, -100, -100, -100, 7, 8, -100, -100, -100]
    assert batch["bbox"][1] == [0, 0, 0, 0]


def test_tokens_need_no_boxes(kind: Any, tmp_path: Path) -> None:
    folder = write_vocab(tmp_path)
    tokenizer, theirs = (each.from_pretrained(folder) for each in (kind, transformers.LayoutLMv2Tokenizer))
    assert (
        tokenizer.tokenize("hello unaffable")
        == theirs.tokenize("hello unaffable")
        == ["hello", "un", "##aff", "##able"]
    )
    assert tokenizer.tokenize("a", "b", add_special_tokens=True) == ["[CLS]", "a", "[SEP]", "b", "[SEP]"]


def test_pad(kind: Any, tmp_path: Path) -> None:
    tokenizer = kind.from_pretrained(write_vocab(tmp_path))
    rows = [tokenizer(WORDS[:count], boxes=BOXES[:count], word_labels=LABELS[:count]) for count in (1, 3)]
    batch = tokenizer.pad(rows, return_tensors="np")
    assert batch["bbox"].shape == (2, 9, 4)
    assert batch["labels"][0].tolist() == [-100, 1, -100] + [-100] * 6
    assert batch["bbox"][0, 3:].tolist() == [[0, 0, 0, 0]] * 6


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((["a"],), {}, "boxes is None; give one box for each word"),
        ((["a", "b"],), {"boxes": [[0, 0, 1, 1]]}, "Page 0 has 2 words and 1 boxes; each word needs one"),
        (([["a"], ["b"]],), {"boxes": [[[0, 0, 1, 1]]]}, "boxes are of 1 pages, and the words of 2"),
        ((["a"],), {"boxes": [[0, 0, 1]]}, r"boxes\[0\]\[0\] is \[0, 0, 1\]; a box is \[left, top, right, bottom\]"),
        ((["a"],), {"boxes": [[0, 0, 2000, 1]]}, r"boxes\[0\]\[0\] is \[0, 0, 2000, 1\]; a box is .* 0 to 1000"),
        (
            (["a"],),
            {"boxes": [[9, 0, 5, 1]]},
            r"boxes\[0\]\[0\] is \[9, 0, 5, 1\]; .*left before right and top before bottom",
        ),
        (
            (["a"],),
            {"boxes": [[0, 0, 1, 1]], "word_labels": ["B"], "return_tensors": "pt"},
            "'labels' cannot become a tensor: it holds something else than numbers",
        ),
        ((["a"],), {"boxes": [[0, 0, 1, 1]], "word_labels": [1, 2]}, "Page 0 has 1 words and 2 word_labels"),
    ],
)
def test_what_does_not_fit(arguments: Any, options: Any, message: str, kind: Any, tmp_path: Path) -> None:
    tokenizer = kind.from_pretrained(write_vocab(tmp_path))
    with pytest.raises(ValueError, match=message):
        tokenizer(*arguments, **options)


def test_words_that_are_none(kind: Any, tmp_path: Path) -> None:
    tokenizer = kind.from_pretrained(write_vocab(tmp_path))
    with pytest.raises(
        TypeError, match=r"text is 'a b', not the words of a page: .* with a box each\. A question goes first"
    ):
        tokenizer("a b", boxes=BOXES[:2])
    with pytest.raises(TypeError, match=r"text_pair\[1\] is 'c d', not the words of a page"):
        tokenizer(["what", "who"], [["a"], "c d"], boxes=[BOXES[:1], BOXES[:2]])
    with pytest.raises(
        TypeError, match="text is the question where text_pair has the words, and question 0 is None, not a str"
    ):
        tokenizer(None, ["a"], boxes=BOXES[:1])
    with pytest.raises(TypeError, match=r"text\[0\]\[1\] is 3|text\[1\] is 3"):
        tokenizer(["a", 3], boxes=BOXES[:2])
    boxes = np.asarray(BOXES[:2])
    assert tokenizer(["a", "b"], boxes=boxes)["bbox"][1] == BOXES[0]
