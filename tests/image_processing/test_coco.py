"""COCO's encodings against a reference in plain Python, texts that pycocotools 2.0.11 wrote, and annotations."""

from __future__ import annotations

import json
from itertools import groupby
from typing import Any

import numpy as np
import pytest
import torch
from labelled import labelled_photo

from vertebra.image_processing.coco import coco_annotations, decode_rle, encode_rle, rle_area, rle_box


def counts_by_hand(mask: np.ndarray[Any, Any]) -> list[int]:
    runs = [(bool(value), len(list(pixels))) for value, pixels in groupby(mask.ravel(order="F").tolist())]
    return ([0] if runs and runs[0][0] else []) + [length for _, length in runs]


def box_by_hand(mask: np.ndarray[Any, Any]) -> list[float]:
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return [0.0] * 4
    height, width = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
    return [float(columns.min()), float(rows.min()), float(width), float(height)]


def masks(count: int = 60) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    made = []
    for index in range(count):
        height, width = rng.integers(1, 40, 2)
        mask = rng.random((height, width)) < (0.0, 1.0, 0.5, 0.02, 0.98)[index % 5]
        if index % 3 == 0:  # a box, also at the borders
            mask[:] = False
            top, left = rng.integers(0, height), rng.integers(0, width)
            mask[top : top + rng.integers(1, 40), left : left + rng.integers(1, 40)] = True
        made.append(mask)
    return made


@pytest.mark.parametrize("index", range(60))
def test_round_trip_and_reference(index: int) -> None:
    mask = masks()[index]
    for kind in (mask, torch.from_numpy(mask), mask.astype(np.uint8), torch.from_numpy(mask).float()):
        rle = encode_rle(kind)
        assert rle == {"size": list(mask.shape), "counts": counts_by_hand(mask)}
    np.testing.assert_array_equal(decode_rle(rle).numpy(), mask)
    text = encode_rle(mask, compressed=True)
    assert isinstance(text["counts"], str)
    for either in (text, {**text, "counts": text["counts"].encode()}):
        np.testing.assert_array_equal(decode_rle(either).numpy(), mask)
        assert (rle_area(either), rle_box(either)) == (mask.sum(), box_by_hand(mask))
    assert (rle_area(rle), rle_box(rle)) == (mask.sum(), box_by_hand(mask))


@pytest.mark.parametrize(
    ("counts", "size", "text"),
    [
        ([12], [3, 4], "<"),
        ([0, 12], [3, 4], "0<"),
        ([2, 2, 1, 1, 1, 2, 1, 1, 2, 4, 1, 3, 1, 1, 1], [4, 6], "221O010O13OO0N0"),
        (
            [48037, *[168, 312] * 9, 168, 91515, *[160, 320] * 3, 160, 161560],
            [480, 640],
            "Um^1X5h900000000000000000SRi2HUnVM00000h^m4",
        ),
    ],
)
def test_texts_of_pycocotools(counts: list[int], size: list[int], text: str) -> None:
    mask = decode_rle({"size": size, "counts": counts})
    assert encode_rle(mask) == {"size": size, "counts": counts}
    assert encode_rle(mask, compressed=True)["counts"] == text
    assert torch.equal(decode_rle({"size": size, "counts": text}), mask)


def test_a_real_photos_objects() -> None:
    _, objects = labelled_photo()
    truth = objects["masks"].numpy().astype(bool)
    segments = [{"id": i, "label_id": int(label), "score": 1.0} for i, label in enumerate(objects["labels"])]
    found = coco_annotations([{"segmentation": objects["masks"], "segments_info": segments}], [7], first_id=100)
    assert [entry["id"] for entry in found] == list(range(100, 100 + len(truth)))
    for entry, mask in zip(found, truth, strict=True):
        assert (entry["area"], entry["bbox"]) == (mask.sum(), box_by_hand(mask))
        np.testing.assert_array_equal(decode_rle(entry["segmentation"]).numpy(), mask)


SEGMENTS = [
    {"id": 4, "label_id": 2, "was_fused": False, "score": 0.9},
    {"id": 9, "label_id": 0, "was_fused": True, "score": 0.5},
]
IDS = torch.tensor([[0, 4, 4], [9, 4, 0]], dtype=torch.int32)
STACK = torch.stack([IDS == 4, IDS == 9])


@pytest.mark.parametrize("segmentation", [IDS, STACK, STACK.float(), [encode_rle(mask) for mask in STACK]])
@pytest.mark.parametrize("compressed", [False, True])
def test_annotations(segmentation: Any, compressed: bool) -> None:
    empty = {"segmentation": torch.zeros(2, 3, dtype=torch.int32), "segments_info": []}
    results = [empty, {"segmentation": segmentation, "segments_info": SEGMENTS}]
    found = coco_annotations(results, ["a", "b"], {0: 17, 2: 3}, compressed=compressed)
    assert json.loads(json.dumps(found)) == found
    rest = {"iscrowd": 0, "image_id": "b"}
    counts: list[Any] = ["231", "114"] if compressed else [[2, 3, 1], [1, 1, 4]]
    assert found == [
        {"id": 1, "category_id": 3, "segmentation": {"size": [2, 3], "counts": counts[0]}, "bbox": [1, 0, 2, 2],
         "area": 3, "score": 0.9, **rest},
        {"id": 2, "category_id": 17, "segmentation": {"size": [2, 3], "counts": counts[1]}, "bbox": [0, 1, 1, 1],
         "area": 1, "score": 0.5, **rest},
    ]  # fmt: skip
    assert [entry["image_id"] for entry in coco_annotations(results)] == [1, 1]
    assert [entry["category_id"] for entry in coco_annotations(results)] == [2, 0]


def test_what_is_wrong_is_named() -> None:
    results = [{"segmentation": IDS, "segments_info": SEGMENTS}]
    with pytest.raises(ValueError, match=r"There are 1 results and 2 image_ids"):
        coco_annotations(results, [1, 2])
    with pytest.raises(ValueError, match=r"no category for label 0 of results\[0\]; add 0: category"):
        coco_annotations(results, category_ids={2: 3})
    for segmentation in (STACK[:1], [[1, 2], [3, 4]]):
        with pytest.raises(ValueError, match=r"results\[0\] has 2 segments, and a segmentation that is neither"):
            coco_annotations([{"segmentation": segmentation, "segments_info": SEGMENTS}])
    with pytest.raises(ValueError, match=r"The runs of this encoding have 5 pixels, but its size 2x3 has 6"):
        decode_rle({"size": [2, 3], "counts": [2, 3]})
    with pytest.raises(ValueError, match=r"A mask is \(height, width\); this one has the shape \(2, 2, 3\)"):
        encode_rle(STACK)
