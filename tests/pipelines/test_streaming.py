"""What all pipelines share, on a model whose answers are known: order, batches, errors, memory, progress, options."""

import os
import re
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from vertebra import PreTrainedConfig, PreTrainedModel
from vertebra.pipelines.base import Piece, Pipeline, Row
from vertebra.pipelines.errors import PipelineItemError


class TwiceConfig(PreTrainedConfig):
    model_type = "twice"


class Twice(PreTrainedModel):
    """Doubles numbers, keeps what it was given, and refuses 13."""

    config_class = TwiceConfig

    def __init__(self, config: TwiceConfig) -> None:
        super().__init__(config)
        self.factor = torch.nn.Parameter(torch.tensor(2.0))
        self.batches: list[list[float]] = []

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        self.batches.append(x.flatten().tolist())
        if (x == 13).any():
            raise RuntimeError("13 brings bad luck")
        return {"y": x * self.factor}


class Doubling(Pipeline):
    """Numbers to their doubles; an item is a number, or a tuple of numbers that are one piece each."""

    task = "doubling"
    an_item = "a number"

    def is_item(self, inputs: Any) -> bool:
        return isinstance(inputs, (int, float, str, tuple))

    def prepare(self, item: Any, *, add: float = 0.0) -> Sequence[Piece]:
        numbers = item if isinstance(item, tuple) else (item,)
        return [Piece({"x": torch.full((abs(int(n)) // 100 + 1,), float(n) + add)}, context=n) for n in numbers]

    def answer(self, rows: Sequence[Row], *, scale: float = 1.0) -> Any:
        found = [row.output["y"][0, 0].item() * scale for row in rows]
        if any(value == -2 for value in found):
            raise ArithmeticError("minus two")
        return found if len(found) > 1 else found[0]


def doubling(**kwargs: Any) -> Doubling:
    return Doubling(Twice(TwiceConfig()), device="cpu", **kwargs)


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
def test_results_keep_their_order_whatever_the_batches(batch_size: int, workers: int) -> None:
    pipe = doubling(batch_size=batch_size, num_workers=workers)
    items = [3, (1, 2, 150), 7, (), 250, 4, (5, 6), 151]
    items.remove(())
    assert pipe(items) == [6, [2, 4, 300], 14, 500, 8, [10, 12], 302]
    assert max(map(len, pipe.model.batches)) <= batch_size * 3  # numbers a piece: 1, 2 or 3
    assert list(pipe(iter(items))) == pipe(items)


def test_a_batch_holds_what_is_alike() -> None:
    pipe = doubling(batch_size=4)
    pipe([1, 150, 2, 160])
    assert pipe.model.batches == [[1, 2], [150, 150, 160, 160]]


def test_single_items_lists_and_streams() -> None:
    pipe = doubling()
    assert pipe(4) == 8
    assert pipe([4]) == [8]
    stream = pipe(iter([4, 5]))
    assert next(stream) == 8
    assert next(stream) == 10
    with pytest.raises(StopIteration):
        next(stream)

    class Dataset:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> int:
            return [1, 2, 3][index]

    found = pipe(Dataset())
    assert not isinstance(found, list)
    assert list(found) == [2, 4, 6]


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(ValueError, match=r"doubling got nothing to do: inputs is empty. Give a number, or several."):
        doubling()([])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_is_taken_as_results_are_asked_for(workers: int) -> None:
    taken = []

    def numbers() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    stream = doubling(batch_size=4, num_workers=workers)(numbers())
    assert taken == []
    assert next(stream) == 0
    assert len(taken) <= 4 + 2 * 4 + 1  # a batch, and two prepared ahead
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pipeline")]


def test_a_long_stream_keeps_nothing() -> None:
    alive: list[weakref.ref[Any]] = []
    most = 0

    class Number(float):
        pass

    def numbers() -> Iterator[Number]:
        nonlocal most
        for index in range(1000):
            number = Number(index % 10)
            alive.append(weakref.ref(number))
            most = max(most, sum(ref() is not None for ref in alive[-50:]))
            yield number

    pipe = doubling(batch_size=4, num_workers=1)
    assert sum(1 for _ in pipe(numbers())) == 1000
    assert most <= 16
    assert sum(ref() is not None for ref in alive) <= 2


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize(
    ("bad", "why", "kind"),
    [
        ("x", "invalid literal for int() with base 10: 'x'", ValueError),
        (13, "13 brings bad luck", RuntimeError),
        (-1, "minus two", ArithmeticError),
    ],
)
def test_a_bad_item_is_named(batch_size: int, bad: Any, why: str, kind: type[Exception]) -> None:
    pipe = doubling(batch_size=batch_size)
    items = [1, 2, bad, 4, 5]
    with pytest.raises(PipelineItemError, match=re.escape(f"item 2 ({bad!r}): {why}")) as caught:
        pipe(items)
    assert caught.value.index == 2
    assert isinstance(caught.value.__cause__, kind)

    stream, found = pipe(iter(items)), []
    with pytest.raises(PipelineItemError):
        found.extend(stream)
    assert found == [2, 4]

    with pytest.raises(kind, match=re.escape(why)):
        pipe(bad)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_bad_items_are_skipped_and_reported(batch_size: int, caplog: pytest.LogCaptureFixture) -> None:
    pipe = doubling(batch_size=batch_size, on_error="skip")
    assert pipe([1, "x", 13, (4, 13), -1, 5]) == [2, None, None, None, None, 10]
    assert [bad.index for bad in pipe.skipped] == [1, 2, 3, 4]
    assert caplog.messages[1] == "doubling skipped item 2 (13): 13 brings bad luck"
    assert pipe([1]) == [2]
    assert pipe.skipped == []
    with pytest.raises(PipelineItemError):
        pipe([1, 13], on_error="raise")


@pytest.mark.parametrize("kind", [MemoryError, torch.OutOfMemoryError])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_too_little_memory_is_no_fault_of_an_item(kind: type[Exception], batch_size: int) -> None:
    pipe = doubling(on_error="skip", batch_size=batch_size)

    def run(inputs: Any) -> Any:
        raise kind("no memory is left")

    pipe.run = run
    with pytest.raises(kind, match="no memory is left"):
        pipe([1, 2, 3])
    assert pipe.skipped == []


def test_the_other_pieces_of_a_bad_item_are_not_run() -> None:
    pipe = doubling(on_error="skip")
    assert pipe([(13, 1, 2), 3]) == [None, 6]
    assert pipe.model.batches == [[13], [3]]


def test_an_error_of_the_source_is_not_an_item() -> None:
    def numbers() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(doubling(on_error="skip")(numbers()))


def test_options_of_the_constructor_and_of_a_call() -> None:
    pipe = doubling(add=1, scale=10)
    assert pipe(2) == 60
    assert pipe(2, scale=1) == 6
    assert pipe(2) == 60
    unknown = (
        r"Doubling\(\) got an unknown setting 'scael'. Did you mean 'scale'\? The settings are add, scale, batch_size"
    )
    with pytest.raises(TypeError, match=unknown):
        pipe(2, scael=1)
    with pytest.raises(TypeError, match=unknown):
        doubling(scael=1)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 must be a whole number, 1 or more."),
        ({"batch_size": 2.0}, "batch_size=2.0 must be a whole number, 1 or more."),
        ({"num_workers": -1}, "num_workers=-1 must be a whole number, 0 or more."),
        ({"on_error": "ignore"}, "on_error='ignore' must be one of 'raise', 'skip'."),
    ],
)
def test_bad_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        doubling(**kwargs)
    with pytest.raises(ValueError, match=re.escape(message)):
        doubling()([1], **kwargs)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuba", "device='cuba' is not a device: "),
        ("cuda:99", "device='cuda:99' is not on this machine, which has cpu"),
        (99, "device=99 is not on this machine, which has cpu"),
    ],
)
def test_devices_that_are_not_there(device: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Doubling(Twice(TwiceConfig()), device=device)


@pytest.mark.parametrize("device", ["cpu", -1, torch.device("cpu")])
def test_the_cpu_has_several_names(device: Any) -> None:
    assert Doubling(Twice(TwiceConfig()), device=device).device == torch.device("cpu")


def test_floats_take_the_dtype_of_the_model() -> None:
    pipe = Doubling(Twice(TwiceConfig()).bfloat16(), device="cpu")
    assert pipe.dtype == torch.bfloat16
    assert pipe(2.0) == 4.0


PROGRESS = """
import sys
sys.path.insert(0, {tests!r})
from test_streaming import doubling
for progress in (True, False, None):
    pipe = doubling(progress=progress)
    print(sum(pipe(iter(range(5)))), sum(pipe([1, 2, 3])))
    print("---", file=sys.stderr)
"""


def test_progress(request: pytest.FixtureRequest) -> None:
    """A bar for who asked for one; without a wish none appears where nobody looks at a terminal."""
    code = PROGRESS.format(tests=str(request.config.rootpath / "tests" / "pipelines"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_visible())
    assert done.stdout == "20.0 12.0\n" * 3
    asked, hidden, unasked, _ = done.stderr.split("---\n")
    assert "doubling: 5it" in asked
    assert "doubling: 100%" in asked
    assert hidden == unasked == ""


def _visible() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
