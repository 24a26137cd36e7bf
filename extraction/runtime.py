"""A process that computes maps: images in, pixels, batches, maps on the host out."""

from __future__ import annotations

import copy
import logging
import os
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from vertebra.backbones.base import Backbone
from vertebra.extraction.images import MEMORY, ImageRef, read_uri
from vertebra.extraction.recipe import DTYPES, Job, Recipe
from vertebra.extraction.shard_file import Size
from vertebra.image_processing.base import BaseImageProcessor
from vertebra.image_processing.decode import decode_image

logger = logging.getLogger(__name__)

MAX_THREADS = 8
STEP = 10
"""How much less urgent reading and writing are than computing, in levels of `nice`."""
NO_MEMORY = re.compile(
    r"out of memory|not enough memory|can't allocate memory|CUBLAS_STATUS_ALLOC_FAILED", re.IGNORECASE
)
ERROR_LENGTH = 500


class BadImage(Exception):
    """An image cannot be used.

    Args:
        stage: What it failed at: `"read"`, `"decode"` or `"forward"`.
        error: The reason.
    """

    def __init__(self, stage: str, error: str) -> None:
        super().__init__(f"{stage}: {error}")
        self.stage, self.error = stage, error


@dataclass(frozen=True)
class Prepared:
    """An image that is ready to be run.

    Args:
        pixels: `(c, h, w)`: 8-bit values that are still to be normalised, or final pixel values.
        original: `(height, width)` of the image before it was resized.
    """

    pixels: Tensor
    original: Size

    @property
    def size(self) -> Size:
        """`(height, width)` in pixels at which it is run."""
        return int(self.pixels.shape[-2]), int(self.pixels.shape[-1])


@dataclass
class Flight:
    """A batch under way: its maps come to the host while the next one is computed.

    Args:
        maps: `(b, c, h, w)` by level, on the host; to be read after `land`.
        finite: `(b, levels)`, whether all values are finite; None where nobody asks.
        event: What the device is waited for with; None on a CPU.
    """

    maps: dict[str, Tensor]
    finite: Tensor | None
    event: Any = None

    def land(self) -> dict[str, Tensor]:
        """Wait until the maps are there, and return them."""
        if self.event is not None:
            self.event.synchronize()
        return self.maps


