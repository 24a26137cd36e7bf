"""Post-processing of queries: transformers' results where it is right, and its defects beside ours where it is not."""

from __future__ import annotations

import itertools
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vertebra.image_processing import upsampling
from vertebra.image_processing.coco import coco_annotations, decode_rle, encode_rle
from vertebra.image_processing.mask2former import Mask2FormerImageProcessor
from vertebra.image_processing.maskformer import MaskFormerImageProcessor
from vertebra.image_processing.strongest import contenders, strongest
from vertebra.image_processing.upsampling import Nearest

transformers.logging.set_verbosity_error()

OURS: dict[str, Any] = {"MaskFormer": MaskFormerImageProcessor(), "Mask2Former": Mask2FormerImageProcessor()}
THEIRS: dict[str, Any] = {
    "MaskFormer": transformers.MaskFormerImageProcessor(),
    "Mask2Former": transformers.Mask2FormerImageProcessor(),
}
SIZES: dict[str, Any] = {
    "none": None,
    "larger": [(100, 150), (61, 33)],
    "same and smaller": [(24, 40), (10, 17)],
    "tensor": torch.tensor([[130, 97], [5, 5]]),
}
THRESHOLDS = [(0.5, 0.5, 0.8), (0.2, 0.3, 0.3), (0.0, 0.5, 0.0), (0.9, 0.7, 0.5)]


def random_outputs(seed: int = 0, batch: int = 2, queries: int = 15, classes: int = 7) -> SimpleNamespace:
    """Patches of masks with grain, and classes that are quite sure."""
    generator = torch.Generator().manual_seed(seed)
    rough = F.interpolate(3 * torch.randn(batch, queries, 5, 8, generator=generator), size=(24, 40), mode="bicubic")
    return SimpleNamespace(
        class_queries_logits=3 * torch.randn(batch, queries, classes + 1, generator=generator),
        masks_queries_logits=rough + 0.3 * torch.randn(batch, queries, 24, 40, generator=generator),
    )


def outputs_of(*objects: tuple[Tensor, int, float], classes: int = 3) -> SimpleNamespace:
    """Outputs for one image: for each object its mask (or mask logits), its class, and the class's probability."""
    probabilities = torch.full((1, len(objects), classes + 1), 1e-9)
    masks = []
    for index, (mask, label, score) in enumerate(objects):
        probabilities[0, index, label] = score
        probabilities[0, index, -1] = 1 - score
        masks.append(mask.float() * 40 - 20 if mask.dtype == torch.bool else mask)
    return SimpleNamespace(class_queries_logits=probabilities.log(), masks_queries_logits=torch.stack(masks)[None])


