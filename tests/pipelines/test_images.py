"""The pipelines of images against transformers', on the same tiny checkpoints and photos; and on real weights."""

import io
import re
from collections.abc import Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import maskformer_cases
import numpy as np
import pytest
import torch
import transformers
from oracle import close, perturb
from PIL import Image
from real import lite0, photos

from vertebra import AutoBackbone, AutoImageProcessor, AutoModelForImageClassification, pipeline
from vertebra.pipelines.errors import PipelineItemError

SIZE = {"height": 64, "width": 64}
LABELS = dict(enumerate(["cat", "daisy", "cup", "moped", "castle", "tree", "sea"]))
SWIN: dict[str, Any] = {
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 2, 2],
    "window_size": 2,
    "image_size": 64,
}
RESNET: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "layer_type": "basic"}
STAGES = ["stage1", "stage2", "stage3", "stage4"]
TOL = 1e-5
PIXELS = 1e-4
"""The part of a mask that rounding may decide otherwise."""


def saved(model: Any, processor: Any, folder: Path, scale: float = 0.3) -> Path:
    perturb(model.eval(), scale=scale).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints by name, made with transformers."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("images")
    names = {"id2label": LABELS, "label2id": {name: index for index, name in LABELS.items()}}
    vit = transformers.ViTImageProcessor(size=SIZE)
    convnext = transformers.ConvNextImageProcessor(size={"shortest_edge": 32})
    segmenter = transformers.MaskFormerImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}, num_labels=7)
    segformer = transformers.SegformerImageProcessor(size=SIZE)
    universal = transformers.MaskFormerConfig(
        backbone_config=transformers.ResNetConfig(**RESNET, out_features=STAGES),
        decoder_config=transformers.DetrConfig(**maskformer_cases.DECODER),
        fpn_feature_size=64,
        mask_feature_size=20,
        **names,
    )
    semantic = transformers.UperNetConfig(
        backbone_config=transformers.ResNetConfig(**RESNET, out_features=STAGES),
        hidden_size=16,
        pool_scales=[1, 2],
        auxiliary_channels=8,
        auxiliary_in_channels=16,
        **names,
    )
    resnet = transformers.ResNetConfig(**RESNET, **names)
    several = transformers.ResNetConfig(**RESNET, **names, problem_type="multi_label_classification")
    return {
        "swin": saved(
            transformers.SwinForImageClassification(transformers.SwinConfig(**SWIN, **names)), vit, root / "swin"
        ),
        "resnet": saved(transformers.ResNetForImageClassification(resnet), convnext, root / "resnet", 0.05),
        "several": saved(transformers.ResNetForImageClassification(several), convnext, root / "several", 0.05),
        "maskformer": saved(transformers.MaskFormerForInstanceSegmentation(universal), segmenter, root / "mf", 0.6),
        "upernet": saved(transformers.UperNetForSemanticSegmentation(semantic), segformer, root / "upernet"),
    }


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Photos as RGB: transformers' pipeline reads others wrongly or not at all."""
    return [Image.open(path).convert("RGB") for path in sorted(photos().iterdir())]


@cache
def theirs_of(task: str, folder: Path) -> Any:
    return transformers.pipeline(task, model=str(folder), device="cpu")


def assert_equal(actual: Any, expected: Any) -> None:
    """The same keys in the same order, labels and texts; numbers to 1e-5; masks but for one pixel in 10,000."""
    assert type(actual) is type(expected) or isinstance(expected, (float, Image.Image))
    if isinstance(expected, dict):
        assert list(actual) == list(expected)
        for name in expected:
            assert_equal(actual[name], expected[name])
    elif isinstance(expected, list):
        assert len(actual) == len(expected)
        for pair in zip(actual, expected, strict=True):
            assert_equal(*pair)
    elif isinstance(expected, float):
        assert actual == pytest.approx(expected, abs=TOL, rel=TOL)
    elif isinstance(expected, Image.Image):
        assert actual.mode == expected.mode == "L"
        assert actual.size == expected.size
        assert np.mean(np.asarray(actual) != np.asarray(expected)) <= PIXELS
    else:
        assert actual == expected


@pytest.mark.parametrize("name", ["swin", "resnet", "several"])
@pytest.mark.parametrize(
    "options", [{}, {"top_k": 2}, {"top_k": 99}, {"function_to_apply": "none"}, {"function_to_apply": "sigmoid"}]
)
def test_classification(name: str, options: dict[str, Any], made: dict[str, Path], pictures: list[Image.Image]) -> None:
    theirs, ours = theirs_of("image-classification", made[name]), pipeline("image-classification", model=made[name])
    expected = theirs(pictures, **options)
    assert len({entry["label"] for answer in expected for entry in answer}) > 1
    for batch_size in (1, 3):
        assert_equal(ours(pictures, batch_size=batch_size, **options), expected)
    assert_equal(ours(pictures[0], **options), theirs(pictures[0], **options))


