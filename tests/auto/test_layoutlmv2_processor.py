"""LayoutLMv2's pages: the image processor, words that Tesseract reads, and words that do not fit."""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import processor_cases as cases
import pytest
import torch
import transformers
from PIL import Image, ImageDraw, ImageFont

from vertebra import AutoImageProcessor, LayoutLMv2ImageProcessor, LayoutLMv2Processor, LayoutLMv2TokenizerFast

TESSERACT = pytest.mark.skipif(
    not (shutil.which("tesseract") and find_spec("pytesseract")),
    reason="needs the program tesseract (apt-get install tesseract-ocr) and the package pytesseract",
)
LINES = ["hello world", "the cat", "unaffable"]


def page(lines: list[str], size: tuple[int, int] = (800, 600)) -> tuple[Image.Image, list[list[float]]]:
    """A page with lines of text, and where the ink of each line is, in thousandths of the page."""
    picture = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size=40)
    places = []
    for row, line in enumerate(lines):
        pen.text((60, 60 + 90 * row), line, fill="black", font=font)
        sides = pen.textbbox((60, 60 + 90 * row), line, font=font)
        places.append([1000 * side / size[axis % 2] for axis, side in enumerate(sides)])
    return picture, places


class NotFoundError(OSError):
    """What pytesseract raises without the program."""


class ReadError(RuntimeError):
    """What pytesseract raises where the program refuses."""


