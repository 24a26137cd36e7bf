"""The base of all pipelines: items are prepared, gathered into batches, run through the model, and answered in order."""

from __future__ import annotations

import inspect
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from vertebra.errors import listing
from vertebra.model import PreTrainedModel
from vertebra.outputs import ModelOutput
from vertebra.pipelines.devices import as_device
from vertebra.pipelines.errors import PipelineItemError, shown
from vertebra.pipelines.reading import items_of, read_ahead
from vertebra.preprocessor import refuse_unknown

logger = logging.getLogger("vertebra")
ON_ERROR = ("raise", "skip")
PATIENCE = 2.0
"""Seconds before a progress bar shows itself uninvited."""


class Piece(NamedTuple):
    """A part of an item that goes through the model as one row of a batch; most items are one piece.

    Args:
        inputs: Arguments of the model, without the axis of the batch.
        context: What the answer needs to know about it.
    """

    inputs: Mapping[str, Any]
    context: Any = None


class Row(NamedTuple):
    """What the model said of a piece.

    Args:
        output: Its row of every output, with the axis of the batch; of the type that the model returned.
        context: That of the piece.
    """

    output: Any
    context: Any


@dataclass
class _Item:
    index: int
    given: Any
    pieces: Sequence[Piece] = ()
    rows: list[Row] = field(default_factory=list)
    error: Exception | None = None

    @property
    def done(self) -> bool:
        return self.error is not None or len(self.rows) == len(self.pieces)


