"""Both decoders against Pillow itself: every kind of file, all orientations, and files that are broken or lie."""

import builtins
import io
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile import jpeg_claiming, png_claiming
from PIL import Image, ImageOps
from real import photos
from torch import Tensor

from vertebra.image_processing.decode import DECODERS, decode_image, load_decoder
from vertebra.image_processing.transforms import resize

LEVELS = 1
"""Grey levels by which the fast decoder may differ: libjpeg's versions round alike, but nobody promises it. Here: 0."""


def photo(width: int = 64, height: int = 48, mode: str = "RGB", name: str = "daisy.jpg") -> Image.Image:
    with Image.open(photos() / name) as picture:
        return picture.resize((width, height)).convert(mode)


def encoded(picture: Image.Image, kind: str = "JPEG", **settings: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **settings)
    return file.getvalue()


def oracle(data: bytes, upright: bool = True) -> Tensor:
    """What Pillow alone makes of a file, `(3, h, w)`."""
    with Image.open(io.BytesIO(data)) as picture:
        picture = ImageOps.exif_transpose(picture) if upright else picture
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)


def check(data: bytes, decoder: str, **settings: Any) -> None:
    pixels, expected = decode_image(data, decoder, **settings), oracle(data, settings.get("upright", True))
    assert (pixels.dtype, pixels.shape) == (torch.uint8, expected.shape)
    difference = (pixels.int() - expected.int()).abs().amax()
    assert difference <= (LEVELS if decoder == "fast" else 0)


def exif(orientation: Any) -> Image.Exif:
    facts = Image.Exif()
    facts[0x0112] = orientation
    return facts


JPEGS = {
    "4:4:4": lambda: encoded(photo(), subsampling=0, quality=90),
    "4:2:2": lambda: encoded(photo(), subsampling=1, quality=90),
    "4:2:0": lambda: encoded(photo(), subsampling=2, quality=90),
    "4:2:0, odd": lambda: encoded(photo(61, 47), subsampling=2),
    "4:2:2, odd": lambda: encoded(photo(17, 9), subsampling=1),
    "progressive": lambda: encoded(photo(61, 47), progressive=True),
    "optimised": lambda: encoded(photo(), optimize=True, quality=5),
    "best": lambda: encoded(photo(), quality=100, subsampling=0),
    "restart markers": lambda: encoded(photo(), restart_marker_blocks=2),
    "grey": lambda: encoded(photo(mode="L")),
    "grey, progressive": lambda: encoded(photo(33, 5, "L"), progressive=True),
    "stored as RGB": lambda: encoded(photo(), keep_rgb=True),
    "CMYK": lambda: encoded(photo(mode="CMYK")),
    "one pixel": lambda: encoded(photo(1, 1)),
    "one row": lambda: encoded(photo(300, 1)),
    "one column": lambda: encoded(photo(1, 300)),
    "bytes behind the end": lambda: encoded(photo()) + b"appended by some tool" * 99,
    "two pictures": lambda: encoded(photo(), "MPO", save_all=True, append_images=[photo(name="palace.jpg")]),
    "noise": lambda: encoded(Image.effect_noise((64, 64), 90).convert("RGB"), quality=95),
}
OTHERS: dict[str, Callable[[], bytes]] = {
    "PNG": lambda: encoded(photo(), "PNG"),
    "PNG with a palette": lambda: encoded(photo().quantize(16), "PNG"),
    "black and white": lambda: encoded(photo(mode="1"), "PNG"),
    "WebP": lambda: encoded(photo(), "WEBP"),
    "BMP": lambda: encoded(photo(), "BMP"),
    "TIFF": lambda: encoded(photo(), "TIFF"),
    "GIF": lambda: encoded(photo(), "GIF", save_all=True, append_images=[photo(name="palace.jpg")]),
    "JPEG 2000": lambda: encoded(photo(), "JPEG2000"),
}
KINDS = {**JPEGS, **OTHERS}


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(kind: str, decoder: str) -> None:
    check(KINDS[kind](), decoder)


@pytest.mark.parametrize("decoder", DECODERS)
def test_whole_photos(decoder: str) -> None:
    for path in sorted(photos().glob("*.jpg")):
        check(path.read_bytes(), decoder)


@pytest.mark.parametrize("decoder", DECODERS)
def test_transparency_lies_over_white(decoder: str) -> None:
    picture = photo(mode="RGBA")
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    white = Image.new("RGBA", picture.size, "white")
    expected = torch.from_numpy(np.array(Image.alpha_composite(white, picture).convert("RGB"))).permute(2, 0, 1)
    assert torch.equal(decode_image(encoded(picture, "PNG"), decoder), expected)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations(orientation: int, kind: str, decoder: str) -> None:
    data = encoded(photo(13, 8), kind, exif=exif(orientation))
    check(data, decoder)
    if kind != "TIFF":  # which Pillow turns when it loads it
        check(data, decoder, upright=False)
        assert decode_image(data, decoder, upright=False).shape == (3, 8, 13)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("orientation", [0, 9, 300, 65535])
