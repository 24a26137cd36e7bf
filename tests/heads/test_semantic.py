"""The loss that segmenters share against its definition, and every way in which labels can be wrong."""

from typing import Any

import pytest
import torch
from oracle import close, same
from torch import Tensor

from vertebra import ResNetConfig, UperNetConfig, UperNetForSemanticSegmentation
from vertebra.heads.semantic import check_labels, semantic_loss


def by_hand(logits: Tensor, labels: Tensor, ignored: int) -> Tensor:
    """Minus the mean log probability of the right class, pixel by pixel."""
    losses = []
    for image, y, x in (labels != ignored).nonzero().tolist():
        scores = logits[image, :, y, x]
        losses.append(torch.logsumexp(scores, 0) - scores[labels[image, y, x]])
    return torch.stack(losses).mean()


@pytest.mark.parametrize("ignored", [255, 2, -100])
def test_the_loss_is_the_mean_over_pixels_that_count(ignored: int) -> None:
    logits = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    labels = torch.randint(0, 4, (2, 5, 6))
    labels[1, 2:] = ignored
    close(semantic_loss(logits, labels, ignored), by_hand(logits, labels, ignored), tol=1e-12)


def test_coarse_scores_are_enlarged_to_the_labels() -> None:
    logits, labels = torch.randn(2, 4, 5, 6, dtype=torch.float64), torch.randint(0, 4, (2, 20, 23))
    large = torch.nn.functional.interpolate(logits, (20, 23), mode="bilinear")
    close(semantic_loss(logits, labels), by_hand(large, labels, 255), tol=1e-12)


def test_nothing_to_learn_is_no_loss_and_no_nan() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    labels = torch.full((1, 4, 4), 255)
    assert torch.nn.functional.cross_entropy(logits, labels, ignore_index=255).isnan()  # what transformers returns
    loss = semantic_loss(logits, labels)
    loss.backward()
    assert loss == 0
    same(logits.grad, torch.zeros(1, 3, 4, 4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    logits, labels = torch.randn(1, 50, 200, 200).to(dtype), torch.randint(0, 50, (1, 200, 200))
    loss = semantic_loss(logits, labels)
    assert loss.dtype == torch.float32
    close(loss, torch.nn.functional.cross_entropy(logits.float(), labels))


IMAGES = torch.zeros(2, 3, 8, 12)
RIGHT = torch.zeros(2, 8, 12, dtype=torch.int64)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_whole_numbers_of_any_width_are_labels(dtype: torch.dtype) -> None:
    labels = torch.tensor([0, 1, 4, 255]).repeat(6).view(1, 2, 12).expand(2, -1, -1).repeat(1, 4, 1)
    checked = check_labels(labels.to(dtype), IMAGES, 5)
    same(checked, labels)


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (
            torch.zeros(2, 8, 11, dtype=torch.int64),
            r"labels of shape \(2, 8, 11\) must be \(2, 8, 12\), one class for every pixel",
        ),
        (torch.zeros(1, 8, 12, dtype=torch.int64), r"labels of shape \(1, 8, 12\) must be \(2, 8, 12\)"),
        (
            torch.zeros(2, 1, 8, 12, dtype=torch.int64),
            r"\(2, 1, 8, 12\) must be \(2, 8, 12\).* Take labels\.squeeze\(1\)",
        ),
        (
            torch.zeros(2, 8, 12),
            r"labels of dtype torch\.float32 must be whole numbers, torch\.int64: labels\.long\(\)",
        ),
        (torch.zeros(2, 8, 12, dtype=torch.bool), r"labels of dtype torch\.bool"),
        (
            RIGHT.index_fill(0, torch.tensor([1]), 5),
            r"labels of image 1 have the value 5, 96 pixels in all; classes are 0 to 4, and 255",
        ),
        (RIGHT - 1, r"labels of image 0 have the value -1, 96 pixels"),
        (
            torch.arange(192).view(2, 8, 12),
            r"image 0 have the value 5 and others, 91 pixels in all.*do_reduce_labels=True",
        ),
    ],
)
def test_labels_that_do_not_fit(labels: Tensor, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        check_labels(labels, IMAGES, 5)


def tiny(**kwargs: Any) -> UperNetForSemanticSegmentation:
    below = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], layer_type="basic")
    return UperNetForSemanticSegmentation(
        UperNetConfig(backbone_config=below, hidden_size=8, auxiliary_channels=8, **kwargs)
    )


def test_models_check_labels_before_they_run() -> None:
    model = tiny(num_labels=3)
    model.backbone.register_forward_hook(lambda *_: pytest.fail("the backbone ran"))
    with pytest.raises(ValueError, match="labels of image 0 have the value 3"):
        model(torch.randn(2, 3, 32, 32), labels=torch.full((2, 32, 32), 3))
    with pytest.raises(ValueError, match=r"labels of shape \(2, 16, 16\) must be \(2, 32, 32\)"):
        model(torch.randn(2, 3, 32, 32), labels=torch.zeros(2, 16, 16, dtype=torch.int64))


def test_one_class_is_refused_as_in_transformers_with_what_to_do() -> None:
    model = tiny(num_labels=1).eval()
    assert model(torch.randn(1, 3, 32, 32)).logits.shape == (1, 1, 32, 32)
    with pytest.raises(ValueError, match=r"num_labels=1: .* An object and its background are num_labels=2"):
        model(torch.randn(1, 3, 32, 32), labels=torch.zeros(1, 32, 32, dtype=torch.int64))