class Pipeline(ABC):
    """One task, from what a person has (files, texts, recordings) to what they want to know.

    A task implements `prepare` and `answer`, and where need be `alike`, `gather` and `run`. Keyword-only arguments of `prepare`,
    `run` and `answer` are its options: each can be given to the constructor, and to a call, which wins.

    Args:
        model: A model with the right head.
        device: Where it runs: `"cuda:1"`, a number of a GPU, -1 or `"cpu"`; None for the first GPU there is, or the CPU.
        batch_size: How many pieces go through the model at once. Results do not depend on it.
        num_workers: Threads that prepare items while the model runs; None for what suits the task.
        progress: Whether a bar counts the items of a list or a stream; None shows it in terminals, to who waits for more than
            two seconds.
        on_error: `"raise"` stops at the first bad item with a `PipelineItemError` that names it; `"skip"` puts None in its place,
            logs it, and keeps it in `skipped`.
        parts: What prepares the inputs, under the names in `needs`.
        **options: The task's options.

    Raises:
        TypeError: a part is missing, or an option is not known.
        ValueError: an argument is not allowed; says what is.
    """

    task: ClassVar[str]
    needs: ClassVar[Sequence[str]] = ()
    """Names of the parts that prepare inputs: `"image_processor"`, `"tokenizer"`, `"feature_extractor"`."""
    an_item: ClassVar[str]
    """What an item is, for errors."""
    workers: ClassVar[int] = 0
    """Threads that prepare, unless told, where the model runs beside the CPU; on one they would only take from it."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        device: int | str | torch.device | None = None,
        batch_size: int = 1,
        num_workers: int | None = None,
        progress: bool | None = None,
        on_error: str = "raise",
        parts: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        parts = parts or {}
        if missing := [name for name in self.needs if parts.get(name) is None]:
            raise TypeError(
                f"{self.task} needs {listing(missing)}. Pass it: pipeline({self.task!r}, model=…, {missing[0]}=…)."
            )
        self.model = model.to(as_device(device)).eval()
        self.parts = {name: parts[name] for name in self.needs}
        self.batch_size = _checked_count("batch_size", batch_size, 1)
        usual = 0 if self.device.type == "cpu" else self.workers
        self.num_workers = usual if num_workers is None else _checked_count("num_workers", num_workers, 0)
        self.progress = progress
        self.on_error = _checked_on_error(on_error)
        self._options = self.checked_options(options)
        self.check(self._options)
        self.skipped: list[PipelineItemError] = []
        """What the last call with `on_error="skip"` left out, in order."""

    def __getattr__(self, name: str) -> Any:
        parts = self.__dict__.get("parts", {})
        if name in parts:
            return parts[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}.")

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the model's weights, and of the floats that are passed to it."""
        return self.model.dtype

    # What a task implements

    @abstractmethod
    def prepare(self, item: Any) -> Sequence[Piece]:
        """Turn one item into the model's inputs. May run in another thread."""

    @abstractmethod
    def answer(self, rows: Sequence[Row]) -> Any:
        """Turn what the model said of an item's pieces into the result."""

    def alike(self, inputs: Mapping[str, Any]) -> Hashable:
        """What pieces must agree in to share a batch: the shapes of their inputs, unless a task pads them without a trace."""
        return tuple((name, tuple(value.shape)) for name, value in inputs.items())

    def gather(self, inputs: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Make one batch of the inputs of pieces that are `alike`."""
        return {name: torch.stack([piece[name] for piece in inputs]) for name in inputs[0]}

    def run(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Run the model on a batch. Every tensor that it returns has the batch as its first axis."""
        return self.model(**inputs)  # type: ignore[no-any-return]

    def check(self, options: Mapping[str, Any]) -> None:  # noqa: B027 - a task need not have any
        """Refuse values of options with which no item could be used; called before any item is looked at.

        Raises:
            ValueError: an option's value is not allowed.
        """

    # What users call

    def __call__(
        self,
        inputs: Any,
        *,
        batch_size: int | None = None,
        num_workers: int | None = None,
        progress: bool | None = None,
        on_error: str | None = None,
        **options: Any,
    ) -> Any:
        """Do the task.

        Args:
            inputs: One item, a list of them, or anything that can be iterated over: a generator, a dataset, one of its columns.
            batch_size: As in the constructor, for this call, like all that follow.
            num_workers: As there.
            progress: As there.
            on_error: As there.
            **options: As there.

        Returns:
            The result of one item; a list for a list; an iterator for everything else, which takes items as it is asked for
            results and keeps none of them.

        Raises:
            PipelineItemError: one of several items cannot be used; `index` says which, `__cause__` why. A single item raises the
                error itself.
            ValueError: a list is empty.
            TypeError: an option is not known.
        """
        values = {**self._options, **self.checked_options(options)}
        self.check(values)
        single, items = items_of(inputs, self.is_item)
        if not single and hasattr(items, "__len__") and len(items) == 0:
            raise ValueError(f"{self.task} got nothing to do: inputs is empty. Give {self.an_item}, or several.")
        stream = self._stream(
            items,
            self.batch_size if batch_size is None else _checked_count("batch_size", batch_size, 1),
            0 if single else self.num_workers if num_workers is None else _checked_count("num_workers", num_workers, 0),
            self.on_error if on_error is None else _checked_on_error(on_error),
            values,
        )
        if single:
            try:
                return next(stream)
            except PipelineItemError as error:
                raise (error.__cause__ or error) from None
        shown = self._counted(stream, items, self.progress if progress is None else progress)
        return list(shown) if isinstance(inputs, (list, tuple)) else shown

    def is_item(self, inputs: Any) -> bool:
        """Whether `inputs` is one item of this task, rather than several."""
        return isinstance(inputs, (str, bytes, Path, Mapping))

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write the model and what prepares its inputs into a folder, so that `pipeline(task, model=folder)` is this one.

        Args:
            save_directory: The folder; made if need be.
            **kwargs: As in `save_pretrained` of models.
        """
        self.model.save_pretrained(save_directory, **kwargs)
        for part in self.parts.values():
            part.save_pretrained(save_directory)

    def __repr__(self) -> str:
        parts = "".join(f", {name}={type(part).__name__}" for name, part in self.parts.items())
        return f"{type(self).__name__}(model={type(self.model).__name__}{parts}, device={str(self.device)!r})"

    # How it goes

    def _stream(
        self, items: Iterable[Any], batch_size: int, workers: int, on_error: str, values: Mapping[str, Any]
    ) -> Iterator[Any]:
        self.skipped = []
        prepare, run, answer = (self._chosen(hook, values) for hook in ("prepare", "run", "answer"))

        def prepared(numbered: tuple[int, Any]) -> _Item:
            item = _Item(*numbered)
            try:
                item.pieces = self.prepare(item.given, **prepare)
            except Exception as error:
                item.error = error
            return item

        waiting: deque[_Item] = deque()
        pending: list[tuple[_Item, Piece]] = []
        for item in read_ahead(prepared, enumerate(items), workers, 2 * batch_size):
            waiting.append(item)
            pending += [(item, piece) for piece in item.pieces]
            while len(pending) >= batch_size:
                self._forward(pending[:batch_size], run)
                del pending[:batch_size]
            yield from self._finished(waiting, answer, on_error)
        if pending:
            self._forward(pending, run)
        yield from self._finished(waiting, answer, on_error)

    def _forward(self, batch: Sequence[tuple[_Item, Piece]], run: Mapping[str, Any]) -> None:
        """Run pieces, those together that are alike, and give every item its rows in the order of its pieces."""
        groups: dict[Hashable, list[tuple[_Item, Piece]]] = {}
        for item, piece in batch:
            if item.error is None:  # else an earlier piece of it has failed
                groups.setdefault(self.alike(piece.inputs), []).append((item, piece))
        rows: dict[int, Row] = {}
        for group in groups.values():
            rows |= self._rows(group, run)
        for item, piece in batch:
            if id(piece) in rows:
                item.rows.append(rows[id(piece)])

    def _rows(self, batch: Sequence[tuple[_Item, Piece]], run: Mapping[str, Any]) -> dict[int, Row]:
        """Run one batch; one that fails is run piece by piece, so that the culprit is known."""
        try:
            with torch.no_grad():
                inputs = self._placed(self.gather([piece.inputs for _, piece in batch]))
                output = self.run(inputs, **run)
        except (MemoryError, torch.OutOfMemoryError):
            raise  # no fault of an item: a smaller batch_size helps
        except Exception as error:
            if len(batch) > 1:
                return {key: row for pair in batch for key, row in self._rows([pair], run).items()}
            batch[0][0].error = error
            return {}
        kind = type(output) if isinstance(output, ModelOutput) else dict
        return {
            id(piece): Row(kind(**{name: _row(value, place) for name, value in output.items()}), piece.context)
            for place, (_, piece) in enumerate(batch)
        }

    def _finished(self, waiting: deque[_Item], answer: Mapping[str, Any], on_error: str) -> Iterator[Any]:
        """The results of the items at the head of the queue that have all their rows."""
        while waiting and waiting[0].done:
            item = waiting.popleft()
            result = None
            if item.error is None:
                try:
                    result = self.answer(item.rows, **answer)
                except Exception as error:
                    item.error = error
            if item.error is not None:
                bad = PipelineItemError(item.index, f"item {item.index} ({shown(item.given)}): {item.error}")
                bad.__cause__ = item.error
                if on_error == "raise":
                    raise bad
                logger.warning("%s skipped %s", self.task, bad)
                self.skipped.append(bad)
            yield result

    def _placed(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        def placed(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            return value.to(self.device, self.dtype if value.is_floating_point() else None)

        return {name: placed(value) for name, value in inputs.items()}

    def _counted(self, stream: Iterator[Any], items: Any, progress: bool | None) -> Iterator[Any]:
        total = len(items) if hasattr(items, "__len__") else None
        hidden = None if progress is None else not progress
        bar = tqdm(stream, desc=self.task, total=total, disable=hidden, delay=0 if progress else PATIENCE)
        yield from bar

    # Options

    @classmethod
    def checked_options(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return options of the task as they are.

        Raises:
            TypeError: one is unknown; names the nearest, and all there are.
        """
        if not any(takes_all for _, takes_all in cls._hooks()):
            known = [name for names, _ in cls._hooks() for name in names]
            refuse_unknown(f"{cls.__name__}()", options, [*known, *CALL_OPTIONS])
        return dict(options)

    @classmethod
    def _chosen(cls, hook: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values that a hook takes; one with `**kwargs` takes those that no other hook has a name for."""
        names, takes_all = _options_of(getattr(cls, hook))
        if not takes_all:
            return {name: value for name, value in values.items() if name in names}
        others = {name for theirs, _ in cls._hooks() for name in theirs} - {*names}
        return {name: value for name, value in values.items() if name not in others}

    @classmethod
    def _hooks(cls) -> list[tuple[tuple[str, ...], bool]]:
        return [_options_of(getattr(cls, hook)) for hook in ("prepare", "run", "answer")]


CALL_OPTIONS = ("batch_size", "num_workers", "progress", "on_error")


@lru_cache(maxsize=256)
def _options_of(function: Callable[..., Any]) -> tuple[tuple[str, ...], bool]:
    """The keyword-only arguments of a function, and whether it takes others as well."""
    parameters = inspect.signature(function).parameters.values()
    named = tuple(parameter.name for parameter in parameters if parameter.kind == parameter.KEYWORD_ONLY)
    return named, any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters)


def _row(value: Any, place: int) -> Any:
    """Row `place` of an output, with the axis of the batch: of a tensor, or of every tensor in a tuple."""
    if isinstance(value, Tensor):
        return value[place : place + 1] if value.ndim else value
    return tuple(_row(part, place) for part in value) if isinstance(value, (tuple, list)) else value


def _checked_count(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value!r} must be a whole number, {least} or more.")
    return value


def _checked_on_error(value: str) -> str:
    if value not in ON_ERROR:
        raise ValueError(f"on_error={value!r} must be one of {listing(map(repr, ON_ERROR))}.")
    return value