@pytest.mark.parametrize("name", ["swin", "resnet"])
def test_features(name: str, made: dict[str, Path], pictures: list[Image.Image]) -> None:
    theirs = transformers.pipeline("image-feature-extraction", model=str(made[name]), device="cpu")
    ours = pipeline("image-feature-extraction", model=made[name], batch_size=2)
    for pool in (False, True):
        close(ours(pictures, pool=pool), theirs(pictures, pool=pool, return_tensors=True))
        assert_equal(ours(pictures[0], return_tensors=False, pool=pool), theirs(pictures[0], pool=pool))
    other = {"size": {"height": 64, "width": 96}} if name == "swin" else {"size": {"shortest_edge": 48}}
    close(
        ours(pictures[1], image_processor_kwargs=other),
        theirs(pictures[1], image_processor_kwargs=other, return_tensors=True),
    )
    assert not any(features.requires_grad for features in ours(pictures))
    assert ours(pictures)[1].untyped_storage().nbytes() == ours(pictures)[1].nbytes


def test_levels_stay_apart(made: dict[str, Path], pictures: list[Image.Image]) -> None:
    pipe = pipeline("image-feature-extraction", model=made["swin"], out_strides=(4, 16))
    backbone = AutoBackbone.from_pretrained(made["swin"], out_strides=(4, 16))
    processor = AutoImageProcessor.from_pretrained(made["swin"])
    found = pipe(pictures, batch_size=2)
    for picture, levels in zip(pictures, found, strict=True):
        with torch.no_grad():
            expected = backbone(**processor(picture, return_tensors="pt")).feature_maps
        assert list(levels) == ["stage1", "stage3"]
        close(tuple(levels.values()), expected)
    listed = pipe(pictures[0], return_tensors=False)
    close(torch.tensor(listed["stage3"]), found[0]["stage3"])
    with pytest.raises(
        ValueError, match=r"pool=True, but SwinBackbone has no pooled state; average its maps yourself."
    ):
        pipe(pictures[0], pool=True)


def _found(answers: list[list[dict[str, Any]]]) -> list[list[Any]]:
    """Label and score of every instance, whichever way those of equal scores lie over one another."""
    return [sorted(([entry["label"], entry["score"]] for entry in one), key=str) for one in answers]


@pytest.mark.parametrize("subtask", ["panoptic", "instance", "semantic", None])
def test_segmentation(subtask: str | None, made: dict[str, Path], pictures: list[Image.Image]) -> None:
    theirs = theirs_of("image-segmentation", made["maskformer"])
    processor = AutoImageProcessor.from_pretrained(made["maskformer"], compat=True)
    ours = pipeline("image-segmentation", model=made["maskformer"], image_processor=processor)
    options = {"subtask": subtask, "threshold": 0.2, "mask_threshold": 0.4, "overlap_mask_area_threshold": 0.3}
    expected = theirs(pictures, **options)
    assert any(expected), "the oracle must find something"
    for found in (ours(pictures, **options), ours(pictures, batch_size=4, **options)):
        if subtask == "instance":  # of queries whose scores are equal to rounding, the last found has the pixel
            assert_equal(_found(found), _found(expected))
        else:
            assert_equal(found, expected)
    assert_equal(ours(pictures[0], **options), theirs(pictures[0], **options))


def test_semantic_segmentation_alone(made: dict[str, Path], pictures: list[Image.Image]) -> None:
    theirs = transformers.pipeline("image-segmentation", model=str(made["upernet"]), device="cpu")
    ours = pipeline("image-segmentation", model=made["upernet"])
    assert_equal(ours(pictures), theirs(pictures))
    with pytest.raises(
        ValueError,
        match=r"subtask='panoptic': UperNetForSemanticSegmentation with SegformerImageProcessor does 'semantic'; leave subtask out",
    ):
        ours(pictures[0], subtask="panoptic")


def test_real_photos_have_the_right_class() -> None:
    found = pipeline("image-classification", model=lite0(), batch_size=2)(sorted(photos().iterdir()))
    best = [answer[0]["label"] for answer in found]
    assert best == ["tiger cat", "daisy", "espresso", "moped", "palace"]


def test_what_an_image_may_be(made: dict[str, Path], tmp_path: Path, pictures: list[Image.Image]) -> None:
    pictures[0].save(path := tmp_path / "cat.png")
    pipe = pipeline("image-classification", model=made["swin"])
    expected = pipe(pictures[0])
    array = np.asarray(pictures[0])
    for item in (path, str(path), path.read_bytes(), array, torch.from_numpy(array.copy()).permute(2, 0, 1)):
        assert_equal(pipe(item), expected)
    grey = pictures[0].convert("L")
    assert_equal(pipe(grey), pipe(grey.convert("RGB")))
    assert_equal(pipe(np.stack([array, array])).__next__(), expected)


