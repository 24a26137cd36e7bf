"""Words on a picture, read by Tesseract through the optional package `pytesseract`."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from PIL import Image

HINT = (
    "Install both, `pip install pytesseract` and the program tesseract (https://tesseract-ocr.github.io), or pass apply_ocr=False "
    "and give the words and boxes yourself: processor(image, words, boxes=boxes)."
)
Words = tuple[list[str], list[list[int]]]


def read_words(image: torch.Tensor, language: str | None, options: str) -> Words:
    """Read the words of a page.

    Args:
        image: `(c, h, w)`; whole numbers are 0..255, floating point numbers within 0..1 are scaled to that.
        language: Tesseract's name of the language, e.g. `"deu"`; None is English.
        options: Further options of Tesseract's command.

    Returns:
        The words, and for each `[left, top, right, bottom]` in thousandths of the page.

    Raises:
        ImportError: `pytesseract` is not installed.
        OSError: the program is not installed, or does not read the page (an unknown language, …).
    """
    try:
        pytesseract: Any = import_module("pytesseract")
    except ImportError as error:
        raise ImportError(
            f"apply_ocr=True reads words with Tesseract, and pytesseract is not installed. {HINT}"
        ) from error
    picture = _picture(image)
    try:
        found = pytesseract.image_to_data(picture, lang=language, output_type="dict", config=options)
    except pytesseract.TesseractNotFoundError as error:
        raise OSError(f"apply_ocr=True reads words with Tesseract, and the program was not found. {HINT}") from error
    except pytesseract.TesseractError as error:
        raise OSError(
            f"Tesseract did not read the page (ocr_lang={language!r}, tesseract_config={options!r}): {error}. "
            f"`tesseract --list-langs` says which languages are installed."
        ) from error
    return _words(found, picture.width, picture.height)


def _words(found: dict[str, list[Any]], width: int, height: int) -> Words:
    columns = (found[name] for name in ("text", "left", "top", "width", "height"))
    rows = [row for row in zip(*columns, strict=True) if row[0].strip()]
    boxes = [
        [
            int(1000 * (left / width)),
            int(1000 * (top / height)),
            int(1000 * ((left + across) / width)),
            int(1000 * ((top + down) / height)),
        ]
        for _, left, top, across, down in rows
    ]
    return [row[0] for row in rows], boxes


def _picture(image: torch.Tensor) -> Image.Image:
    values = image.detach().cpu()
    if values.is_floating_point():
        values = (values * 255 if float(values.amax()) <= 1 else values).round()
    levels = values.clamp(0, 255).to(torch.uint8)
    return Image.fromarray((levels[0] if len(levels) == 1 else levels[:3].permute(1, 2, 0)).numpy())
