"""Files of sound as samples: wav by ourselves, everything else by soundfile where that is installed."""

from __future__ import annotations

import importlib.util
import io
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from vertebra.errors import listing

Samples = np.ndarray[Any, np.dtype[np.float32]]
RIFF, WAVE = b"RIFF", b"WAVE"
WHOLE, FLOATS, DESCRIBED = 1, 3, 0xFFFE
"""Numbers of formats: whole samples, floats, and those whose number stands in a description."""
FORMATS = {
    (WHOLE, 8): "u1",
    (WHOLE, 16): "<i2",
    (WHOLE, 24): "u1",
    (WHOLE, 32): "<i4",
    (FLOATS, 32): "<f4",
    (FLOATS, 64): "<f8",
}
"""(number, bits) to the dtype in the file; a sample of 24 bits is read as three bytes."""
UNTOLD = (0, 0xFFFFFFFF)
"""Sizes that programs write who do not know the end yet."""


class _Layout(NamedTuple):
    kind: int
    channels: int
    rate: int
    bits: int


def decoded(content: bytes) -> tuple[Samples, int]:
    """Read a file of sound.

    Args:
        content: The bytes of the file: wav with whole samples of 8 to 32 bits or floats, or any format that soundfile knows.

    Returns:
        Samples within -1…1, `(n, channels)`, and their rate in Hz.

    Raises:
        ValueError: it is damaged, or no file of sound.
        ImportError: it needs soundfile, which is not installed.
    """
    layout = _layout(content) if content[:4] == RIFF and content[8:12] == WAVE else None
    if layout is None or (layout.kind, layout.bits) not in FORMATS:
        return _by_soundfile(content)
    if not layout.channels or not layout.rate:
        raise ValueError(f"the wav file is damaged: it says {layout.channels} channels and {layout.rate} Hz.")
    return _scaled(_data(content), layout).reshape(-1, layout.channels), layout.rate


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, beginning and stated size of the parts of a wav file."""
    at = 12
    while at + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, at)
        yield name, at + 8, size
        at += 8 + size + size % 2


def _layout(content: bytes) -> _Layout:
    for name, begin, size in _chunks(content):
        if name == b"fmt " and size >= 16 and begin + size <= len(content):
            kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", content, begin)
            if kind == DESCRIBED and size >= 26:
                (kind,) = struct.unpack_from("<H", content, begin + 24)
            return _Layout(kind, channels, rate, bits)
    raise ValueError("the wav file is damaged: it does not say how its samples are written ('fmt ').")


def _data(content: bytes) -> memoryview:
    for name, begin, size in _chunks(content):
        if name == b"data":
            there = len(content) - begin
            if size in UNTOLD:
                size = there
            if size > there:
                raise ValueError(f"the wav file is cut short: it says {size} bytes of samples, and {there} are there.")
            return memoryview(content)[begin : begin + size]
    raise ValueError("the wav file is damaged: it holds no samples ('data').")


def _scaled(data: memoryview, layout: _Layout) -> Samples:
    """Samples of all channels in turn, within -1…1."""
    dtype, width = np.dtype(FORMATS[layout.kind, layout.bits]), layout.bits // 8 * layout.channels
    values = np.frombuffer(data[: len(data) // width * width], dtype)
    if layout.kind == FLOATS:
        return values.astype(np.float32)
    if layout.bits == 24:
        wide = np.zeros((len(values) // 3, 4), np.uint8)
        wide[:, 1:] = values.reshape(-1, 3)
        return (wide.view("<i4")[:, 0] / 2**31).astype(np.float32)
    if layout.bits == 8:
        return ((values.astype(np.float32) - 128) / 128).astype(np.float32)
    return (values / 2 ** (layout.bits - 1)).astype(np.float32)


def _by_soundfile(content: bytes) -> tuple[Samples, int]:
    if importlib.util.find_spec("soundfile") is None:
        raise ImportError(
            f"the file begins with {content[:4]!r} and is no plain wav file; soundfile reads flac, ogg, mp3 and others: "
            f"pip install soundfile."
        )
    import soundfile

    try:
        samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        known = listing(sorted(soundfile.available_formats()), 8)
        raise ValueError(
            f"the file begins with {content[:16]!r} and is no sound that soundfile reads ({error.error_string.rstrip('.')}). It "
            f"reads {known}."
        ) from None
    return samples, int(rate)
