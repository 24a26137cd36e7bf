from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from vertebra.batch_feature import BatchFeature


def make() -> BatchFeature:
    return BatchFeature({"pixel_values": torch.ones(2, 3), "mask": [torch.ones(2, dtype=torch.int64)], "name": "x"})


def test_entries_are_keys_and_attributes() -> None:
    batch = make()
    assert batch.pixel_values is batch["pixel_values"]
    assert {**batch}.keys() == {"pixel_values", "mask", "name"} == batch.data.keys()
    with pytest.raises(
        KeyError, match=r"0 is not a key: .*'pixel_values', 'mask', 'name'.*batch\['pixel_values'\]\[0\]"
    ):
        _ = batch[0]  # type: ignore[index]
    with pytest.raises(KeyError, match="Did you mean 'pixel_values'"):
        _ = batch["pixel_value"]
    with pytest.raises(AttributeError, match="This batch has no 'pixels'; it has 'pixel_values'"):
        _ = batch.pixels


def test_copies() -> None:
    batch = make()
    for other in (pickle.loads(pickle.dumps(batch)), copy.deepcopy(batch), copy.copy(batch)):
        assert type(other) is BatchFeature
        assert torch.equal(other.pixel_values, batch.pixel_values)


@pytest.mark.parametrize(
    ("arguments", "dtype"),
    [
        (("cpu",), torch.float32),
        ((torch.float16,), torch.float16),
        (("cpu", torch.float16), torch.float16),
        ((torch.device("cpu"), torch.bfloat16), torch.bfloat16),
    ],
)
def test_to_casts_floats_only(arguments: Any, dtype: torch.dtype) -> None:
    batch = make()
    assert batch.to(*arguments) is batch
    assert batch.pixel_values.dtype == dtype
    assert batch.mask[0].dtype == torch.int64
    assert batch.name == "x"
    assert make().to("meta").mask[0].device.type == "meta"
    with pytest.raises(TypeError, match=r"batch\.to\(1\.5\): give a device"):
        batch.to(1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["pt", "np"])
@pytest.mark.parametrize(
    "value",
    [
        [torch.ones(2), torch.zeros(2)],
        [np.ones(2, np.float32), np.zeros(2, np.float32)],
        [[1, 2], [3, 4]],
        np.arange(3),
        torch.arange(3),
        "text",
        ["a", "b"],
    ],
)
def test_converts_as_transformers_does(value: Any, kind: str) -> None:
    ours, theirs = BatchFeature({"x": value}, kind)["x"], transformers.BatchFeature({"x": value}, kind)["x"]
    assert type(ours) is type(theirs)
    np.testing.assert_array_equal(ours, theirs)
    assert getattr(ours, "dtype", None) == getattr(theirs, "dtype", None)


def test_conversion_can_be_skipped_or_fail() -> None:
    assert BatchFeature({"x": [1]}, "pt", skip_tensor_conversion=["x"])["x"] == [1]
    with pytest.raises(ValueError, match=r"'x' cannot become one 'pt' array: its shapes are \(2,\), \(3,\)\. Resize"):
        BatchFeature({"x": [torch.ones(2), torch.ones(3)]}, "pt")
    with pytest.raises(ValueError, match="return_tensors='tf' is not supported; it is 'pt'"):
        BatchFeature({}, "tf")
