"""LayoutLMv2's tokenizers: words with their boxes on the page, WordPiece for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vertebra.text.tokenization.batch_encoding import BatchEncoding
from vertebra.text.tokenization.bert import BertTokenizer, BertTokenizerFast
from vertebra.text.tokenization.calling import Calling
from vertebra.text.tokenization.tensors import read_tensor_type, to_lists

Box = Sequence[int]
CORNERS = ([0, 0, 0, 0], [1000, 1000, 1000, 1000], [0, 0, 0, 0])
"""Boxes of the tokens that begin a row, end a text, and fill a row."""
LARGEST = 1000


class WordsAndBoxes(Calling):
    """What makes rows of words with boxes of the rows of a tokenizer for words."""

    cls_token_box: Box
    sep_token_box: Box
    pad_token_box: Box
    pad_token_label: int
    only_label_first_subword: bool

    def __init__(
        self,
        *args: Any,
        cls_token_box: Box = CORNERS[0],
        sep_token_box: Box = CORNERS[1],
        pad_token_box: Box = CORNERS[2],
        pad_token_label: int = -100,
        only_label_first_subword: bool = True,
        model_max_length: int | None = 512,
        **settings: Any,
    ) -> None:
        own = {
            "cls_token_box": list(cls_token_box),
            "sep_token_box": list(sep_token_box),
            "pad_token_box": list(pad_token_box),
            "pad_token_label": pad_token_label,
            "only_label_first_subword": only_label_first_subword,
        }
        for name, value in own.items():
            setattr(self, name, value)
        super().__init__(*args, model_max_length=model_max_length, **own, **settings)  # type: ignore[call-arg]

    def __call__(  # type: ignore[override]
        self,
        text: Any = None,
        text_pair: Any = None,
        boxes: Any = None,
        word_labels: Any = None,
        *,
        return_tensors: Any = None,
        return_overflowing_tokens: bool = False,
        **options: Any,
    ) -> BatchEncoding:
        """Tokenize words and their boxes.

        Args:
            text: The words of a page, or of a batch of pages; with `text_pair` the question about a page, a str, or the questions
                of a batch.
            text_pair: The words of the page, or of the pages, where `text` is a question.
            boxes: For each word `[left, top, right, bottom]`, in thousandths of the page (0 to 1000).
            word_labels: For each word its class; the batch then has `labels`, which are `pad_token_label` for all tokens of a word
                but the first (unless `only_label_first_subword` is False), for questions and for special tokens.
            return_tensors: As in `PreTrainedTokenizer`.
            return_overflowing_tokens: As in `PreTrainedTokenizer`.
            **options: The other options of `PreTrainedTokenizer`.

        Returns:
            A batch with `bbox` beside the usual entries; special tokens have `cls_token_box`, `sep_token_box` and `pad_token_box`,
            questions `pad_token_box`.

        Raises:
            TypeError: words or questions that are none.
            ValueError: boxes or labels that are not as many as the words, or boxes that are none, of which an edge is beyond the
                page, or the right one left of the left one.
        """
        kind = read_tensor_type(return_tensors)
        asks = text_pair is not None
        batched = isinstance(text, (list, tuple)) and (asks or (len(text) > 0 and isinstance(text[0], (list, tuple))))
        words = text_pair if asks else text
        pages = list(words) if batched and isinstance(words, (list, tuple)) else [words]
        _check_words("text_pair" if asks else "text", pages, batched)
        of_pages = [_of_pages("boxes", boxes, batched, pages), _of_pages("word_labels", word_labels, batched, pages)]
        _check_boxes(of_pages[0])
        firsts = _questions(text if batched else [text]) if asks else pages
        batch = super().__call__(
            firsts,
            pages if asks else None,
            is_split_into_words=True,
            return_overflowing_tokens=return_overflowing_tokens,
            **options,
        )
        samples = batch.get("overflow_to_sample_mapping", range(len(pages)))
        rows = [batch[at] for at in range(len(batch["input_ids"]))]
        number = int(asks)
        batch["bbox"] = [self._row_boxes(row, of_pages[0][at], number) for row, at in zip(rows, samples, strict=True)]
        if word_labels is not None:
            labels = zip(rows, samples, strict=True)
            batch["labels"] = [self._row_labels(row, of_pages[1][at], number) for row, at in labels]
        if not batched and not return_overflowing_tokens and kind is None:
            data = {name: value[0] if isinstance(value[0], list) else value for name, value in batch.items()}
            return BatchEncoding(data, batch.encodings)
        return batch.convert_to_tensors(kind)

    def tokenize(self, text: Any, pair: Any = None, add_special_tokens: bool = False, **options: Any) -> list[str]:
        """Return the tokens of a text, and of its pair, as text. It is a str or a list of words; there are no boxes here."""
        batch = super().__call__(text, pair, add_special_tokens=add_special_tokens, verbose=False, **options)
        return batch.tokens()

    def _row_boxes(self, row: Any, boxes: Any, number: int) -> list[Box]:
        special = {self.cls_token_id: self.cls_token_box, self.sep_token_id: self.sep_token_box}
        places = zip(row.ids, row.word_ids, row.sequence_ids, strict=True)
        return [
            boxes[word]
            if text == number
            else self.pad_token_box
            if text is not None
            else special.get(index, self.pad_token_box)
            for index, word, text in places
        ]

    def _row_labels(self, row: Any, labels: Any, number: int) -> list[int]:
        found = []
        last = None
        begun = False
        for word, text, (start, _) in zip(row.word_ids, row.sequence_ids, row.offsets, strict=True):
            is_first = word != last and (start == 0 or begun)  # a row may begin within a word
            wanted = text == number and (is_first or not self.only_label_first_subword)
            found.append(labels[word] if wanted else self.pad_token_label)
            last, begun = (word, True) if text == number else (None, begun)
        return found

    def _fillers(self) -> dict[str, Any]:
        fillers: dict[str, Any] = super()._fillers()  # type: ignore[misc]
        return {**fillers, "bbox": list(self.pad_token_box), "labels": self.pad_token_label}


class LayoutLMv2Tokenizer(WordsAndBoxes, BertTokenizer):
    """LayoutLMv2's tokenizer in plain Python: `tokenizer(words, boxes=boxes)`, or `tokenizer(question, words, boxes=boxes)`.

    Args:
        *args: As in `BertTokenizer`.
        cls_token_box: Box of the token that begins a row.
        sep_token_box: Box of the token that ends a text.
        pad_token_box: Box of what fills a row, and of questions.
        pad_token_label: Label of what has none.
        only_label_first_subword: Whether a word's label stands at its first token alone, or at all of them.
        model_max_length: As in `TokenizerBase`.
        **settings: As in `BertTokenizer`.
    """

    model_input_names: Sequence[str] = ("input_ids", "attention_mask", "token_type_ids")


class LayoutLMv2TokenizerFast(WordsAndBoxes, BertTokenizerFast):
    """LayoutLMv2's tokenizer, run by the `tokenizers` library; the arguments are those of `LayoutLMv2Tokenizer`."""

    model_input_names: Sequence[str] = ("input_ids", "attention_mask", "token_type_ids")
    slow_tokenizer_class = LayoutLMv2Tokenizer


