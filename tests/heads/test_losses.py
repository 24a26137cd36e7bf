"""Losses against transformers and torch, their number of masks over processes, and what is refused with which words."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers.models.mask2former import modeling_mask2former as mask2former
from transformers.models.maskformer import modeling_maskformer as maskformer

from vertebra.heads.losses import (
    bce_loss,
    check_finite,
    check_targets,
    class_loss,
    dice_loss,
    number_of_masks,
    sigmoid_focal_loss,
)

LOSSES = {
    dice_loss: maskformer.dice_loss,
    sigmoid_focal_loss: maskformer.sigmoid_focal_loss,
    bce_loss: mask2former.sigmoid_cross_entropy_loss,
}
by_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)


@by_loss
def test_masks_against_transformers(loss) -> None:
    targets = (torch.rand(5, 70) > 0.6).double()
    results = []
    for function in (loss, LOSSES[loss]):
        logits = (
            3 * torch.randn(5, 70, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        ).requires_grad_()
        value = function(logits, targets, 3.5)
        value.backward()
        results.append((value.detach(), logits.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-15)


@by_loss
def test_no_masks_and_sure_logits(loss) -> None:
    logits = torch.randn(0, 9, requires_grad=True)
    value = loss(logits, torch.zeros(0, 9), torch.tensor(1.0))
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    for targets in (torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.uint8)):
        logits = torch.tensor([[-1e4, 1e4]], requires_grad=True)
        value = loss(logits, targets, 1.0)
        value.backward()
        assert value.isfinite()
        assert logits.grad.isfinite().all()


@by_loss
def test_half_precision_is_compared_in_float32(loss) -> None:
    logits, targets = torch.randn(3, 5000).bfloat16(), (torch.rand(3, 5000) > 0.5).float()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(logits, targets, 3.0)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), loss(logits.double(), targets, 3.0), rtol=1e-5, atol=0)


def test_classes_against_torch() -> None:
    logits = torch.randn(2, 6, 4, dtype=torch.float64)
    classes = torch.randint(4, (2, 6))
    weight = torch.tensor([1.0, 1.0, 1.0, 0.1])
    expected = F.cross_entropy(logits.mT, classes, weight.double())
    torch.testing.assert_close(class_loss(logits, classes, weight), expected, rtol=1e-12, atol=0)
    nothing = torch.full((2, 6), 3)
    assert class_loss(logits, nothing, torch.tensor([1.0, 1.0, 1.0, 0.0])).item() == 0


def test_number_of_masks_of_one_process() -> None:
    cpu = torch.device("cpu")
    assert number_of_masks([torch.zeros(3), torch.zeros(0), torch.zeros(2)], cpu).item() == 5
    assert number_of_masks([torch.zeros(0), torch.zeros(0)], cpu).item() == 1


def test_number_of_masks_of_two_processes(tmp_path: Path) -> None:
    script = (
        "import sys, torch\n"
        "from vertebra.heads.losses import number_of_masks\n"
        "torch.distributed.init_process_group('gloo', init_method='file://' + sys.argv[1], rank=1, world_size=2)\n"
        "print(number_of_masks([torch.zeros(2)], torch.device('cpu')).item())\n"
        "torch.distributed.destroy_process_group()\n"
    )
    file = tmp_path / "meeting"
    other = subprocess.Popen([sys.executable, "-c", script, str(file)], stdout=subprocess.PIPE, text=True)
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=0, world_size=2)
    try:
        assert number_of_masks([torch.zeros(5), torch.zeros(0)], torch.device("cpu")).item() == 3.5
        assert other.communicate(timeout=120)[0].strip() == "3.5"
    finally:
        torch.distributed.destroy_process_group()


def test_logits_that_are_not_finite() -> None:
    classes, masks = torch.randn(3, 5, 4), torch.randn(3, 5, 8, 8)
    check_finite(classes, masks)
    masks[1, 2, 3, 3] = torch.nan
    with pytest.raises(
        ValueError, match=r"masks_queries_logits of image 1 of the batch hold NaN or infinity.*learning"
    ):
        check_finite(classes, masks)
    classes[0, 0, 0] = torch.inf
    classes[2, 4, 3] = -torch.inf
    with pytest.raises(ValueError, match="class_queries_logits of image 0, 2 of the batch"):
        check_finite(classes, masks)


IMAGES = torch.zeros(2, 3, 6, 8)


def labels(**changes: Any) -> dict[str, Any]:
    good: dict[str, Any] = {
        "mask_labels": [torch.ones(2, 6, 8), torch.zeros(0, 6, 8)],
        "class_labels": [torch.tensor([0, 3]), torch.zeros(0, dtype=torch.int64)],
    }
    return {**good, **changes}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.bool, torch.uint8])
def test_labels_that_fit(dtype: torch.dtype) -> None:
    masks = [mask.to(dtype) for mask in labels()["mask_labels"]]
    classes = [each.to(torch.int32) for each in labels()["class_labels"]]
    checked, indices = check_targets(masks, classes, IMAGES, 4)
    assert all(torch.equal(one, other) for one, other in zip(checked, masks, strict=True))
    assert [each.dtype for each in indices] == [torch.int64] * 2
    stacked = check_targets(torch.ones(2, 3, 6, 8), torch.zeros(2, 3, dtype=torch.int64), IMAGES, 4)
    assert [len(each) for each in (*stacked[0], *stacked[1])] == [3, 3, 3, 3]


EMPTY = torch.zeros(0, 6, 8)
NONE = torch.zeros(0, dtype=torch.int64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_labels": None}, "mask_labels is missing: a loss needs both mask_labels and class_labels"),
        ({"class_labels": None}, "class_labels is missing"),
        ({"mask_labels": 3}, "mask_labels is a int; it must be a list with one tensor per image"),
        ({"mask_labels": [torch.ones(2, 6, 8)]}, "mask_labels has 1 entries for 2 images"),
        ({"class_labels": [NONE] * 3}, "class_labels has 3 entries for 2 images"),
        ({"mask_labels": [[1], EMPTY]}, "mask_labels[0] is a list; it must be a tensor"),
        (
            {"mask_labels": [torch.ones(2, 6, 7), EMPTY]},
            "mask_labels[0] has shape (2, 6, 7); it must be (labels, 6, 8), the size of pixel_values",
        ),
        ({"mask_labels": [torch.ones(2, 6, 8), torch.ones(6, 8)]}, "mask_labels[1] has shape (6, 8); it must be"),
        (
            {"mask_labels": [torch.ones(2, 6, 8, dtype=torch.int64), EMPTY]},
            "mask_labels[0] is torch.int64; it must be one of bool, uint8, float16, bfloat16, float32, float64",
        ),
        (
            {"mask_labels": [torch.ones(3, 6, 8), EMPTY]},
            "class_labels[0] has shape (2,) and mask_labels[0] has 3 masks; it must be (3,), one class per mask",
        ),
        (
            {"mask_labels": [255 * torch.ones(2, 6, 8), EMPTY]},
            "mask_labels[0] holds 255; masks hold values from 0 to 1",
        ),
        ({"mask_labels": [torch.full((2, 6, 8), torch.nan), EMPTY]}, "mask_labels[0] holds nan; masks hold"),
        (
            {"mask_labels": [torch.full((2, 6, 8), 255, dtype=torch.uint8), EMPTY]},
            "mask_labels[0] holds 255; masks hold values from 0 to 1",
        ),
        (
            {"class_labels": [torch.tensor([0.0, 3.0]), NONE]},
            "class_labels[0] is torch.float32; it must be one of int64, int32, int16, int8, uint8",
        ),
        (
            {"class_labels": [torch.tensor([0, 3]), torch.tensor([1])]},
            "class_labels[1] has shape (1,) and mask_labels[1]",
        ),
        ({"class_labels": [torch.tensor([0, 4]), NONE]}, "class_labels[0] holds 4; there are 4 classes, 0 to 3"),
        ({"class_labels": [torch.tensor([-1, 2]), NONE]}, "class_labels[0] holds -1; there are 4 classes"),
        ({"class_labels": [torch.tensor([0, 255]), NONE]}, "the image processor's ignore_index leaves out pixels"),
    ],
)
def test_labels_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check_targets(**labels(**changes), images=IMAGES, num_labels=4)