def box(top: int, bottom: int, left: int, right: int, size: tuple[int, int] = (8, 8)) -> Tensor:
    mask = torch.zeros(size, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def tuples(sizes: Any) -> Any:
    return None if sizes is None else [tuple(map(int, size)) for size in sizes]


def assert_same(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    for here, there in zip(ours, theirs, strict=True):
        assert here["segments_info"] == there["segments_info"]
        here, there = here["segmentation"], there["segmentation"]
        if isinstance(there, Tensor):
            assert here.dtype == there.dtype
            assert torch.equal(here, there)
        else:
            assert here == there


SEEDS = {"MaskFormer": range(3), "Mask2Former": range(1)}  # transformers takes its time on 384 x 384 pixels
FORMS: list[dict[str, bool]] = [{}, {"return_coco_annotation": True}, {"return_binary_maps": True}]


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize(("name", "seed"), [(name, seed) for name, seeds in SEEDS.items() for seed in seeds])
class TestEqualsTransformers:
    def test_semantic(self, name: str, seed: int, sizes: Any) -> None:
        outputs, ours = random_outputs(seed), OURS[name]
        theirs = THEIRS[name].post_process_semantic_segmentation(outputs, tuples(sizes), True)
        for compat in {True, name == "Mask2Former"}:  # MaskFormer's is the same either way
            maps = ours.post_process_semantic_segmentation(outputs, sizes, compat=compat)
            full = ours.post_process_semantic_segmentation(outputs, sizes, True, compat=compat)
            for here, mine, there in zip(maps, full, theirs, strict=True):
                assert here.dtype == torch.int64
                assert torch.equal(here, there.segmentation)
                assert torch.equal(mine.segmentation, there["segmentation"])
                assert torch.equal(mine.segmentation_scores, there.segmentation_scores)

    def test_panoptic(self, name: str, seed: int, sizes: Any) -> None:
        outputs, ours = random_outputs(seed), OURS[name]
        for thresholds, fused in itertools.product(THRESHOLDS, [set(), {0, 1, 2}]):
            theirs = THEIRS[name].post_process_panoptic_segmentation(outputs, *thresholds, fused, tuples(sizes))
            assert_same(
                ours.post_process_panoptic_segmentation(outputs, *thresholds, fused, sizes, compat=True), theirs
            )
            if name == "MaskFormer" and not fused and theirs[0]["segments_info"] and theirs[1]["segments_info"]:
                assert_same(ours.post_process_panoptic_segmentation(outputs, *thresholds, fused, sizes), theirs)

    def test_instance(self, name: str, seed: int, sizes: Any) -> None:
        outputs = random_outputs(seed)
        for thresholds, form in zip(THRESHOLDS, [*FORMS, {}], strict=True):
            call: dict[str, Any] = {"target_sizes": tuples(sizes), **form}
            theirs = THEIRS[name].post_process_instance_segmentation(outputs, *thresholds, **call)
            call = {"target_sizes": sizes, **form, "compat": True}
            assert_same(OURS[name].post_process_instance_segmentation(outputs, *thresholds, **call), theirs)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("seed", range(3))
def test_instance_without_compat(seed: int, sizes: Any) -> None:
    """With thresholds that say what transformers does: the same objects, scores and whole masks."""
    outputs = random_outputs(seed)
    for threshold in (0.0, 0.2, 0.5):
        call = {"target_sizes": tuples(sizes), "return_binary_maps": True}
        theirs = THEIRS["MaskFormer"].post_process_instance_segmentation(outputs, threshold, **call)
        ours = OURS["MaskFormer"].post_process_instance_segmentation(outputs, threshold, 0.5, 0.0, **call)
        for here, there in zip(ours, theirs, strict=True):
            assert here["segments_info"] == there["segments_info"]
            assert torch.equal(here["segmentation"].float(), there["segmentation"])


def test_some_of_these_results_are_not_empty() -> None:
    """So that the equalities above say something."""
    outputs = random_outputs()
    found = OURS["MaskFormer"].post_process_panoptic_segmentation(outputs, 0.2, 0.3, 0.3, {0, 1, 2}, compat=True)
    assert sum(len(one["segments_info"]) for one in found) > 4
    assert any(segment["was_fused"] for one in found for segment in one["segments_info"])
    found = OURS["MaskFormer"].post_process_instance_segmentation(outputs, 0.2, 0.5, 0.2)
    assert sum(len(one["segments_info"]) for one in found) > 2


# Panoptic: ids.

THINGS_AND_STUFF = outputs_of(
    (box(0, 2, 0, 8), 0, 0.9), (box(2, 4, 0, 8), 1, 0.8), (box(4, 6, 0, 8), 0, 0.95), (box(6, 8, 0, 8), 1, 0.7)
)


def test_ids_do_not_collide_after_a_fused_class() -> None:
    """Issue 23461 of transformers: segments of class 0 fused, then the last one of class 1 gets an id that is taken."""
    (theirs,) = THEIRS["MaskFormer"].post_process_panoptic_segmentation(THINGS_AND_STUFF, label_ids_to_fuse={0})
    assert [(one["id"], one["label_id"]) for one in theirs["segments_info"]] == [(1, 0), (2, 1), (1, 0), (2, 1)]
    assert theirs["segmentation"][:, 0].tolist() == [1, 1, 2, 2, 1, 1, 2, 2]
    (ours,) = OURS["MaskFormer"].post_process_panoptic_segmentation(THINGS_AND_STUFF, label_ids_to_fuse={0})
    assert ours["segments_info"] == [
        {"id": 1, "label_id": 0, "was_fused": True, "score": 0.95},
        {"id": 2, "label_id": 1, "was_fused": False, "score": 0.8},
        {"id": 3, "label_id": 1, "was_fused": False, "score": 0.7},
    ]
    assert ours["segmentation"][:, 0].tolist() == [1, 1, 2, 2, 1, 1, 3, 3]
    (compat,) = OURS["MaskFormer"].post_process_panoptic_segmentation(
        THINGS_AND_STUFF, label_ids_to_fuse={0}, compat=True
    )
    assert_same([compat], [theirs])


@pytest.mark.parametrize("seed", range(20))
def test_ids_are_those_of_the_map(seed: int) -> None:
    found = OURS["MaskFormer"].post_process_panoptic_segmentation(
        random_outputs(seed, queries=30, classes=4), 0.2, 0.3, 0.1, [0, 1], [(33, 44), (24, 40)]
    )
    for one in found:
        ids = [segment["id"] for segment in one["segments_info"]]
        assert ids == list(range(1, len(ids) + 1)) == sorted(set(one["segmentation"].unique().tolist()) - {0})
        fused = [segment["label_id"] for segment in one["segments_info"] if segment["was_fused"]]
        assert len(fused) == len(set(fused))
        assert set(fused) <= {0, 1}


# Instance: thresholds.

COVERED = outputs_of((box(0, 8, 0, 4), 0, 0.9), (box(0, 8, 2, 6), 1, 0.8), (box(0, 8, 3, 5), 2, 0.7))
"""The second keeps half of its area, the third nothing."""


def kept(outputs: Any, processor: Any, *thresholds: float, **more: Any) -> list[int]:
    (found,) = processor.post_process_instance_segmentation(outputs, *thresholds, **more)
    return sorted(segment["label_id"] for segment in found["segments_info"])


@pytest.mark.parametrize(
    ("overlap", "labels"), [(0.0, [0, 1, 2]), (0.01, [0, 1]), (0.5, [0, 1]), (0.51, [0, 2]), (0.8, [0]), (1.0, [0])]
)
@pytest.mark.parametrize("size", [None, [(8, 8)], [(16, 24)]])
def test_the_overlap_threshold_counts(overlap: float, labels: list[int], size: Any) -> None:
    """Nobody reads it in transformers. Where the second is dropped, the third has half of its area again."""
    assert kept(COVERED, THEIRS["MaskFormer"], 0.5, 0.5, overlap, target_sizes=size) == [0, 1, 2]
    assert kept(COVERED, OURS["MaskFormer"], 0.5, 0.5, overlap, target_sizes=size, compat=True) == [0, 1, 2]
    expected = labels if overlap != 0.51 else [0]
    assert kept(COVERED, OURS["MaskFormer"], 0.5, 0.5, overlap, target_sizes=size) == expected


def test_areas_are_counted_at_the_target_size() -> None:
    """At 6 x 8 pixels other rows remain than of 8 x 8, and so another share of an object that is covered in part."""
    outputs = outputs_of((box(0, 4, 0, 8), 0, 0.9), (box(2, 8, 0, 8), 1, 0.8))
    rows = F.interpolate(torch.arange(8.0).view(1, 1, 8, 1), size=(6, 1)).flatten()
    share = int((rows >= 4).sum()) / int((rows >= 2).sum())
    assert share != 4 / 6
    for overlap, labels in ((share, [0, 1]), (share + 1e-6, [0])):
        assert kept(outputs, OURS["MaskFormer"], 0.5, 0.5, overlap, target_sizes=[(6, 8)]) == labels


def test_the_mask_threshold_counts() -> None:
    """Nobody reads it in transformers: the mask of probabilities 0.3, 0.6 and 0.9 is always where they exceed 0.5."""
    probabilities = torch.tensor([0.3, 0.6, 0.9, 0.01]).repeat(4, 1)
    outputs = outputs_of((probabilities.logit(), 1, 0.99))
    for threshold, columns, mean in ((0.0, 4, 0.4525), (0.2, 3, 0.6), (0.5, 2, 0.75), (0.7, 1, 0.9)):
        call = {"mask_threshold": threshold, "return_binary_maps": True}
        (ours,) = OURS["MaskFormer"].post_process_instance_segmentation(outputs, 0.1, **call)
        assert ours["segmentation"][0, 0].tolist() == (
            [True] * 4 if columns == 4 else [p > threshold for p in (0.3, 0.6, 0.9, 0.01)]
        )
        assert ours["segments_info"][0]["score"] == pytest.approx(0.99 * mean, abs=2e-6)
        (theirs,) = THEIRS["MaskFormer"].post_process_instance_segmentation(outputs, 0.1, **call)
        assert theirs["segmentation"][0, 0].tolist() == [0, 1, 1, 0]
        (compat,) = OURS["MaskFormer"].post_process_instance_segmentation(outputs, 0.1, **call, compat=True)
        assert_same([compat], [theirs])
    assert kept(outputs, OURS["MaskFormer"], 0.1, 1.0) == []


def test_the_better_score_has_the_pixel() -> None:
    """In transformers it is the later one of a list that is in no order."""
    objects = [(box(0, 8, 0, 5), 0, 0.9), (box(0, 8, 3, 8), 1, 0.8)]
    rows = {}
    for name, outputs in (("first", outputs_of(*objects)), ("last", outputs_of(*reversed(objects)))):
        for side, processor in (("ours", OURS["MaskFormer"]), ("theirs", THEIRS["MaskFormer"])):
            (found,) = processor.post_process_instance_segmentation(outputs, overlap_mask_area_threshold=0.0)
            label_of = {segment["id"]: segment["label_id"] for segment in found["segments_info"]}
            rows[side, name] = [label_of[int(number)] for number in found["segmentation"][0]]
    assert rows["ours", "first"] == rows["ours", "last"] == [0, 0, 0, 0, 0, 1, 1, 1]
    assert [0, 0, 0, 1, 1, 1, 1, 1] in (rows["theirs", "first"], rows["theirs", "last"])


# Forms of results.


def test_coco_is_coco() -> None:
    """What transformers returns has a run list too many, for the background, and runs along rows from 1."""
    outputs = outputs_of((box(1, 3, 2, 4), 0, 0.9), (box(4, 8, 0, 8), 2, 0.8))
    call = {"target_sizes": [(8, 8)], "return_coco_annotation": True}
    (theirs,) = THEIRS["MaskFormer"].post_process_instance_segmentation(outputs, **call)
    assert len(theirs["segments_info"]) == 2
    assert len(theirs["segmentation"]) == 3
    assert [11, 2, 19, 2] in theirs["segmentation"]
    (ours,) = OURS["MaskFormer"].post_process_instance_segmentation(outputs, **call)
    found = {s["label_id"]: rle for s, rle in zip(ours["segments_info"], ours["segmentation"], strict=True)}
    assert found == {0: encode_rle(box(1, 3, 2, 4)), 2: encode_rle(box(4, 8, 0, 8))}
    assert found[0] == {"size": [8, 8], "counts": [17, 2, 6, 2, 37]}
    by_label = {entry["category_id"]: entry for entry in coco_annotations([ours], [5])}
    assert (by_label[2]["bbox"], by_label[2]["area"]) == ([0, 4, 8, 4], 32)


def test_objects_overlap_in_binary_maps_and_encodings() -> None:
    call = {"overlap_mask_area_threshold": 0.3, "target_sizes": [(16, 8)]}
    (maps,) = OURS["MaskFormer"].post_process_instance_segmentation(COVERED, **call, return_binary_maps=True)
    (runs,) = OURS["MaskFormer"].post_process_instance_segmentation(COVERED, **call, return_coco_annotation=True)
    (ids,) = OURS["MaskFormer"].post_process_instance_segmentation(COVERED, **call)
    assert maps["segments_info"] == runs["segments_info"] == ids["segments_info"]
    assert torch.equal(torch.stack([decode_rle(rle) for rle in runs["segmentation"]]), maps["segmentation"])
    assert maps["segmentation"].sum((1, 2)).tolist() == [64, 64]
    assert sorted((ids["segmentation"] == number).sum().item() for number in (0, 1)) == [32, 64]


@pytest.mark.parametrize("size", [None, [(17, 9)]])
def test_empty_results_are_typed_like_full_ones(size: Any) -> None:
    nothing = outputs_of((box(0, 8, 0, 8), 0, 1e-3))
    something = outputs_of((box(0, 8, 0, 4), 0, 0.9))
    shape = (17, 9) if size else (8, 8)
    ours, theirs = OURS["MaskFormer"], THEIRS["MaskFormer"]
    for method, background in (("panoptic", 0), ("instance", -1)):
        call = f"post_process_{method}_segmentation"
        (empty,), (full,) = (getattr(ours, call)(outputs, target_sizes=size) for outputs in (nothing, something))
        assert empty["segments_info"] == []
        assert empty["segmentation"].shape == full["segmentation"].shape == shape
        assert empty["segmentation"].dtype == full["segmentation"].dtype == torch.int32
        assert empty["segmentation"].unique().tolist() == [background]
        assert method == "panoptic" or background in full["segmentation"]
        assert_same(
            getattr(ours, call)(nothing, target_sizes=size, compat=True),
            getattr(theirs, call)(nothing, target_sizes=size),
        )
    (panoptic,) = theirs.post_process_panoptic_segmentation(nothing, target_sizes=size)
    assert (panoptic["segmentation"].dtype, panoptic["segmentation"][0, 0]) == (torch.float32, -1)
    for form, empty_form in (({"return_binary_maps": True}, (0, *shape)), ({"return_coco_annotation": True}, [])):
        (empty,), (full,) = (
            ours.post_process_instance_segmentation(outputs, target_sizes=size, **form)
            for outputs in (nothing, something)
        )
        if isinstance(empty_form, list):
            assert empty["segmentation"] == empty_form
        else:
            assert empty["segmentation"].dtype == full["segmentation"].dtype == torch.bool
            assert tuple(empty["segmentation"].shape) == empty_form
        (other,) = theirs.post_process_instance_segmentation(nothing, target_sizes=size, **form)
        (compat,) = ours.post_process_instance_segmentation(nothing, target_sizes=size, **form, compat=True)
        assert_same([compat], [other])


# Mask2Former's grid.


def test_masks_are_not_squeezed_into_384_pixels() -> None:
    """Issue 44901 of transformers: lines of one pixel in masks of 600 x 900 are lost, and results are squares."""
    lines = torch.zeros(600, 900, dtype=torch.bool)
    lines[::2] = True
    outputs = outputs_of((lines, 0, 0.9), (~lines, 1, 0.9))
    size = [(600, 900)]
    (ours,) = OURS["Mask2Former"].post_process_semantic_segmentation(outputs, size)
    assert torch.equal(ours == 0, lines)
    (theirs,) = THEIRS["Mask2Former"].post_process_semantic_segmentation(outputs, size)
    assert float(((theirs == 0) == lines).float().mean()) < 0.8
    (instances,) = OURS["Mask2Former"].post_process_instance_segmentation(outputs, target_sizes=size)
    assert {segment["label_id"] for segment in instances["segments_info"]} == {0, 1}
    for method in ("semantic", "instance", "panoptic"):
        call = f"post_process_{method}_segmentation"
        results = [getattr(side["Mask2Former"], call)(outputs) for side in (OURS, THEIRS)]
        maps = [found[0] if method == "semantic" else found[0]["segmentation"] for found in results]
        assert [tuple(found.shape) for found in maps] == [(600, 900), (384, 384)]


def test_a_processor_may_be_compatible_for_good() -> None:
    outputs = random_outputs()
    processor = Mask2FormerImageProcessor(compat=True)
    theirs = THEIRS["Mask2Former"].post_process_instance_segmentation(outputs, 0.2)
    assert_same(processor.post_process_instance_segmentation(outputs, 0.2), theirs)
    (first, _) = processor.post_process_semantic_segmentation(outputs, compat=False)
    assert first.shape == (24, 40)


# Transformers 4's method.


def test_scores_as_transformers_4_has_them() -> None:
    outputs = random_outputs()
    scores = OURS["MaskFormer"].post_process_segmentation(outputs, target_size=(50, 70))
    masks = F.interpolate(outputs.masks_queries_logits, size=(50, 70), mode="bilinear", align_corners=False).sigmoid()
    expected = torch.einsum("bqc,bqhw->bchw", outputs.class_queries_logits.softmax(-1)[..., :-1], masks)
    torch.testing.assert_close(scores, expected)
    assert OURS["MaskFormer"].post_process_segmentation(outputs).shape == (2, 7, 24, 40)


# What it rests on.


@pytest.mark.parametrize("seed", range(12))
def test_the_strongest_of_upsampled_maps(seed: int) -> None:
    """Against upsampling all of them at once; maps that are left out would have won nowhere."""
    generator = torch.Generator().manual_seed(seed)
    sides = torch.randint(1, 40, (4,), generator=generator).tolist()
    count = [1, 3, 40, 300][seed % 4]
    maps = torch.randn(count, *sides[:2], generator=generator) * torch.rand(count, 1, 1, generator=generator) * 10
    if seed % 3 == 0:
        maps = maps.round()  # ties
    weights = torch.rand(count, generator=generator) if seed % 2 else None
    size = (sides[2], sides[3])
    full = F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]
    full = full if weights is None else full * weights[:, None, None]
    winner, reached = strongest(maps, size, weights, 0.5)
    assert torch.equal(winner.long(), full.argmax(0))
    assert torch.equal(reached, (full >= 0.5).sum((1, 2)))
    in_the_race = contenders(maps, weights, 0.5)
    assert bool(in_the_race.strongest[winner.unique().long()].all())
    assert bool(in_the_race.reaching[reached > 0].all())


def test_maps_that_win_nowhere_are_left_out() -> None:
    maps = torch.stack([torch.full((9, 9), level) for level in (0.1, 0.5, 0.4999)])
    assert contenders(maps).strongest.tolist() == [False, True, False]
    assert contenders(maps, torch.tensor([1.0, 0.1, 1.0])).strongest.tolist() == [False, False, True]
    maps[0, 4, 4] = 0.9
    assert contenders(maps).strongest.tolist() == [True, True, False]
    assert contenders(maps, level=0.5).reaching.tolist() == [True, True, False]


SHAPES = [
    ((5, 9), (23, 17)),
    ((12, 8), (5, 5)),
    ((7, 7), (7, 7)),
    ((1, 3), (40, 1)),
    ((64, 48), (427, 640)),
    ((3, 1), (900, 700)),
]


@pytest.mark.parametrize(("shape", "size"), SHAPES)
@pytest.mark.parametrize("cut", [True, False])
def test_bands_are_interpolate_to_the_bit(
    shape: tuple[int, int], size: tuple[int, int], cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut into bands of few pixels, and as one where torch's kernel is found to round otherwise."""
    monkeypatch.setattr(upsampling, "_PIXELS", 2000)
    if not cut:
        monkeypatch.setattr(upsampling, "_rounds_alike", lambda *given: False)
    maps = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    found = upsampling.bands(maps, size)
    assert (len(found) > 1) == (cut and size[0] * size[1] > 2000)
    parts = [torch.stack([*band.enlarge(maps[:, band.rows])]) for band in found]
    assert torch.equal(torch.cat(parts, 1), upsampling.upsample(maps, size))


def test_winners_do_not_depend_on_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for scores that are made of queries band by band."""
    outputs, sizes = random_outputs(queries=40), [(90, 130), (61, 33)]
    methods = [
        (f"post_process_{name}_segmentation", more)
        for name, more in (("semantic", {}), ("panoptic", {"threshold": 0.2}))
    ]
    for method, more in methods:
        run = partial(getattr(OURS["MaskFormer"], method), outputs, target_sizes=sizes, **more)
        whole = run()
        monkeypatch.setattr(upsampling, "_PIXELS", 700)
        for here, there in zip(run(), whole, strict=True):
            if isinstance(here, Tensor):
                assert torch.equal(here, there)
            else:
                assert_same([here], [there])
        monkeypatch.undo()


def test_areas_by_cells_are_areas_by_pixels() -> None:
    for shape, size in (((5, 9), (23, 17)), ((12, 8), (5, 5)), ((7, 7), (7, 7)), ((1, 3), (40, 1))):
        nearest, mask = Nearest(shape, size, torch.device("cpu")), torch.rand(shape) > 0.5
        expected = F.interpolate(mask[None, None].float(), size=size, mode="nearest")[0, 0]
        assert torch.equal(nearest.enlarge(mask).float(), expected)
        assert nearest.area(mask) == int(expected.sum())


class LargestTensor(TorchDispatchMode):
    """Notes the bytes of the largest tensor that any operation returns."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.bytes = max([self.bytes, *(tensor.numel() * tensor.element_size() for tensor in tensors)])
        return result


@pytest.mark.parametrize("method", ["semantic", "instance", "panoptic"])
def test_no_mask_of_each_query_at_the_target_size(method: str) -> None:
    """Nothing is larger than the int64 map of the whole image, while one float mask of each query would be 20 times that."""
    outputs, size = random_outputs(batch=1, queries=40), (400, 400)
    call, more = f"post_process_{method}_segmentation", {} if method == "semantic" else {"threshold": 0.0}
    forms = FORMS[:2] if method == "instance" else [{}]
    for form in forms:
        with LargestTensor() as ours:
            getattr(OURS["MaskFormer"], call)(outputs, target_sizes=[size], **more, **form)
        assert ours.bytes <= 8 * 400 * 400
    with LargestTensor() as theirs:
        getattr(THEIRS["MaskFormer"], call)(outputs, target_sizes=[size], **more)
    assert theirs.bytes >= 7 * 4 * 400 * 400  # of 7 classes or 40 queries


def test_half_precision_is_not_decided_in_half() -> None:
    """In bfloat16 many classes have the same score; transformers takes the first of them."""
    outputs = random_outputs(queries=40)
    halves = SimpleNamespace(**{name: logits.bfloat16() for name, logits in vars(outputs).items()})
    whole = SimpleNamespace(**{name: logits.float() for name, logits in vars(halves).items()})
    for here, there in zip(
        OURS["MaskFormer"].post_process_semantic_segmentation(halves, [(60, 80)] * 2),
        THEIRS["MaskFormer"].post_process_semantic_segmentation(whole, [(60, 80)] * 2),
        strict=True,
    ):
        assert torch.equal(here, there)
    theirs = THEIRS["MaskFormer"].post_process_semantic_segmentation(halves, [(60, 80)] * 2)
    compat = OURS["MaskFormer"].post_process_semantic_segmentation(halves, [(60, 80)] * 2, compat=True)
    assert all(torch.equal(here, there) for here, there in zip(compat, theirs, strict=True))


def test_outputs_of_a_training_step_and_a_mapping() -> None:
    outputs = random_outputs()
    plain = OURS["MaskFormer"].post_process_panoptic_segmentation(outputs, 0.2)
    mapping = {name: logits.clone().requires_grad_() for name, logits in vars(outputs).items()}
    assert_same(OURS["MaskFormer"].post_process_panoptic_segmentation(mapping, 0.2), plain)


# Bad input.


def call_all(outputs: Any, **arguments: Any) -> Any:
    """Yield the result of each method, or let it raise."""
    for method in ("semantic", "instance", "panoptic"):
        yield (
            method,
            lambda method=method: getattr(OURS["MaskFormer"], f"post_process_{method}_segmentation")(
                outputs, **arguments
            ),
        )


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ([(8, 8)], r"target_sizes has 1 sizes, but there are 2 images; give one \(height, width\) for each"),
        (torch.ones(3, 2), r"target_sizes has 3 sizes, but there are 2 images"),
        (7, r"target_sizes has 7, but there are 2 images"),
        ((480, 640), r"target_sizes\[0\]=480 must be \(height, width\), two positive whole numbers"),
        ([(8, 8), (8, 0)], r"target_sizes\[1\]=\(8, 0\) must be"),
        ([(8, 8), (8, 8, 3)], r"target_sizes\[1\]=\(8, 8, 3\) must be"),
        ([(8, 8), (8, 2.5)], r"target_sizes\[1\]=\(8, 2\.5\) must be"),
        ([(8, 8), None], r"target_sizes\[1\]=None must be"),
    ],
)
def test_wrong_target_sizes(sizes: Any, text: str) -> None:
    for _, run in call_all(random_outputs(), target_sizes=sizes):
        with pytest.raises(ValueError, match=text):
            run()