def _check_words(name: str, pages: Sequence[Any], batched: bool) -> None:
    for at, words in enumerate(pages):
        if not isinstance(words, (list, tuple)):
            raise TypeError(
                f"{name}{f'[{at}]' if batched else ''} is {words!r}, not the words of a page: ['Invoice', 'No.', …], with a box "
                f"each. A question goes first: tokenizer(question, words, boxes=boxes)."
            )


def _questions(texts: Sequence[Any]) -> list[Any]:
    """Questions as words. Raises TypeError where one is neither a str nor words."""
    for at, text in enumerate(texts):
        if not isinstance(text, (str, list, tuple)):
            raise TypeError(
                f"text is the question where text_pair has the words, and question {at} is {text!r}, not a str."
            )
    return [text.split() if isinstance(text, str) else text for text in texts]


def _of_pages(name: str, values: Any, batched: bool, pages: Sequence[Any]) -> list[Any]:
    """Boxes or labels as one list a page. Raises ValueError where they do not fit the words."""
    if values is None:
        if name == "boxes":
            raise ValueError(
                "boxes is None; give one box for each word: boxes=[[left, top, right, bottom], …] in thousandths of the page."
            )
        return [None] * len(pages)
    listed = to_lists(values) if batched else [to_lists(values)]
    if len(listed) != len(pages):
        raise ValueError(f"{name} are of {len(listed)} pages, and the words of {len(pages)}; each page needs its own.")
    for at, (words, entries) in enumerate(zip(pages, listed, strict=True)):
        if not isinstance(entries, list) or len(entries) != len(words):
            given = len(entries) if isinstance(entries, list) else repr(entries)
            raise ValueError(f"Page {at} has {len(words)} words and {given} {name}; each word needs one.")
    return listed


def _check_boxes(pages: Sequence[Any]) -> None:
    for page, boxes in enumerate(pages):
        for at, box in enumerate(boxes):
            right = isinstance(box, list) and len(box) == 4 and all(type(edge) in (int, float) for edge in box)
            if not right or not (0 <= box[0] <= box[2] <= LARGEST and 0 <= box[1] <= box[3] <= LARGEST):
                raise ValueError(
                    f"boxes[{page}][{at}] is {box!r}; a box is [left, top, right, bottom] in thousandths of the page, from 0 to "
                    f"{LARGEST}, left before right and top before bottom: "
                    f"[1000 * x0 // width, 1000 * y0 // height, 1000 * x1 // width, 1000 * y1 // height]."
                )
