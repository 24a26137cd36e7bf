"""Large tensors in huge pages: the same tensors as torch makes, wherever they go."""

import io
import mmap
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vertebra import huge_pages

SHAPE = (3, 1024, 1024)


@pytest.fixture(params=["huge", "usual", "no advice"])
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Tensor]:
    """`zeros`, for tensors that count as large, for others, and where the system knows no huge pages."""
    monkeypatch.setattr(huge_pages, "FROM", 2**40 if request.param == "usual" else 2**20)
    if request.param == "no advice":
        monkeypatch.setattr(huge_pages, "_ADVICE", None)
    return huge_pages.zeros


def test_what_they_are(make: Callable[..., Tensor]) -> None:
    for dtype in (torch.float32, torch.int64, torch.uint8):
        for found in (make(SHAPE, dtype), huge_pages.empty(SHAPE, dtype)):
            assert (found.shape, found.dtype, found.is_contiguous()) == (SHAPE, dtype, True)
        assert not make(SHAPE, dtype).any()


def test_they_go_where_others_go(make: Callable[..., Tensor]) -> None:
    found = make(SHAPE).add_(torch.arange(1024))
    expected = torch.zeros(SHAPE).add_(torch.arange(1024))
    row = found[1, 2]
    stored = io.BytesIO()
    torch.save(found, stored)
    stored.seek(0)
    assert torch.equal(torch.load(stored), expected)
    found.share_memory_()
    assert found.is_shared()
    assert torch.equal(found, expected)
    del found
    assert torch.equal(row, expected[1, 2])  # a view keeps the memory


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="the system knows no huge pages")
def test_what_counts_is_all_of_them_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages, "FROM", 2**22)
    resizable = [
        huge_pages.empty((2**20,), torch.uint8, beside=count).untyped_storage().resizable() for count in (1, 3, 4)
    ]
    assert resizable == [True, True, False]
    assert huge_pages.empty((2**18,), torch.uint8, beside=99).untyped_storage().resizable()