def test_target_sizes_in_every_form() -> None:
    outputs = random_outputs()
    (expected, other) = OURS["MaskFormer"].post_process_semantic_segmentation(outputs, [(9, 12), (20, 7)])
    pair = torch.tensor([[9, 12], [20, 7]])
    for sizes in (
        pair,
        pair.float(),
        pair.numpy(),
        list(pair),
        [pair[0].numpy(), (20, 7)],
        [list(pair[0]), [20, 7.0]],
        ((9, 12), (20, 7)),
    ):
        (here, there) = OURS["MaskFormer"].post_process_semantic_segmentation(outputs, sizes)
        assert torch.equal(here, expected)
        assert torch.equal(there, other)


@pytest.mark.parametrize("name", ["class_queries_logits", "masks_queries_logits"])
def test_logits_that_are_no_numbers(name: str) -> None:
    outputs = random_outputs()
    getattr(outputs, name)[1, 3, 2] = torch.nan
    for _, run in call_all(outputs):
        with pytest.raises(ValueError, match=rf"Image 1 has NaN in {name}; nothing can be said of it"):
            run()


def test_infinite_mask_logits_are_sure() -> None:
    outputs = outputs_of((box(0, 8, 0, 4), 0, 0.9), (box(0, 8, 4, 8), 0, 0.9))
    outputs.masks_queries_logits = torch.where(outputs.masks_queries_logits > 0, torch.inf, -torch.inf)
    (found,) = OURS["MaskFormer"].post_process_panoptic_segmentation(outputs, target_sizes=[(16, 16)])
    assert found["segmentation"].flatten().bincount().tolist() == [0, 128, 128]


