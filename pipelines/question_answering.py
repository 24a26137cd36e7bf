"""Questions and texts to the answers that stand in the texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vertebra.errors import listing
from vertebra.pipelines.answers import Span, Window, answers_of, likeliest_spans
from vertebra.pipelines.base import Piece, Row
from vertebra.pipelines.texts import TextPipeline, as_text

LONGEST_ROW = 384
LARGEST_STRIDE = 128
HOW = "question=…, context=…; {'question': …, 'context': …}; or a list of these"


class QuestionAnsweringPipeline(TextPipeline):
    """The part of a text that answers a question: `{"score": float, "start": int, "end": int, "answer": str}`.

    `start` and `end` count characters of the context. With `top_k` a list of the best, unless there is only one. A list of one
    question has the answer of the question, as in transformers.
    """

    task = "question-answering"
    an_item = f"a question and the context to look in ({HOW})"

    def __call__(self, inputs: Any = None, context: Any = None, *, question: Any = None, **kwargs: Any) -> Any:
        """Answer questions; see `Pipeline.__call__`.

        Args:
            inputs: `{"question": …, "context": …}`, further keys aside, or several of these; or the question.
            context: The text to look in; a list of as many as there are questions, or one for all of them.
            question: The question, or a list of them.
            **kwargs: Options.

        Raises:
            TypeError: there is a question without a context, or the other way round.
            ValueError: there are not as many questions as contexts.
        """
        if question is None and context is not None:
            inputs, question = None, inputs
        if question is not None:
            inputs = _asked(inputs, question, context)
        if inputs is None:
            raise TypeError(f"question-answering needs {self.an_item}.")
        found = super().__call__(inputs, **kwargs)
        return found[0] if isinstance(inputs, (list, tuple)) and len(inputs) == 1 else found

    def check(self, options: Mapping[str, Any]) -> None:
        """Refuse counts and lengths that are none."""
        for name in ("top_k", "topk", "max_answer_len", "max_seq_len", "max_question_len", "doc_stride"):
            least = 0 if name == "doc_stride" else 1
            value = options.get(name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ValueError(f"{name}={value!r} must be a whole number, {least} or more.")

    def prepare(
        self,
        item: Any,
        *,
        padding: bool | str = False,
        doc_stride: int | None = None,
        max_question_len: int | None = 64,
        max_seq_len: int | None = None,
    ) -> Sequence[Piece]:
        """Tokenize a question with its context, which becomes several windows if it is long.

        The question stands first, or behind the context where the tokenizer pads on the left.

        Args:
            item: `{"question": …, "context": …}`.
            padding: Whether windows are padded, as in the tokenizer's call; changes no answer.
            doc_stride: Tokens that a window shares with the one before; None for 128, or half a short window.
            max_question_len: Tokens of the question; what is beyond is cut off.
            max_seq_len: Tokens of a window, question and special ones included; None for 384, or what the model takes.

        Raises:
            TypeError: it is no question with a context.
            ValueError: one of both is empty, the tokenizer does not know where tokens stand, or lengths do not go together.
        """
        question, context = _question_and_context(item)
        limit = min(self.tokenizer.model_max_length, LONGEST_ROW) if max_seq_len is None else max_seq_len
        question, length = self._shortened(question, max_question_len or limit)
        special = self.tokenizer.num_special_tokens_to_add(pair=True)
        room = limit - special - length
        if room < 1:
            raise ValueError(
                f"max_seq_len={limit} leaves no room for the context beside {special} special tokens and {length} of the question; "
                f"raise max_seq_len, or lower max_question_len to less than {limit - special}."
            )
        stride = min(limit // 2, LARGEST_STRIDE, room - 1) if doc_stride is None else doc_stride
        question_first = self.tokenizer.padding_side == "right"
        found = self.windows(
            *((question, context) if question_first else (context, question)),
            padding=padding,
            truncation="only_second" if question_first else "only_first",
            max_length=limit,
            stride=min(stride, room - 1),
        )
        if stride > limit or (len(found) > 1 and stride >= room):
            raise ValueError(
                f"doc_stride={stride} must be less than the {room} tokens of the context that a window of max_seq_len={limit} "
                f"holds; lower doc_stride or raise max_seq_len."
            )
        number = int(question_first)
        return [Piece(inputs, _window(context, row, number, self.tokenizer.cls_token_id)) for inputs, row in found]

    def answer(
        self,
        rows: Sequence[Row],
        *,
        top_k: int | None = None,
        topk: int | None = None,
        max_answer_len: int | None = 15,
        handle_impossible_answer: bool = False,
        align_to_words: bool = True,
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Find the answers.

        Args:
            rows: What the model said.
            top_k: How many; there may be fewer. None for 1.
            topk: The same, as it was called before.
            max_answer_len: Tokens of an answer; None for 15.
            handle_impossible_answer: Whether "" is an answer, as likely as the model finds that there is none.
            align_to_words: Whether answers are made of whole words, which languages without spaces may not want.

        Raises:
            ValueError: the context has no token.
        """
        count = top_k or topk or 1
        spans = []
        for row in rows:
            window: Window = row.context
            start, end = (
                row.output[name][0, : len(window.inside)].float().cpu().numpy()
                for name in ("start_logits", "end_logits")
            )
            # spans that are the same words become one answer, so more are needed
            wanted = 2 * count + 10 if align_to_words else count
            spans.append((window, likeliest_spans(start, end, window, wanted, max_answer_len or 15)))
        answers = answers_of(spans, count, align_to_words, handle_impossible_answer)
        if not answers:
            raise ValueError(f"the context has no token that could be in an answer: {rows[0].context.context!r}.")
        return answers[0] if len(answers) == 1 else answers

    def _shortened(self, question: str, most: int) -> tuple[str, int]:
        """The beginning of a question that has at most so many tokens, and how many it has."""
        (row,) = self.tokenizer(question, add_special_tokens=False, verbose=False).encodings
        if row.offsets is None:
            raise self.placeless(self.task)
        return (question, len(row)) if len(row) <= most else (question[: row.offsets[most - 1][1]], most)