class Runtime(Job):
    """A job on a device. The backbone goes there when the first batch runs.

    Args:
        recipe: How maps are computed.

    Raises:
        ValueError: the recipe does not fit the model; see `Job`.
        OSError: there is no such model.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.has_run = False
        self._runs: dict[Size, str] = {}

    @cached_property
    def model(self) -> Backbone:
        """The backbone on its device and in the dtype of the computation; a copy where these are not its own."""
        dtype, recipe = DTYPES[self.compute_dtype], self.recipe
        model = self.backbone
        if recipe.backend is not None:
            size = recipe.size or self.processed_size()
            fast: Backbone = model.to(self.device).optimize(
                recipe.backend, dtype=dtype, image_size=size, batch_size=recipe.batch_size, verbose=False
            )
            return fast
        if self.engine is not None:
            return model.to(self.device)
        if model.dtype != dtype:
            model = copy.deepcopy(model).to(dtype)
        model = model.to(self.device)
        return model.to(memory_format=torch.channels_last) if self.channels_last else model  # type: ignore[call-overload]

    @property
    def thread_count(self) -> int:
        """Threads that read and decode."""
        return self.recipe.decode_threads or min(MAX_THREADS, available_cores())

    @cached_property
    def threads(self) -> ThreadPoolExecutor:
        """What reads and decodes."""
        return self._pool(self.thread_count, "decode")

    @cached_property
    def writer(self) -> ThreadPoolExecutor:
        """What writes shards."""
        return self._pool(1, "write")

    def _pool(self, count: int, name: str) -> ThreadPoolExecutor:
        """Threads that take what a forward pass on a CPU leaves of the cores.

        The threads of a forward pass wait for one another, so that one which makes room for a decoder holds up all.
        """
        return ThreadPoolExecutor(count, name, _step_back if self.device.type == "cpu" else None)

    def close(self) -> None:
        """End the threads; what is being written is finished."""
        for name in ("threads", "writer"):
            pool = self.__dict__.pop(name, None)
            if pool is not None:
                pool.shutdown(cancel_futures=True)

    # Images

    def prepare(self, image: ImageRef) -> Prepared:
        """Read, decode and resize an image.

        Raises:
            BadImage: it cannot be read, decoded or resized; says why.
        """
        with naming("read", image):
            source = self.recipe.images[image.id] if image.uri == MEMORY else read_uri(image.uri, self.recipe.max_bytes)
            if isinstance(source, (str, os.PathLike)):
                source = read_uri(os.fspath(source), self.recipe.max_bytes)
        with naming("decode", image):
            return self.resize(self.decode(source))

    def decode(self, source: Any) -> Any:
        """Decode the bytes of an image file to `(3, h, w)` values 0..255; other images stay as they are."""
        if not isinstance(source, (bytes, bytearray, memoryview)):
            return source
        recipe = self.recipe
        return decode_image(bytes(source), recipe.decoder, upright=recipe.upright, max_pixels=recipe.max_pixels)

    def resize(self, image: Any) -> Prepared:
        """Bring an image to its size; what follows is done to whole batches, where it can be."""
        is_bytes = isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3 and len(image) == 3
        later = {"do_rescale": False, "do_normalize": False} if is_bytes and self.normalises_later else {}
        layout = "channels_first" if is_bytes else None
        batch = self.processor(image, input_data_format=layout, return_tensors="pt", **self.preprocessing, **later)
        pixels: Tensor = batch["pixel_values"][0]
        return Prepared(pixels, original_size(image))

    @cached_property
    def normalises_later(self) -> bool:
        """Whether rescaling and normalising 8-bit images is the processor's last step, and one that runs anywhere."""
        processor = self.processor
        own = type(processor)._preprocess is BaseImageProcessor._preprocess
        return (
            own
            and not processor.do_pad
            and processor.backend == BaseImageProcessor.backend
            and bool(processor.do_rescale or processor.do_normalize)
        )

    def normalise(self, pixels: Tensor) -> Tensor:
        """Pixel values of a batch of `Prepared.pixels`, in the dtype of the computation."""
        if pixels.dtype == torch.uint8 and self.normalises_later:
            p = self.processor
            pixels = p.rescale_and_normalize(
                pixels, bool(p.do_rescale), p.rescale_factor, bool(p.do_normalize), p.image_mean, p.image_std
            )
        return pixels.to(self.model.dtype)  # the first convolution's weights decide on the memory format

    def refusal(self, size: Size) -> str:
        """Why the backbone does not run at a size; empty where it does."""
        if size not in self._runs:
            try:
                self.backbone.output_shapes(*size)
                self._runs[size] = ""
            except ValueError as error:
                self._runs[size] = str(error)
        return self._runs[size]

    # Batches

    def run(self, pixels: list[Tensor]) -> Flight:
        """Start a batch of images of one size."""
        batch = torch.stack(pixels)
        with torch.inference_mode():
            if self.device.type == "cuda":
                return self._run_on_gpu(batch)
            kept, finite = self._maps(batch.to(self.device))
            flight = Flight(
                {name: level.cpu() for name, level in kept.items()}, None if finite is None else finite.cpu()
            )
        self.has_run = True
        return flight

    def _maps(self, batch: Tensor) -> tuple[dict[str, Tensor], Tensor | None]:
        maps = self.model(self.normalise(batch), return_dict=True).feature_maps
        kept = {
            stage.name: dense(reduction(level).to(DTYPES[self.dtype]))
            for stage, reduction, level in zip(self.levels, self.reductions, maps, strict=True)
        }
        if self.recipe.allow_nonfinite:
            return kept, None
        return kept, torch.stack([finite_rows(level) for level in kept.values()], 1)

    @cached_property
    def _streams(self) -> tuple[Any, Any]:
        return tuple(torch.cuda.Stream(self.device) for _ in range(2))  # type: ignore[no-untyped-call, return-value]

    def _run_on_gpu(self, batch: Tensor) -> Flight:
        """The batch goes in, and its maps come out, on streams of their own, beside the computation of others."""
        going_in, coming_out = self._streams
        compute = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(going_in):
            on_device = batch.pin_memory().to(self.device, non_blocking=True)
        compute.wait_stream(going_in)
        on_device.record_stream(compute)
        kept, finite = self._maps(on_device)
        coming_out.wait_stream(compute)
        with torch.cuda.stream(coming_out):
            results = {name: _to_host(level, coming_out) for name, level in kept.items()}
            flags = None if finite is None else _to_host(finite, coming_out)
            event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(coming_out)
        self.has_run = True
        return Flight(results, flags, event)

    def free(self) -> None:
        """Give memory back that the device's allocator keeps."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _step_back() -> None:
    """Make this thread less urgent, where threads have priorities of their own (Linux)."""
    if sys.platform == "linux":
        priority = os.getpriority(os.PRIO_PROCESS, 0) + STEP
        with suppress(OSError):  # sandboxes may forbid it; nothing but speed hangs on it
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(19, priority))


def _to_host(tensor: Tensor, stream: Any) -> Tensor:
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    tensor.record_stream(stream)
    return host


def dense(level: Tensor) -> Tensor:
    """The values of `(b, c, h, w)` maps in that order in memory, and in no more memory than they need."""
    if level.is_contiguous():
        return level if level.untyped_storage().nbytes() == level.nbytes else level.clone()
    if level.device.type != "cpu":
        return level.contiguous()
    result = torch.empty(level.shape, dtype=level.dtype)
    for row, image in zip(result.flatten(2), level.movedim(1, -1).flatten(1, 2), strict=True):
        row.copy_(image.T)  # torch has a fast transpose of matrices, and none of four axes: 20 to 70 % less
    return result


BITS = {
    torch.float16: (torch.int16, 0x7C00),
    torch.bfloat16: (torch.int16, 0x7F80),
    torch.float32: (torch.int32, 0x7F800000),
}
"""An integer of the same width, and the exponent that only infinities and NaN have."""


def finite_rows(level: Tensor) -> Tensor:
    """Whether all values of each row of `(b, …)` are finite, `(b,)`. Ten times as fast as `torch.isfinite` on a CPU."""
    whole, exponent = BITS[level.dtype]
    return (level.view(whole) & torch.iinfo(whole).max).flatten(1).amax(1) < exponent


def original_size(image: Any) -> Size:
    """`(height, width)` of an image in any form."""
    if hasattr(image, "size") and not callable(image.size) and isinstance(image.size, tuple):  # PIL
        return int(image.size[1]), int(image.size[0])
    shape = tuple(image.shape)
    if len(shape) == 2:
        return int(shape[0]), int(shape[1])
    return (int(shape[1]), int(shape[2])) if shape[0] in (1, 3, 4) else (int(shape[0]), int(shape[1]))


class naming:
    """Turn what goes wrong with an image into a `BadImage` that names its stage."""

    def __init__(self, stage: str, image: ImageRef) -> None:
        self.stage, self.image = stage, image

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, (OSError, ValueError, KeyError, TypeError)) or (error is not None and no_memory(error)):
            raise BadImage(self.stage, reason(error, self.image)) from error


def reason(error: BaseException, image: ImageRef) -> str:
    """The root cause of an error in words that are the same on every run: no addresses in memory, the id for the path."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = re.sub(r"<_io\.BytesIO object at 0x[0-9a-f]+>", lambda _: repr(image.id), f"{type(error).__name__}: {error}")
    return (text if image.uri in ("", MEMORY) else text.replace(image.uri, image.id))[:ERROR_LENGTH]


def no_memory(error: BaseException) -> bool:
    """Whether an error says that memory is short."""
    known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return known or (isinstance(error, RuntimeError) and NO_MEMORY.search(str(error)) is not None)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