def test_shapes_that_do_not_fit() -> None:
    good = random_outputs()
    classes, masks = good.class_queries_logits, good.masks_queries_logits
    cases = {
        "do not fit: they are": [
            (classes[:1], masks),
            (classes[:, :3], masks),
            (classes[..., :1], masks),
            (classes, masks[..., :0]),
        ],
        r"class_queries_logits has the shape \(15, 8\); it has 3 axes": [(classes[0], masks)],
        r"masks_queries_logits has the shape \(15, 24, 40\); it has 4 axes": [(classes, masks[0])],
    }
    for text, pairs in cases.items():
        for pair in pairs:
            for _, run in call_all(SimpleNamespace(class_queries_logits=pair[0], masks_queries_logits=pair[1])):
                with pytest.raises(ValueError, match=text):
                    run()
    for _, run in call_all(SimpleNamespace(logits=masks)):
        with pytest.raises(
            TypeError, match=r"outputs is a SimpleNamespace without class_queries_logits; give what the model"
        ):
            run()


@pytest.mark.parametrize("name", ["threshold", "mask_threshold", "overlap_mask_area_threshold"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "half", None, True])
def test_thresholds_outside(name: str, value: Any) -> None:
    for method, compat in itertools.product(("instance", "panoptic"), (False, True)):
        with pytest.raises(ValueError, match=rf"{name}={value!r} must be a number within 0\.\.1"):
            getattr(OURS["MaskFormer"], f"post_process_{method}_segmentation")(
                random_outputs(), **{name: value}, compat=compat
            )


def test_both_flags() -> None:
    with pytest.raises(ValueError, match=r"return_coco_annotation=True and return_binary_maps=True exclude each other"):
        OURS["MaskFormer"].post_process_instance_segmentation(
            random_outputs(), return_coco_annotation=True, return_binary_maps=True
        )


def test_no_images() -> None:
    outputs = SimpleNamespace(class_queries_logits=torch.zeros(0, 3, 4), masks_queries_logits=torch.zeros(0, 3, 8, 8))
    assert [run() for _, run in call_all(outputs)] == [[], [], []]