@pytest.fixture
def tesseract(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A package of the optional program's name that reads two words and remembers its calls."""
    calls: list[Any] = []

    def image_to_data(picture: Any, **options: Any) -> dict[str, list[Any]]:
        calls.append((picture, options))
        if options["lang"] == "xxx":
            raise ReadError("no such language")
        if options["config"] == "missing":
            raise NotFoundError
        columns = {"text": ["hello", "  ", "world"], "left": [3, 0, 7], "top": [1, 0, 9], "width": [10, 0, 20]}
        return {**columns, "height": [5, 0, 6]}

    module = ModuleType("pytesseract")
    vars(module).update(image_to_data=image_to_data, TesseractNotFoundError=NotFoundError, TesseractError=ReadError)
    monkeypatch.setitem(sys.modules, "pytesseract", module)
    return calls


@pytest.fixture
def processor(tmp_path: Path) -> LayoutLMv2Processor:
    tokenizer = LayoutLMv2TokenizerFast.from_pretrained(cases.write_vocab(tmp_path / "words"))
    return LayoutLMv2Processor(LayoutLMv2ImageProcessor(apply_ocr=False), tokenizer)


@pytest.mark.parametrize("backend", ["torchvision", "pil"])
def test_images_equal_transformers(backend: str, tmp_path: Path) -> None:
    theirs = (
        transformers.LayoutLMv2ImageProcessor if backend == "torchvision" else transformers.LayoutLMv2ImageProcessorPil
    )
    theirs(apply_ocr=False, size={"height": 60, "width": 50}).save_pretrained(tmp_path)
    ours = AutoImageProcessor.from_pretrained(tmp_path, backend=backend)
    assert type(ours) is LayoutLMv2ImageProcessor
    pictures = [cases.picture(90, 70), cases.picture(80, 120, seed=1)]
    expected = theirs(apply_ocr=False, size={"height": 60, "width": 50})(pictures, return_tensors="pt").pixel_values
    found = ours(pictures, return_tensors="pt")
    assert list(found) == ["pixel_values"]
    assert (found.pixel_values.dtype, found.pixel_values.shape) == (expected.dtype, expected.shape)
    torch.testing.assert_close(found.pixel_values, expected, rtol=0, atol=0)


def test_blue_comes_first() -> None:
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 200
    found = LayoutLMv2ImageProcessor(apply_ocr=False)(red, return_tensors="np").pixel_values
    assert found.shape == (1, 3, 224, 224)
    assert found[0, :, 0, 0].tolist() == [0, 0, 200]
    grey = LayoutLMv2ImageProcessor(apply_ocr=False)(cases.picture().convert("L"), return_tensors="np").pixel_values
    assert grey.shape == (1, 3, 224, 224)


def test_older_settings() -> None:
    ours = LayoutLMv2ImageProcessor.from_dict(
        {"apply_ocr": True, "do_resize": True, "feature_extractor_type": "LayoutLMv2FeatureExtractor", "size": 224}
    )
    assert (ours.apply_ocr, ours.size) == (True, {"height": 224, "width": 224})


def test_words_that_tesseract_reads(processor: LayoutLMv2Processor, tesseract: list[Any]) -> None:
    processor.image_processor.apply_ocr = True
    picture = cases.picture(50, 40)
    read = processor.image_processor(picture, ocr_lang="deu", tesseract_config="--psm 6")
    assert read["words"] == [["hello", "world"]]
    assert read["boxes"] == [[[75, 20, 325, 120], [175, 180, 675, 300]]]
    seen, options = tesseract[0]
    assert (np.asarray(seen).tolist(), seen.size) == (np.asarray(picture).tolist(), (40, 50))
    assert options == {"lang": "deu", "output_type": "dict", "config": "--psm 6"}
    batch = processor(picture, return_tensors="pt")
    assert batch.tokens() == ["[CLS]", "hello", "world", "[SEP]"]
    assert batch.bbox[0, 1:3].tolist() == read["boxes"][0]
    assert batch.image.shape == (1, 3, 224, 224)
    asked = processor([picture, picture], text=["the cat", "cat"], padding=True, return_tensors="pt")
    assert asked.tokens(0) == "[CLS] the cat [SEP] hello world [SEP]".split()
    assert asked.image.shape == (2, 3, 224, 224)
    given = processor(picture, cases.PAGE, boxes=cases.BOXES, apply_ocr=False)
    assert given["bbox"][1] == cases.BOXES[0]
    floats = torch.full((3, 4, 4), 0.5)
    processor.image_processor(floats)
    assert np.asarray(tesseract[-1][0])[0, 0].tolist() == [128, 128, 128]


def test_overflowing_rows_have_their_page(processor: LayoutLMv2Processor) -> None:
    pictures = [cases.picture(), cases.picture(seed=1)]
    options: dict[str, Any] = {"max_length": 5, "truncation": True, "padding": True, "return_overflowing_tokens": True}
    words, boxes = [cases.PAGE, cases.PAGE[:1]], [cases.BOXES, cases.BOXES[:1]]
    batch = processor(pictures, words, boxes=boxes, return_tensors="pt", **options)
    rows = batch.overflow_to_sample_mapping.tolist()
    assert rows == [0, 0, 0, 1]
    alone = processor.image_processor(pictures, return_tensors="pt").pixel_values
    assert torch.equal(batch.image, alone[rows])
    lists = processor(pictures, words, boxes=boxes, **options)
    assert [torch.equal(image, alone[row]) for image, row in zip(lists["image"], rows, strict=True)] == [True] * 4


def test_what_does_not_fit(processor: LayoutLMv2Processor) -> None:
    picture, words, boxes = cases.picture(), cases.PAGE, cases.BOXES
    with pytest.raises(ValueError, match="Page 0 has 5 words and 4 boxes; each word needs one"):
        processor(picture, words, boxes=boxes[:-1])
    with pytest.raises(ValueError, match=r"boxes\[0\]\[0\] is \[0, 0, 2000, 5\]; a box is"):
        processor(picture, words[:1], boxes=[[0, 0, 2000, 5]])
    with pytest.raises(ValueError, match="apply_ocr=False needs words and boxes, and boxes is None"):
        processor(picture, words)
    with pytest.raises(ValueError, match=r"apply_ocr=False needs words and boxes, and the words are None"):
        processor(picture)
    with pytest.raises(ValueError, match="the words are 'What is it'"):
        processor(picture, "What is it", boxes=boxes)
    with pytest.raises(ValueError, match="There are 2 images, and the words of 1 pages; each image needs its own"):
        processor([picture, picture], words, boxes=boxes)
    with pytest.raises(ValueError, match="4 word_labels; each word needs one"):
        processor(picture, words, boxes=boxes, word_labels=[0, 1, 2, 3])
    for name, value in (("boxes", boxes), ("word_labels", [0] * 5), ("text_pair", words)):
        with pytest.raises(ValueError, match=f"{name} is given, and apply_ocr=True has Tesseract read"):
            processor(picture, apply_ocr=True, **{name: value})


def test_without_tesseract(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytesseract", None)
    with pytest.raises(ImportError, match=r"pytesseract is not installed\. Install both, `pip install pytesseract`"):
        LayoutLMv2ImageProcessor()(cases.picture())


@pytest.mark.usefixtures("tesseract")
def test_what_tesseract_refuses() -> None:
    ours = LayoutLMv2ImageProcessor()
    with pytest.raises(OSError, match="the program was not found"):
        ours(cases.picture(), tesseract_config="missing")
    with pytest.raises(OSError, match=r"did not read the page \(ocr_lang='xxx'.*no such language"):
        ours(cases.picture(), ocr_lang="xxx")


@TESSERACT
@pytest.mark.parametrize("backend", ["torchvision", "pil"])
def test_tesseract_reads_what_it_reads_for_transformers(backend: str, tmp_path: Path) -> None:
    pil = backend == "pil"
    images = transformers.LayoutLMv2ImageProcessorPil if pil else transformers.LayoutLMv2ImageProcessor
    tokenizer = transformers.LayoutLMv2Tokenizer(str(cases.write_vocab(tmp_path / "words") / "vocab.txt"))
    theirs = transformers.LayoutLMv2Processor(images(), tokenizer)
    theirs.save_pretrained(tmp_path)
    ours = LayoutLMv2Processor.from_pretrained(tmp_path, backend=backend)
    assert ours.image_processor.apply_ocr is True
    (first, places), (second, _) = page(LINES), page(["the cat"], (500, 200))
    alone = {"images": first, "return_tensors": "pt"}
    asked = {"images": [first, second], "text": ["hello", "the cat"], "padding": True, "return_tensors": "pt"}
    for arguments in (alone, asked):
        found, expected = ours(**arguments), theirs(**arguments)
        assert list(found) == list(expected)
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=0, atol=0)
    read = ours.image_processor(first)
    assert read["words"] == [" ".join(LINES).split()]
    (boxes,) = read["boxes"]
    lines = [boxes[:2], boxes[2:4], boxes[4:]]
    edges = [[*np.min(line, axis=0)[:2], *np.max(line, axis=0)[2:]] for line in lines]
    np.testing.assert_allclose(edges, places, rtol=0, atol=8)
    empty = ours(page([])[0])
    assert (empty.tokens(), empty["bbox"]) == (["[CLS]", "[SEP]"], [[[0] * 4, [1000] * 4]])


@TESSERACT
def test_what_tesseract_itself_refuses() -> None:
    ours = LayoutLMv2ImageProcessor()
    with pytest.raises(
        OSError, match=r"did not read the page \(ocr_lang='xxx'(.|\n)*`tesseract --list-langs` says which"
    ):
        ours(page(LINES)[0], ocr_lang="xxx")
    with pytest.raises(OSError, match=r"tesseract_config='--psm 99'"):
        ours(page(LINES)[0], tesseract_config="--psm 99")
    assert ours(page(["the cat"])[0], ocr_lang="eng", tesseract_config="--psm 6")["words"] == [["the", "cat"]]