def _asked(inputs: Any, question: Any, context: Any) -> Any:
    """Questions with their contexts, from arguments of their own."""
    if inputs is not None or context is None:
        raise TypeError(f"question and context go together, and with nothing else. Give {HOW}.")
    if not isinstance(question, (list, tuple)):
        return {"question": question, "context": context}
    contexts = context if isinstance(context, (list, tuple)) else [context] * len(question)
    if len(contexts) != len(question):
        raise ValueError(
            f"there are {len(question)} questions and {len(contexts)} contexts; give as many of both, or one context."
        )
    return [{"question": one, "context": text} for one, text in zip(question, contexts, strict=True)]


def _question_and_context(item: Any) -> tuple[str, str]:
    if not isinstance(item, Mapping):
        raise TypeError(f"a question needs a context to look in: {HOW}; got a {type(item).__name__}.")
    for name in ("question", "context"):
        if name not in item:
            raise TypeError(f"there is no {name!r} in {{{listing(map(repr, item))}}}. Give {HOW}.")
        if not as_text(item[name], name).strip():
            raise ValueError(f"the {name} is empty; give a text.")
    return item["question"], item["context"]


def _window(context: str, row: Any, number: int, nothing: int | None) -> Window:
    """What is known of a row of tokens whose text `number` is the context; `nothing` is the token that stands for no answer."""
    inside = [text == number for text in row.sequence_ids]
    spans: list[Span] = list(row.offsets)
    words: dict[int, Span] = {}
    for at, (start, end) in enumerate(spans):
        if inside[at] and row.word_ids[at] is not None:
            words[row.word_ids[at]] = (words.get(row.word_ids[at], (start, end))[0], end)
    return Window(
        context=context,
        inside=inside,
        nothing=row.ids.index(nothing) if nothing in row.ids else None,
        tokens=spans,
        words=[
            words.get(word, span) if mine else span
            for word, span, mine in zip(row.word_ids, spans, inside, strict=True)
        ],
    )
