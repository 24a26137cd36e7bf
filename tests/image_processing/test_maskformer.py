"""MaskFormer's and Mask2Former's processors: transformers' results, its defects beside ours, files of all ages, bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil
from transformers.models.maskformer.image_processing_pil_maskformer import MaskFormerImageProcessorPil

from vertebra import AutoImageProcessor
from vertebra.image_processing.mask2former import Mask2FormerImageProcessor
from vertebra.image_processing.maskformer import MaskFormerImageProcessor
from vertebra.image_processing.segmentation_maps import resize_map

transformers.logging.set_verbosity_error()

OURS: dict[str, Any] = {"MaskFormer": MaskFormerImageProcessor, "Mask2Former": Mask2FormerImageProcessor}
THEIRS: dict[tuple[str, str], Any] = {
    ("MaskFormer", "torchvision"): transformers.MaskFormerImageProcessor,
    ("MaskFormer", "pil"): MaskFormerImageProcessorPil,
    ("Mask2Former", "torchvision"): transformers.Mask2FormerImageProcessor,
    ("Mask2Former", "pil"): Mask2FormerImageProcessorPil,
}
SMALL = {"size": {"shortest_edge": 48, "longest_edge": 70}}
SETTINGS: dict[str, dict[str, Any]] = {
    "edges": SMALL,
    "exact edges": {**SMALL, "size_divisor": 0},
    "other multiple": {**SMALL, "size_divisor": 7},
    "stretched": {"size": {"height": 50, "width": 90}},
    "box": {"size": {"max_height": 50, "max_width": 70}},
    "as it is": {"do_resize": False},
    "padded": {**SMALL, "pad_size": {"height": 128, "width": 130}},
    "bicubic": {**SMALL, "resample": 3},
    "raw": {**SMALL, "do_normalize": False, "do_rescale": False},
}
LABELS: list[dict[str, Any]] = [
    {"ignore_index": 255},
    {"ignore_index": 255, "do_reduce_labels": True},
    {"ignore_index": 3},
    {"ignore_index": 0},
]
SHAPES = [(60, 80), (80, 60), (61, 97)]


@pytest.fixture
def pictures(noise: Callable[..., np.ndarray]) -> list[Image.Image]:
    return [Image.fromarray(noise(*shape)) for shape in SHAPES]


def patches(height: int, width: int, count: int = 6) -> np.ndarray[Any, Any]:
    """A seeded map of rectangles with numbers below `count`."""
    rng = np.random.default_rng(height * 1000 + width)
    return np.kron(rng.integers(0, count, (height // 7 + 1, width // 9 + 1)), np.ones((7, 9), int))[:height, :width]


MAPS = [patches(*shape) for shape in SHAPES]


def assert_equal(ours: Any, theirs: Any) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        for here, there in zip(ours[name], theirs[name], strict=True):
            here, there = np.asarray(here), np.asarray(there)
            assert (here.shape, here.dtype) == (there.shape, there.dtype), name
            np.testing.assert_array_equal(here, there, err_msg=name)


@pytest.mark.parametrize("name", OURS)
def test_defaults_are_those_of_transformers(name: str) -> None:
    theirs = THEIRS[name, "torchvision"]().to_json_string()
    assert json.loads(OURS[name]().to_json_string()) == json.loads(theirs)


@pytest.mark.parametrize("backend", ["torchvision", "pil"])
@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("option", SETTINGS)
def test_equals_transformers(option: str, name: str, backend: str, pictures: list[Image.Image]) -> None:
    for index, labels in enumerate(LABELS):
        settings = {**SETTINGS[option], **labels}
        ours, theirs = OURS[name](backend=backend, **settings), THEIRS[name, backend](**settings)
        maps = [found.astype([np.uint8, np.int32, np.int64][index % 3]) for found in MAPS]
        kind = ("pt", "np", None)[index % 3]
        expected = theirs(pictures, segmentation_maps=[found.copy() for found in maps], return_tensors=kind)
        assert_equal(ours(pictures, maps, return_tensors=kind, compat=True), expected)
        # Without compat one thing differs: what is padding belongs to no segment.
        here = ours(pictures, maps, return_tensors=kind)
        for masks, real in zip(expected["mask_labels"], expected["pixel_mask"], strict=True):
            masks[:, np.asarray(real) == 0] = 0
        assert_equal(here, expected)


def test_images_alone(pictures: list[Image.Image]) -> None:
    expected = transformers.MaskFormerImageProcessor(**SMALL)(pictures, return_tensors="pt")
    assert_equal(MaskFormerImageProcessor(**SMALL)(pictures, return_tensors="pt"), expected)


def test_without_an_ignore_index(pictures: list[Image.Image]) -> None:
    """The PIL class of transformers fails there as soon as an image is padded."""
    for backend in ("torchvision", "pil"):
        ours = MaskFormerImageProcessor(backend=backend, **SMALL)(pictures, MAPS)
        assert [labels.tolist() for labels in ours["class_labels"]] == [sorted(set(found.flat)) for found in MAPS]
    assert_equal(
        MaskFormerImageProcessor(**SMALL)(pictures, MAPS),
        transformers.MaskFormerImageProcessor(**SMALL)(pictures, segmentation_maps=[m.copy() for m in MAPS]),
    )
    with pytest.raises(ValueError, match="Unsupported format: None"):
        MaskFormerImageProcessorPil(**SMALL)(pictures, segmentation_maps=[m.copy() for m in MAPS])


def test_masks_mark_real_pixels_only(pictures: list[Image.Image]) -> None:
    """In transformers the padding of a mask is `ignore_index`, a target of 255 for a probability."""
    settings = {**SMALL, "ignore_index": 255}
    ours = MaskFormerImageProcessor(**settings)(pictures, MAPS, return_tensors="pt")
    theirs = transformers.MaskFormerImageProcessor(**settings)(pictures, segmentation_maps=[m.copy() for m in MAPS])
    assert max(float(masks.max()) for masks in theirs["mask_labels"]) == 255
    for masks, real in zip(ours["mask_labels"], ours["pixel_mask"], strict=True):
        assert set(masks.unique().tolist()) == {0, 1}
        assert torch.equal(masks.sum(0).long(), real)  # each real pixel in one segment, the others in none


@pytest.mark.parametrize("name", OURS)
def test_instance_maps(name: str, pictures: list[Image.Image]) -> None:
    ids = [patches(*shape, count=9) for shape in SHAPES]  # id 0 is background where labels are reduced, class or not
    shared = {segment: segment // 2 + 1 for segment in range(9)}
    each = [{segment: (segment + index) % 5 + 1 for segment in range(9)} for index in range(3)]
    for class_of in (shared, each):
        for labels in ({"ignore_index": 255}, {"ignore_index": 255, "do_reduce_labels": True}):
            ours, theirs = OURS[name](do_resize=False, **labels), THEIRS[name, "torchvision"](do_resize=False, **labels)
            expected = theirs(pictures, segmentation_maps=[m.copy() for m in ids], instance_id_to_semantic_id=class_of)
            assert_equal(ours(pictures, ids, class_of, compat=True), expected)
            for here, there in zip(
                ours(pictures, ids, class_of)["class_labels"], expected["class_labels"], strict=True
            ):
                assert torch.equal(here, there)


def labels_of(processor: Any, found: list[list[int]], class_of: dict[int, int] | None = None) -> list[int]:
    batch = processor(
        Image.new("RGB", (len(found[0]), len(found))),
        segmentation_maps=np.array(found),
        instance_id_to_semantic_id=class_of,
        do_resize=False,
        do_reduce_labels=True,
        ignore_index=255,
    )
    return batch["class_labels"][0].tolist()


@pytest.mark.parametrize(
    ("found", "class_of", "ours", "theirs"),
    [
        ([[0, 1, 2, 255]], None, [0, 1], [0, 1, 254]),  # the void of a map stays void
        ([[1, 2, 256, 0]], {1: 4, 2: 5, 256: 6}, [3, 4, 5], [3, 4]),  # an id is not a class
        ([[1, 2, 3, 0]], {1: 4, 2: 0, 3: 255}, [3], [3, -1, 254]),  # nor are background and void targets as classes
    ],
)
def test_what_is_background(
    found: list[list[int]], class_of: dict[int, int] | None, ours: list[int], theirs: list[int]
) -> None:
    assert labels_of(MaskFormerImageProcessor(), found, class_of) == ours
    assert labels_of(MaskFormerImageProcessor(compat=True), found, class_of) == theirs
    assert labels_of(transformers.MaskFormerImageProcessor(), found, class_of) == theirs


def test_labels_are_reduced_without_an_ignore_index() -> None:
    image, found = Image.new("RGB", (3, 1)), [[0, 1, 5]]
    processor = MaskFormerImageProcessor(do_resize=False, do_reduce_labels=True)
    assert processor(image, found)["class_labels"][0].tolist() == [0, 4]
    with pytest.raises(ValueError, match=r"needs ignore_index with compat=True, .*pass ignore_index=255"):
        processor(image, found, compat=True)


def test_ids_beyond_eight_bits_survive(pictures: list[Image.Image]) -> None:
    """The PIL backend of transformers refuses them; ours keeps them, up to 2^42 here."""
    ids = MAPS[0].astype(np.int64) * 1000
    for backend in ("torchvision", "pil"):
        ours = MaskFormerImageProcessor(backend=backend, **SMALL)(pictures[0], ids * 2**30)
        assert ours["class_labels"][0].tolist() == [number * 1000 * 2**30 for number in range(6)]
    with pytest.raises(ValueError, match="outside the range"):
        MaskFormerImageProcessorPil(ignore_index=255, **SMALL)(pictures[0], segmentation_maps=ids.copy())


@pytest.mark.parametrize("backend", ["torchvision", "pil"])
def test_maps_are_resized_as_images_by_nearest(backend: str) -> None:
    module: Any = pytest.importorskip("torchvision.transforms.v2.functional")
    rng = np.random.default_rng(3)
    for _ in range(30):
        height, width, new_height, new_width = (int(side) for side in rng.integers(1, 90, 4))
        found = rng.integers(0, 256, (height, width)).astype(np.uint8)
        if backend == "pil":
            expected = np.asarray(Image.fromarray(found).resize((new_width, new_height), 0))
        else:
            mode = module.InterpolationMode.NEAREST_EXACT
            expected = module.resize(torch.from_numpy(found)[None], [new_height, new_width], mode)[0].numpy()
        actual = resize_map(torch.from_numpy(found), (new_height, new_width), backend)
        np.testing.assert_array_equal(actual.numpy(), expected)


def test_maps_in_every_form(tmp_path: Path) -> None:
    image, found = Image.new("RGB", (30, 20)), patches(20, 30, count=3).astype(np.uint8)
    processor = MaskFormerImageProcessor(do_resize=False)
    expected = processor(image, found)
    palette = Image.fromarray(found).convert("P")
    palette.putdata(found.ravel().tolist())
    palette.save(tmp_path / "map.png")
    forms: list[Any] = [
        Image.fromarray(found),
        palette,
        tmp_path / "map.png",
        str(tmp_path / "map.png"),
        found.tolist(),
        [found.tolist()],
        [found],
        found[None],
        found[..., None],
        found[None, None],
        torch.from_numpy(found),
        torch.from_numpy(found).float(),
        found.astype(np.uint16),
        found.astype(np.float64),
        found.astype(">i4"),
        Image.fromarray(found.astype(np.int32)),
        Image.fromarray(found.astype(np.uint16)),
    ]
    for form in forms:
        assert_equal(processor(image, form), expected)
    twice = processor([image, image], np.stack([found, found]))
    assert torch.equal(twice["mask_labels"][1], expected["mask_labels"][0])
    assert torch.equal(processor(image, found > 0)["mask_labels"][0][0], expected["mask_labels"][0][0])


@pytest.mark.parametrize(
    ("maps", "error", "text"),
    [
        ([np.zeros((7, 9))], ValueError, r"There are 2 images and 1 segmentation maps; give one map for each image"),
        (np.zeros((2, 7, 8)), ValueError, r"Segmentation map 0 is 7x8 pixels \(height x width\), but its image is 7x9"),
        ([np.zeros((7, 9)), np.zeros((9, 7))], ValueError, r"Segmentation map 1 is 9x7 pixels"),
        (
            [np.zeros((7, 9)), np.full((7, 9), 0.5)],
            ValueError,
            r"segmentation_maps\[1\] has numbers that are not whole",
        ),
        ([np.full((7, 9), np.nan)] * 2, ValueError, r"segmentation_maps\[0\] has numbers that are not whole"),
        ([np.full((7, 9), np.inf)] * 2, ValueError, r"segmentation_maps\[0\] has numbers that are not whole"),
        (
            [np.zeros((7, 9)), Image.new("RGB", (9, 7))],
            ValueError,
            r"segmentation_maps\[1\] is a picture of mode 'RGB'",
        ),
        (
            [np.zeros((7, 9)), "no.png"],
            ValueError,
            r"segmentation_maps\[1\] is the path 'no.png', which cannot be read",
        ),
        (
            [np.zeros((7, 9)), {}],
            TypeError,
            r"segmentation_maps\[1\] is a dict; a segmentation map is a PIL image, an array",
        ),
        ([np.zeros((7, 9)), np.array([["a"]])], ValueError, r"segmentation_maps\[1\] is an array of <U1"),
        ([np.zeros((7, 9)), np.zeros((0, 9))], ValueError, r"segmentation_maps\[1\] has the shape \(0, 9\)"),
        ([1, 2, 3], ValueError, r"segmentation_maps has the shape \(3,\)"),
        ([[1, 2], [3]], ValueError, r"segmentation_maps has rows of different lengths"),
    ],
)
def test_wrong_maps(maps: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        MaskFormerImageProcessor(do_resize=False)([Image.new("RGB", (9, 7))] * 2, maps)


def test_wrong_mappings() -> None:
    images, maps = [Image.new("RGB", (4, 1))] * 2, [[[0, 1, 2, 255]], [[0, 1, 7, 255]]]
    processor = MaskFormerImageProcessor(do_resize=False, ignore_index=255, do_reduce_labels=True)
    for compat in (False, True):
        with pytest.raises(
            ValueError, match=r"Segmentation map 1 has the id 7, which .*; it has 1, 2, 255\. Add 7: class"
        ):
            processor(images, maps, {1: 1, 2: 1, 255: 1}, compat=compat)
    with pytest.raises(
        ValueError, match=r"must be a mapping \{id: class\} for all images, or a list with one for each of the 2"
    ):
        processor(images, maps, [{1: 1, 2: 1, 7: 1}])
    assert [labels.tolist() for labels in processor(images, maps, {1: 1, 2: 4, 7: 9})["class_labels"]] == [
        [0, 3],
        [0, 8],
    ]


def test_empty_maps() -> None:
    """An image of nothing but background has no targets, of the types that others have."""
    image = Image.new("RGB", (4, 2))
    batch = MaskFormerImageProcessor(do_resize=False, ignore_index=255)(image, np.full((2, 4), 255))
    masks, classes = batch["mask_labels"][0], batch["class_labels"][0]
    assert (tuple(masks.shape), masks.dtype, tuple(classes.shape), classes.dtype) == (
        (0, 2, 4),
        torch.float32,
        (0,),
        torch.int64,
    )


@pytest.mark.parametrize("name", OURS)
def test_an_int_is_the_shortest_edge_and_the_limit_stays(name: str) -> None:
    """As in transformers 4.57 (numbers from there); 5.23 fails at the call."""
    long = np.zeros((100, 400, 3), np.uint8)
    make = OURS[name]
    assert make(size=512).size == {"shortest_edge": 512, "longest_edge": 1333}
    assert make(size=512, max_size=900).size == {"shortest_edge": 512, "longest_edge": 900}
    assert make(max_size=900).size == {"shortest_edge": 800, "longest_edge": 900}
    assert make(size={"shortest_edge": 30}, max_size=90).size == {"shortest_edge": 30, "longest_edge": 90}
    assert make(size=512)(long)["pixel_values"][0].shape == (3, 352, 1344)
    assert make()(long, size=512)["pixel_values"][0].shape == (3, 352, 1344)
    assert make(max_size=900)(long, size=512)["pixel_values"][0].shape == (3, 256, 928)
    assert make()(long, size=512, max_size=900)["pixel_values"][0].shape == (3, 256, 928)
    processor = make(max_size=900)
    processor.size = 100
    assert processor.size == {"shortest_edge": 100, "longest_edge": 900}
    with pytest.raises(ValueError, match="Size must contain"):
        THEIRS[name, "torchvision"](size=512)(long)


def test_pad_size_at_a_call() -> None:
    """Refused there by transformers 5.23."""
    image = np.zeros((40, 50, 3), np.uint8)
    batch = MaskFormerImageProcessor(do_resize=False)(image, np.ones((40, 50)), pad_size={"height": 64, "width": 60})
    assert batch["pixel_values"][0].shape == (3, 64, 60)
    assert batch["mask_labels"][0].shape == (1, 64, 60)
    assert int(batch["pixel_mask"][0].sum()) == int(batch["mask_labels"][0].sum()) == 2000
    with pytest.raises(Exception, match="pad_size"):
        transformers.MaskFormerImageProcessor(do_resize=False)(image, pad_size={"height": 64, "width": 60})
    with pytest.raises(ValueError, match="Image 0 is 40x50 pixels and does not fit pad_size=32x64"):
        MaskFormerImageProcessor(do_resize=False)(image, pad_size=[32, 64])


def test_encode_inputs_pads_what_is_transformed(pictures: list[Image.Image]) -> None:
    processor = MaskFormerImageProcessor(**SMALL, size_divisor=1, ignore_index=3)
    resized = MaskFormerImageProcessor(**SMALL, size_divisor=1, do_normalize=False, do_rescale=False)
    pixels = [processor(picture)["pixel_values"][0] for picture in pictures]
    maps = [resize_map(torch.from_numpy(m), p.shape[-2:], "torchvision") for m, p in zip(MAPS, pixels, strict=True)]
    assert_equal(
        processor.encode_inputs(pixels, maps, return_tensors="pt"), processor(pictures, MAPS, return_tensors="pt")
    )
    assert resized.encode_inputs(pixels, ignore_index=3).keys() == {"pixel_values", "pixel_mask"}


OLD = {
    "feature_extractor_type": "MaskFormerFeatureExtractor",
    "size": 640,
    "max_size": 2560,
    "reduce_labels": True,
    "ignore_index": 255,
    "size_divisibility": 16,
}
V4 = {
    "_max_size": 1333,
    "do_normalize": True,
    "ignore_index": 255,
    "image_processor_type": "Mask2FormerImageProcessor",
    "num_labels": 150,
    "pad_size": None,
    "reduce_labels": True,
    "size": {"longest_edge": 1000, "shortest_edge": 600},
    "size_divisor": 32,
}
FAST = {
    "crop_size": None,
    "data_format": "channels_first",
    "default_to_square": False,
    "do_pad": True,
    "do_reduce_labels": True,
    "ignore_index": 255,
    "image_processor_type": "MaskFormerImageProcessorFast",
    "size": {"longest_edge": 1333, "shortest_edge": 800},
    "size_divisor": 32,
}


@pytest.mark.parametrize(
    ("stored", "name", "expected"),
    [
        (OLD, "MaskFormer", {"size": {"shortest_edge": 640, "longest_edge": 2560}, "size_divisor": 16}),
        (V4, "Mask2Former", {"size": {"shortest_edge": 600, "longest_edge": 1000}, "num_labels": 150}),
        (FAST, "MaskFormer", {"backend": "torchvision", "do_pad": True}),
        ({"image_processor_type": "Mask2FormerImageProcessorPil", "reduce_labels": True}, "Mask2Former", {"backend": "pil"}),
        ({"image_processor_type": "MaskFormerImageProcessor", "size": 500, "_max_size": 700, "reduce_labels": True},
         "MaskFormer", {"size": {"shortest_edge": 500, "longest_edge": 700}}),
    ],
)  # fmt: skip
def test_files_of_all_ages(tmp_path: Path, stored: dict[str, Any], name: str, expected: dict[str, Any]) -> None:
    """5.23 and 4.57 forget `reduce_labels` and `size_divisibility`."""
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stored))
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(processor) is OURS[name]
    assert processor.do_reduce_labels is True
    assert {key: getattr(processor, key) for key in expected} == expected
    override = AutoImageProcessor.from_pretrained(tmp_path, max_size=777)
    assert override.size["longest_edge"] == 777
    processor.save_pretrained(tmp_path / "again")
    again = AutoImageProcessor.from_pretrained(tmp_path / "again")
    assert again.to_dict() == processor.to_dict()
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path / "again")
    assert {key: theirs.to_dict()[key] for key in ("do_reduce_labels", "size_divisor")} == {
        key: processor.to_dict()[key] for key in ("do_reduce_labels", "size_divisor")
    }
    assert dict(theirs.size) == dict(processor.size)


@pytest.mark.parametrize("name", OURS)
def test_what_transformers_saves(tmp_path: Path, name: str, pictures: list[Image.Image]) -> None:
    theirs = THEIRS[name, "torchvision"](**SMALL, ignore_index=255, do_reduce_labels=True, num_labels=5)
    theirs.save_pretrained(tmp_path)
    ours = AutoImageProcessor.from_pretrained(tmp_path)
    assert_equal(ours(pictures, MAPS, compat=True), theirs(pictures, segmentation_maps=[m.copy() for m in MAPS]))


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        (
            {"reduce_labels": True, "do_reduce_labels": False},
            ValueError,
            r"reduce_labels=True is the old name of do_reduce",
        ),
        ({"ignore_index": 2.5}, ValueError, r"ignore_index=2\.5 must be a whole number\."),
        ({"size_divisor": -1}, ValueError, r"size_divisor=-1 must be a whole number, from 0"),
        ({"num_labels": 0}, ValueError, r"num_labels=0 must be a whole number, from 1"),
        ({"compat": "yes"}, TypeError, r"compat='yes' is a str; give True or False"),
        ({"max_size": -5}, ValueError, r"size\['longest_edge'\]=-5 is not a positive whole number"),
        ({"ignore_indx": 3}, TypeError, r"unknown setting 'ignore_indx'\. Did you mean 'ignore_index'"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        MaskFormerImageProcessor(**settings)
    with pytest.raises(error, match=text):
        MaskFormerImageProcessor()(Image.new("RGB", (9, 7)), **settings)


def test_nothing_is_cropped() -> None:
    with pytest.raises(ValueError, match=r"do_center_crop=True: Mask2FormerImageProcessor does not crop"):
        Mask2FormerImageProcessor()(Image.new("RGB", (9, 7)), do_center_crop=True, crop_size=4)


def test_channels_last_and_another_backend_for_a_call(pictures: list[Image.Image]) -> None:
    first = MaskFormerImageProcessor(**SMALL, backend="pil")(pictures, MAPS, return_tensors="pt")
    last = MaskFormerImageProcessor(**SMALL)(
        pictures, MAPS, return_tensors="pt", backend="pil", data_format="channels_last"
    )
    assert torch.equal(last["pixel_values"].permute(0, 3, 1, 2), first["pixel_values"])
    assert torch.equal(last["mask_labels"][1], first["mask_labels"][1])
