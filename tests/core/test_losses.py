"""The losses of classes, and what is said of labels that do not fit."""

import pytest
import torch
import torch.nn.functional as F
from oracle import close
from torch._subclasses.fake_tensor import FakeTensorMode

from vertebra.losses import at_hand, check_range, class_loss


class TestClassLoss:
    def test_is_the_mean_of_what_counts(self) -> None:
        logits = torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)
        labels = torch.randint(4, (3, 5))
        labels[0, :3] = -100
        expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        actual = class_loss(logits, labels)
        close(actual, expected, 1e-12)
        gradients = [torch.autograd.grad(loss, logits)[0] for loss in (actual, expected)]
        close(*gradients, tol=1e-12)

    def test_nothing_counts(self) -> None:
        logits = torch.randn(3, 4, requires_grad=True)
        loss = class_loss(logits, torch.full((3,), -100))
        loss.backward()
        assert loss == 0
        assert logits.grad.abs().max() == 0

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_many_labels_of_half_a_float(self, dtype: torch.dtype) -> None:
        """The sum is beyond what half a float holds, 65,504."""
        logits = 20 * torch.randn(50_000, 8)
        labels = torch.randint(8, (50_000,))
        expected = F.cross_entropy(logits, labels)
        loss = class_loss(logits.to(dtype), labels)
        assert loss.dtype == dtype
        assert abs(loss.item() / expected.item() - 1) < 0.01

    @pytest.mark.parametrize(
        ("labels", "text"),
        [
            (
                torch.tensor([0, 4, 1]),
                r"tags holds 4; allowed are 0 to 3, or -100 for what counts in no loss\. The model has 4",
            ),
            (torch.tensor([0, -1, 1]), r"tags holds -1"),
            (
                torch.tensor([0, 1]),
                r"tags of shape \(2,\) and dtype torch\.int64 must be class indices of shape \(3,\)",
            ),
            (torch.tensor([0.0, 1.0, 2.0]), r"dtype torch\.float32 must be class indices"),
            (torch.tensor([True, False, True]), r"dtype torch\.bool must be class indices"),
        ],
    )
    def test_labels_that_do_not_fit(self, labels: torch.Tensor, text: str) -> None:
        with pytest.raises(ValueError, match=text):
            class_loss(torch.randn(3, 4), labels, "tags")


def test_only_values_at_hand_are_looked_at() -> None:
    wrong = torch.tensor([7])
    with pytest.raises(ValueError, match=r"ids holds 7; allowed are 0 to 3\. Do this\."):
        check_range(wrong, 4, "ids", "Do this.")
    check_range(wrong.to("meta"), 4, "ids", "Do this.")
    with FakeTensorMode() as mode:
        assert not at_hand(mode.from_tensor(wrong))
    compiled = torch.compile(lambda x: check_range(x, 4, "ids", "") or x + 1, fullgraph=True, backend="eager")
    assert compiled(wrong).item() == 8
    check_range(wrong[:0], 4, "ids", "Do this.")


def test_gradients_of_every_sample() -> None:
    logits, labels = torch.randn(5, 4), torch.randint(4, (5,))
    each = torch.func.vmap(torch.func.grad(lambda scores, label: class_loss(scores[None], label[None])))
    expected = [
        torch.func.grad(lambda s, label=label: class_loss(s[None], label[None]))(s)
        for s, label in zip(logits, labels, strict=True)
    ]
    close(each(logits, labels), torch.stack(expected))