@pytest.fixture
def server(pictures: list[Image.Image]) -> Iterator[str]:
    """The address of a web server with one picture."""
    pictures[0].save(content := io.BytesIO(), format="PNG")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/cat.png" else 404)
            self.end_headers()
            if self.path == "/cat.png":
                self.wfile.write(content.getvalue())

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        thread = Thread(target=web.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{web.server_port}"
        web.shutdown()
        thread.join()


def test_addresses_are_refused_unless_allowed(made: dict[str, Path], server: str, pictures: list[Image.Image]) -> None:
    pipe = pipeline("image-classification", model=made["swin"])
    with pytest.raises(
        ValueError, match=re.escape(f"'{server}/cat.png' is an address, and a pipeline fetches nothing")
    ):
        pipe(f"{server}/cat.png")
    assert_equal(pipe(f"{server}/cat.png", allow_urls=True), pipe(pictures[0]))
    allowed = pipeline("image-classification", model=made["swin"], allow_urls=True, timeout=5)
    with pytest.raises(
        PipelineItemError, match=r"item 1 \('http://.*/dog.png'\): 'http://.*/dog.png' answered 404 Not Found"
    ):
        allowed([f"{server}/cat.png", f"{server}/dog.png"])


@pytest.mark.parametrize(
    ("item", "kind", "message"),
    [
        ("nowhere.jpg", FileNotFoundError, "images is the path 'nowhere.jpg', which does not exist."),
        (".", IsADirectoryError, "'.' is a folder; give the images in it: sorted(Path('.').iterdir())."),
        (b"no picture", OSError, "cannot identify image file"),
        ({"image": 1}, TypeError, "not a dict with the keys ['image']; give what is under one of them."),
        (3, TypeError, "an image is a path, a PIL image, an array, a tensor or the bytes of a file, not a int."),
    ],
)
def test_bad_images(item: Any, kind: type[Exception], message: str, made: dict[str, Path]) -> None:
    pipe = pipeline("image-classification", model=made["swin"])
    with pytest.raises(kind, match=re.escape(message)):
        pipe(item)


def test_a_corrupt_file_is_named(made: dict[str, Path], tmp_path: Path, pictures: list[Image.Image]) -> None:
    pictures[0].save(path := tmp_path / "cut.jpg")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    pipe = pipeline("image-classification", model=made["swin"], batch_size=2)
    with pytest.raises(PipelineItemError, match=r"item 1 \(a PosixPath\): .*cut.jpg', which cannot be decoded"):
        pipe([pictures[0], path, pictures[1]])
    found = pipe([pictures[0], path, pictures[1]], on_error="skip")
    assert [answer is None for answer in found] == [False, True, False]
    assert [bad.index for bad in pipe.skipped] == [1]


def test_bad_options(made: dict[str, Path], pictures: list[Image.Image]) -> None:
    pipe = pipeline("image-classification", model=made["swin"])
    with pytest.raises(ValueError, match=r"top_k=0 must be 1 or more, or None for all 7 labels."):
        pipe(pictures[0], top_k=0)
    with pytest.raises(
        ValueError, match=r"function_to_apply='relu' must be one of 'softmax', 'sigmoid', 'none', or None."
    ):
        pipe(pictures[0], function_to_apply="relu")


def test_models_and_processors_as_objects(made: dict[str, Path], pictures: list[Image.Image], tmp_path: Path) -> None:
    model = AutoModelForImageClassification.from_pretrained(made["swin"])
    processor = AutoImageProcessor.from_pretrained(made["resnet"])
    expected = pipeline("image-classification", model=made["swin"], image_processor=str(made["resnet"]))(pictures)
    pipe = pipeline("image-classification", model=model, image_processor=processor)
    assert_equal(pipe(pictures), expected)
    assert pipe.model is model
    pipe.save_pretrained(tmp_path)
    assert_equal(pipeline(model=tmp_path)(pictures), expected)
    assert "image_processor=ConvNextImageProcessor" in repr(pipe)


def test_sixteen_bits(made: dict[str, Path], pictures: list[Image.Image]) -> None:
    full = pipeline("image-classification", model=made["swin"])(pictures)
    half = pipeline("image-classification", model=made["swin"], dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    for answer, expected in zip(half(pictures), full, strict=True):
        scores = {entry["label"]: entry["score"] for entry in expected}
        for entry in answer:
            assert entry["score"] == pytest.approx(scores.get(entry["label"], entry["score"]), abs=0.05)
