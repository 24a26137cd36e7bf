"""Pictures of segmentations: what is coloured, what is not, and what is written."""

import time
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vertebra.image_processing.drawing import draw_segmentation, palette_colour

GREY = np.full((60, 90, 3), 128, np.uint8)


def halves(left: int, right: int) -> Any:
    ids = np.full((60, 90), right)
    ids[:, :45] = left
    return ids


def colour_at(picture: Image.Image, row: int, column: int) -> tuple[int, ...]:
    return tuple(picture.getpixel((column, row)))


def test_the_colour_of_a_class_is_mixed_with_the_photo() -> None:
    picture = draw_segmentation(GREY, halves(0, 3), alpha=0.5)
    for column, label in ((10, 0), (80, 3)):
        expected = [(128 + part) / 2 for part in palette_colour(label)]
        assert np.abs(np.subtract(colour_at(picture, 30, column), expected)).max() <= 0.5


def test_ignored_classes_and_unknown_segments_stay_as_they_are() -> None:
    assert colour_at(draw_segmentation(GREY, halves(255, 1)), 30, 10) == (128, 128, 128)
    assert colour_at(draw_segmentation(GREY, halves(2, 1), ignore=(2,)), 30, 10) == (128, 128, 128)
    picture = draw_segmentation(GREY, halves(7, 0), [{"id": 7, "label_id": 1}])
    assert colour_at(picture, 30, 80) == (128, 128, 128)
    assert colour_at(picture, 30, 10) != (128, 128, 128)


def test_objects_of_one_class_can_be_told_apart() -> None:
    picture = draw_segmentation(GREY, halves(1, 2), [{"id": 1, "label_id": 4}, {"id": 2, "label_id": 4}])
    assert np.abs(np.subtract(colour_at(picture, 30, 10), colour_at(picture, 30, 80))).max() > 20


def test_classes_can_be_told_apart() -> None:
    colours = np.array([palette_colour(label) for label in range(40)], float)
    apart = np.linalg.norm(colours[:, None] - colours[None], axis=-1)[~np.eye(40, dtype=bool)]
    assert apart.min() > 10


def test_outlines_lie_between_segments() -> None:
    picture = np.asarray(draw_segmentation(GREY, halves(1, 2)), int).sum(-1)
    assert (picture[:, 44] < 0.5 * picture[:, 40]).all()
    assert (picture[:, 46] == picture[:, 80]).all()


def test_names_are_written_inside_the_picture() -> None:
    plain = np.asarray(draw_segmentation(GREY, halves(1, 2)))
    named = np.asarray(draw_segmentation(GREY, halves(1, 2), labels={1: "a rather long name", 2: "cat"}))
    assert named.shape == plain.shape
    for columns in (slice(0, 40), slice(50, 90)):
        assert (named[:, columns] == 255).all(-1).any()
    assert (draw_segmentation(GREY, halves(1, 2), labels=["x", "y"]).size) == (90, 60)


def test_every_form_of_input_gives_the_same_picture() -> None:
    ids = halves(1, 2)
    pictures = [
        draw_segmentation(GREY, ids),
        draw_segmentation(Image.fromarray(GREY), torch.from_numpy(ids)),
        draw_segmentation(torch.from_numpy(GREY), ids.astype(np.uint8)),
        draw_segmentation(Image.fromarray(GREY).convert("L"), ids.astype(np.float32)),
    ]
    for picture in pictures[1:]:
        assert np.array_equal(np.asarray(picture), np.asarray(pictures[0]))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((GREY, np.zeros((60, 91))), r"shape \(60, 91\) does not fit an image of 60 x 90 pixels .*target_sizes"),
        ((GREY, halves(0, 1), None, None), "alpha=2 must be between 0"),
        ((GREY / 255.0, halves(0, 1)), r"shape \(60, 90, 3\) and dtype float64 must be \(height, width, 3\) of uint8"),
        ((GREY, halves(0, 1), [{"id": 1}]), "has an entry without label_id"),
    ],
)
def test_bad_input(arguments: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        draw_segmentation(*arguments, alpha=2 if "alpha" in text else 0.5)


def test_scores_are_no_segmentation() -> None:
    photo = np.zeros((4, 4, 3), np.uint8)
    for value in (0.5, np.nan):
        with pytest.raises(ValueError, match="no whole numbers; it is a map of classes or ids, not of scores"):
            draw_segmentation(photo, np.full((4, 4), value))


def test_many_segments_take_no_longer_than_few() -> None:
    """Only the part of the picture where a segment lies is searched for room for its name: 3000 took 24 s."""
    ids = np.arange(300 * 300).reshape(300, 300) // 30
    segments = [{"id": index, "label_id": index % 5} for index in range(3000)]
    started = time.perf_counter()
    draw_segmentation(np.zeros((300, 300, 3), np.uint8), ids, segments, {index: str(index) for index in range(5)})
    assert time.perf_counter() - started < 3
