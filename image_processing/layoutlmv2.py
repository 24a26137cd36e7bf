"""LayoutLMv2's processor: pictures of pages, and the words on them where Tesseract shall read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from PIL.Image import Resampling

from vertebra.batch_feature import BatchFeature
from vertebra.image_processing.base import BaseImageProcessor
from vertebra.image_processing.inputs import ImageInput
from vertebra.image_processing.tesseract import read_words


class LayoutLMv2ImageProcessor(BaseImageProcessor):
    """Stretch to 224 x 224 pixels (bilinear) and turn RGB to BGR; with `apply_ocr` read the words of each page first.

    Values stay 0..255. Grey pages become three equal channels. A batch has `pixel_values` and, with `apply_ocr=True`, `words` (a
    list of strings a page) and `boxes` (for each word `[left, top, right, bottom]` in thousandths of the page).

    `ocr_lang` is Tesseract's name of the language (`"deu"`; None is English), `tesseract_config` further options of its command
    (`"--psm 6"`). Without the package `pytesseract` and the program, pass `apply_ocr=False` and give the words yourself.
    LayoutLMv2: https://arxiv.org/abs/2012.14740; checkpoints such as microsoft/layoutlmv2-base-uncased.
    """

    do_resize = True
    size = {"height": 224, "width": 224}
    resample = Resampling.BILINEAR
    rescale_factor: Any = None
    apply_ocr: bool = True
    ocr_lang: str | None = None
    tesseract_config: str | None = ""

    def _read(self, images: ImageInput, settings: Mapping[str, Any]) -> list[torch.Tensor]:
        return super()._read(images, {**settings, "num_channels": settings["num_channels"] or 3})

    def _preprocess(self, images: list[torch.Tensor], **settings: Any) -> BatchFeature:
        reads, language, options = (settings.pop(name) for name in ("apply_ocr", "ocr_lang", "tesseract_config"))
        pages = [read_words(image, language, options or "") for image in images] if reads else []
        tensor_type = settings.pop("return_tensors")
        batch = super()._preprocess(images, return_tensors=None, **settings)
        batch = BatchFeature({"pixel_values": [image.flip(0) for image in batch["pixel_values"]]}, tensor_type)
        if reads:
            batch["words"], batch["boxes"] = ([words for words, _ in pages], [boxes for _, boxes in pages])
        return batch
