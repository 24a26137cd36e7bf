"""Processors of images with text: CLIP's pictures and captions, LayoutLMv2's pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vertebra.auto.processing import ProcessorMixin


class CLIPProcessor(ProcessorMixin):
    """A `CLIPImageProcessor` with CLIP's tokenizer: `processor(images=…, text=…)`.

    Args:
        image_processor: Prepares images.
        tokenizer: Prepares texts.

    Raises:
        TypeError: one of both is missing, or something else.
    """

    def __init__(self, image_processor: Any = None, tokenizer: Any = None) -> None:
        super().__init__(image_processor, tokenizer)


class LayoutLMv2Processor(ProcessorMixin):
    """A `LayoutLMv2ImageProcessor` with LayoutLMv2's tokenizer, for pages of documents.

    With the image processor's `apply_ocr=True` Tesseract reads words and boxes. Otherwise the caller gives them.

    Args:
        image_processor: Prepares pages.
        tokenizer: Prepares words with their boxes.

    Raises:
        TypeError: one of both is missing, or something else.
    """

    def __init__(self, image_processor: Any = None, tokenizer: Any = None) -> None:
        super().__init__(image_processor, tokenizer)

    def __call__(  # type: ignore[override]
        self,
        images: Any,
        text: Any = None,
        text_pair: Any = None,
        boxes: Any = None,
        word_labels: Any = None,
        *,
        return_overflowing_tokens: bool = False,
        return_tensors: Any = None,
        **options: Any,
    ) -> Any:
        """Prepare pages.

        Args:
            images: A page or several, as the image processor takes them.
            text: With Tesseract: nothing, or a question about the page (one for each of several). Without: the words of the page
                (of each page), or a question where `text_pair` has the words.
            text_pair: The words, where `text` is a question.
            boxes: For each word `[left, top, right, bottom]` in thousandths of the page. Without Tesseract.
            word_labels: For each word its class; the batch then has `labels`. Without Tesseract.
            return_overflowing_tokens: What truncation takes off becomes rows of its own, each with the image of its page.
            return_tensors: `"pt"`, `"np"`, or None for lists.
            **options: As in `ProcessorMixin`: `padding`, `truncation`, `max_length`, ….

        Returns:
            The tokenizer's batch (`input_ids`, `bbox`, …) with the pages as `image`, `(b, 3, 224, 224)`.

        Raises:
            ValueError: boxes or labels where Tesseract reads the words, no words or boxes where it does not, or other numbers of
                pages, words and boxes.
            TypeError: an option that no part has.
            ImportError: Tesseract shall read the words, and `pytesseract` is not installed.
        """
        arguments = self._arguments({**options, "return_tensors": return_tensors})
        pages = arguments["image_processor"]
        reads = pages.get("apply_ocr")
        reads = self.image_processor.apply_ocr if reads is None else reads
        _check_words(reads, text, text_pair, boxes, word_labels)
        batch = self.image_processor(images, **pages)
        pixels = batch["pixel_values"]
        if reads:
            boxes = batch["boxes"]
            text, text_pair = (batch["words"], None) if text is None else (text, text_pair or batch["words"])
            text = [text] if isinstance(text, str) else text
        _check_pages(len(pixels), text if text_pair is None else text_pair)
        encoded = self.tokenizer(
            text,
            text_pair,
            boxes=boxes,
            word_labels=word_labels,
            return_overflowing_tokens=return_overflowing_tokens,
            **arguments["tokenizer"],
        )
        if return_overflowing_tokens:
            rows = [int(page) for page in encoded["overflow_to_sample_mapping"]]
            pixels = [pixels[page] for page in rows] if isinstance(pixels, list) else pixels[rows]
        encoded["image"] = pixels
        return encoded

    @property
    def model_input_names(self) -> list[str]:
        """The entries that a call returns by itself."""
        return ["input_ids", "bbox", "token_type_ids", "attention_mask", "image"]


def _check_words(reads: bool, text: Any, text_pair: Any, boxes: Any, word_labels: Any) -> None:
    """Refuse what does not go with how the words are found."""
    given = {"text_pair": text_pair, "boxes": boxes, "word_labels": word_labels}
    given = {name: value for name, value in given.items() if value is not None}
    if reads and given:
        raise ValueError(
            f"{next(iter(given))} is given, and apply_ocr=True has Tesseract read words and boxes. For your own words pass "
            f"apply_ocr=False (LayoutLMv2Processor.from_pretrained(…, apply_ocr=False)); to have them read, images and "
            f"a question alone."
        )
    words = text if text_pair is None else text_pair
    if not reads and (words is None or isinstance(words, str) or boxes is None):
        what = "boxes is None" if words is not None and not isinstance(words, str) else f"the words are {words!r}"
        raise ValueError(
            f"apply_ocr=False needs words and boxes, and {what}: processor(image, ['Total', '12'], boxes=[[10, 20, 90, 40], …]), "
            f"or processor(image, 'What is the total?', words, boxes=boxes). A box is [left, top, right, bottom] in "
            f"thousandths of the page."
        )


def _check_pages(images: int, words: Sequence[Any]) -> None:
    batched = bool(words) and isinstance(words[0], (list, tuple))
    pages = len(words) if batched else 1
    if pages != images:
        raise ValueError(
            f"There are {images} images, and the words of {pages} pages; each image needs its own: images=[first, second], "
            f"text=[words_of_first, words_of_second], boxes=[boxes_of_first, boxes_of_second]."
        )