def test_orientations_that_do_not_exist(orientation: int, decoder: str) -> None:
    check(encoded(photo(13, 8), exif=exif(orientation)), decoder)


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_orientation_of_xmp(decoder: str) -> None:
    note = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = encoded(photo(13, 8), xmp=note)
    check(data, decoder)
    assert decode_image(data, decoder).shape == (3, 13, 8)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    "block",
    [
        b"Exif\0\0",
        b"Exif\0\0garbage",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04six\0\0\0\0\0",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
    ],
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # as Pillow says
def test_a_broken_exif_block_says_nothing(block: bytes, decoder: str) -> None:
    plain = encoded(photo(13, 8))
    length = (len(block) + 2).to_bytes(2, "big")
    data = plain[:2] + b"\xff\xe1" + length + block + plain[2:]
    assert torch.equal(decode_image(data, decoder), decode_image(plain, decoder))


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "cut in the header": lambda data: data[:200],
    "cut in the data": lambda data: data[: len(data) // 2],
    "the last two bytes are missing": lambda data: data[:-2],
    "zeros from the middle on": lambda data: data[: len(data) // 2].ljust(len(data), b"\0"),
    "empty": lambda data: b"",
    "one byte": lambda data: data[:1],
    "start and end alone": lambda data: data[:2] + data[-2:],
    "text": lambda data: b"<!DOCTYPE html><html></html>",
}


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("kind", ["4:2:0", "progressive", "grey", "CMYK"])
@pytest.mark.parametrize("damage", BROKEN)
def test_broken_jpeg(damage: str, kind: str, decoder: str) -> None:
    with pytest.raises(ValueError, match=r"^The image cannot be decoded: ."):
        decode_image(BROKEN[damage](JPEGS[kind]()), decoder)


@pytest.mark.parametrize("decoder", DECODERS)
def test_zeros_in_place_of_the_rest_are_no_image(decoder: str) -> None:
    """As interrupted downloads leave them. The thumbnail in the header has an end of its own."""
    whole = encoded(photo(), exif=b"Exif\0\0" + encoded(photo(16, 12)))
    for end in range(len(encoded(photo(16, 12))) + 700, len(whole), 40):
        with pytest.raises(
            ValueError, match=r"^The image cannot be decoded: image file is truncated: nothing marks its end"
        ):
            decode_image(whole[:end].ljust(len(whole), b"\0"), decoder)


@pytest.mark.parametrize("decoder", DECODERS)
def test_twelve_bits_are_refused(decoder: str) -> None:
    data = bytearray(encoded(photo()))
    data[data.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(ValueError, match=r"^The image cannot be decoded: cannot identify image file"):
        decode_image(bytes(data), decoder)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("kind", ["PNG", "WebP", "JPEG 2000", "GIF"])
def test_other_files_that_end_early(kind: str, decoder: str) -> None:
    data = KINDS[kind]()
    with pytest.raises(ValueError, match=r"^The image cannot be decoded: ."):
        decode_image(data[: len(data) // 2], decoder)


@pytest.mark.parametrize("damage", [bytes(600), b"\xff" * 600, np.random.default_rng(0).bytes(600)])
@pytest.mark.parametrize("place", [0.4, 0.6, 0.8])
def test_damage_in_the_middle_is_refused_by_the_fast_decoder(place: float, damage: bytes) -> None:
    data = bytearray(encoded(photo(200, 160), quality=90))
    start = int(place * len(data))
    data[start : start + len(damage)] = damage
    with pytest.raises(
        ValueError, match=r"^The image cannot be decoded: (Corrupt JPEG data|Unsupported marker|Invalid)"
    ):
        decode_image(bytes(data), "fast")


BOMBS = {
    "PNG": lambda: png_claiming(30_000, 30_000),
    "JPEG": lambda: jpeg_claiming(encoded(photo()), 30_000, 30_000),
    "PNG of 12,000": lambda: png_claiming(12_000, 12_000),
    "JPEG of 12,000": lambda: jpeg_claiming(encoded(photo()), 12_000, 12_000),
}


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bombs_are_refused_before_memory_is_taken(kind: str, decoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = BOMBS[kind]()
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("Pillow takes memory"))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"exceeds limit|12000 x 12000 pixels, and max_pixels=134,217,728"):
            decode_image(data, decoder)
        assert tracemalloc.get_traced_memory()[1] < 2**20  # NumPy, which holds what simplejpeg makes, is traced
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_limit_is_what_was_asked_for(decoder: str) -> None:
    data = encoded(photo(64, 48))
    assert decode_image(data, decoder, max_pixels=64 * 48).shape == (3, 48, 64)
    with pytest.raises(ValueError, match=r"The image has 64 x 48 pixels, and max_pixels=3,071 are allowed\."):
        decode_image(data, decoder, max_pixels=64 * 48 - 1)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("kind", ["4:2:0", "grey", "CMYK", "PNG"])
def test_pixels_lie_where_torch_resizes_them_fastest(kind: str, decoder: str) -> None:
    pixels = decode_image(KINDS[kind](), decoder)
    assert pixels[None].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("filter_", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC])
def test_resized_they_are_within_a_level_of_pillow(filter_: Image.Resampling) -> None:
    """Means and largest differences as measured in `reference`, twice over."""
    for path in sorted(photos().glob("*.jpg")):
        pixels = decode_image(path.read_bytes(), "fast")
        ours = resize(pixels[None], (224, 224), filter_)[0].int()
        with Image.open(path) as picture:
            theirs = np.array(picture.convert("RGB").resize((224, 224), filter_))
        difference = (ours - torch.from_numpy(theirs).permute(2, 0, 1).int()).abs()
        assert difference.amax() <= LEVELS
        assert difference.float().mean() < 0.01


def test_decoders_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match=r"^decoder='fsat' must be one of pillow, fast\. Did you mean 'fast'\?"):
        decode_image(b"", "fsat")


def test_fast_without_simplejpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "simplejpeg":
            raise ModuleNotFoundError("No module named 'simplejpeg'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    for call in (lambda: load_decoder("fast"), lambda: decode_image(b"", "fast")):
        with pytest.raises(ImportError, match=r"^decoder='fast' needs simplejpeg: pip install 'vertebra\[extract\]'\."):
            call()
    data = (Path(photos()) / "daisy.jpg").read_bytes()
    assert torch.equal(decode_image(data), oracle(data))
