"""Settings: spellings, defaults of subclasses, and what is said about wrong ones."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vertebra.image_processing.base import BaseImageProcessor
from vertebra.image_processing.sizes import SizeDict
from vertebra.image_processing.vit import ViTImageProcessor

IMAGE = Image.new("RGB", (20, 10), (255, 0, 128))


class ThresholdProcessor(BaseImageProcessor):
    """Written as users of transformers write one: class-level defaults and a step of its own."""

    do_resize = True
    size = {"height": 8, "width": 8}
    resample = Image.Resampling.NEAREST
    do_rescale = True
    threshold = 0.5

    def rescale_and_normalize(self, images: torch.Tensor, *args: Any) -> torch.Tensor:
        return (super().rescale_and_normalize(images, *args) > self.threshold).float()


class OldStyleProcessor(BaseImageProcessor):
    """Written as in transformers 4: an `__init__` that names its arguments, and a `preprocess` of its own."""

    def __init__(self, size: Any = None, offset: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = size if size is not None else {"shortest_edge": 5}
        self.offset = offset

    def preprocess(self, images: Any, **kwargs: Any) -> Any:
        return super().preprocess(images, do_resize=True, resample=0, do_rescale=False, **kwargs)


@pytest.mark.parametrize("name", ["box", "BOX", "PIL.Image.BOX", "Resampling.BOX", "PIL.Image.Resampling.BOX", 4])
def test_filters_by_every_name(name: Any) -> None:
    processor = ViTImageProcessor(resample=name)
    assert processor.resample is Image.Resampling.BOX
    assert type(processor.to_dict()["resample"]) is int
    assert processor.to_dict()["resample"] == 4


def test_torchvisions_enum_is_a_filter() -> None:
    from torchvision.transforms import InterpolationMode

    assert ViTImageProcessor(resample=InterpolationMode.BICUBIC).resample == 3
    assert ViTImageProcessor(resample=InterpolationMode.NEAREST_EXACT).resample == 0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (24, {"height": 24, "width": 24}),
        (np.int64(24), {"height": 24, "width": 24}),
        ([24, 32.0], {"height": 24, "width": 32}),
        ({"shortest_edge": 24, "longest_edge": None}, {"shortest_edge": 24}),
    ],
)
def test_sizes_by_every_spelling(value: Any, expected: dict[str, int]) -> None:
    processor = ViTImageProcessor(size=value)
    assert processor.size == expected
    processor.size = {"height": 1, "width": 2}
    processor.size = value
    assert processor.size == expected
    assert all(type(length) is int for length in processor.size.values())


def test_a_size_has_attributes() -> None:
    size = ViTImageProcessor(size={"shortest_edge": 24}).size
    assert (size.shortest_edge, size.height) == (24, None)
    with pytest.raises(AttributeError, match=r"A size has no 'hight'.*Did you mean 'height'"):
        _ = size.hight
    assert pickle.loads(pickle.dumps(size)) == copy.deepcopy(size) == size
    assert type(copy.deepcopy(size)) is SizeDict


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        (
            {"do_resise": True},
            TypeError,
            r"ViTImageProcessor\(\) got an unknown setting 'do_resise'\. Did you mean",
        ),
        ({"size": {"hight": 3, "width": 3}}, ValueError, r"has the keys hight, width; .*Did you mean 'height'"),
        ({"size": [1, 2, 3]}, ValueError, r"size=\[1, 2, 3\] has 3 entries; give \[height, width\], or one int"),
        ({"size": 0}, ValueError, r"size\['height'\]=0 is not a positive whole number of pixels"),
        ({"crop_size": "big"}, TypeError, r"crop_size='big' is a str; give an int, \[height, width\], or a dict"),
        (
            {"resample": "bicubik"},
            ValueError,
            r"resample='bicubik' is not a filter\. Did you mean 'bicubic'.*'box' \(4\)",
        ),
        ({"resample": 99}, ValueError, r"resample=99 is not a filter\. The filters are 'nearest' \(0\)"),
        ({"resample": 1.5}, TypeError, r"resample=1\.5 is a float\. The filters are"),
        ({"do_resize": "yes"}, TypeError, r"do_resize='yes' is a str; give True or False"),
        ({"rescale_factor": -1}, ValueError, r"rescale_factor=-1 must be a positive number; 1/255 takes"),
        ({"image_mean": "grey"}, TypeError, r"image_mean='grey' must be a number, or a list with one number for each"),
        (
            {"image_std": [0.5, 0, 0.5]},
            ValueError,
            r"image_std=\[0\.5, 0, 0\.5\] must be greater than 0: pixels are",
        ),
        ({"backend": "tensorflow"}, ValueError, r"backend='tensorflow' does not exist; there is torchvision"),
        ({"data_format": "NHWC"}, ValueError, r"data_format='NHWC' must be 'channels_first', 'channels_last' or None"),
        ({"device": "gpu"}, ValueError, r"device='gpu' is not a device; give 'cpu', 'cuda'"),
        ({"return_tensors": "tf"}, ValueError, r"return_tensors='tf' is not supported; it is 'pt' .*'np'.* or None"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        ViTImageProcessor(**settings)
    with pytest.raises(error, match=text.replace(r"ViTImageProcessor\(\)", r"ViTImageProcessor\.preprocess\(\)")):
        ViTImageProcessor()(IMAGE, **settings)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"do_center_crop": True}, "do_center_crop=True needs crop_size; pass crop_size=…, or do_center_crop=False"),
        ({"image_mean": [1.0, 2.0]}, r"image_mean=\(1\.0, 2\.0\) and image_std=.* have different numbers of channels"),
        ({"size": {"longest_edge": 4}}, r"size=\{'longest_edge': 4\} is not something this processor resizes to"),
        (
            {"do_pad": True, "pad_size": 100},
            r"Image 0 is 224x224 pixels and does not fit pad_size=100x100; give a",
        ),
        (
            {"do_center_crop": True, "crop_size": {"shortest_edge": 4}},
            r"crop_size=.* must be \{'height': …, 'width': ",
        ),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ViTImageProcessor()(IMAGE, **settings)


def test_sizes_that_differ_cannot_be_one_array() -> None:
    with pytest.raises(ValueError, match=r"its shapes are \(3, 10, 20\), \(3, 5, 5\)\. Resize or pad to one size"):
        ViTImageProcessor(do_resize=False)([IMAGE, IMAGE.resize((5, 5))], return_tensors="pt")
    assert len(ViTImageProcessor(do_resize=False)([IMAGE, IMAGE.resize((5, 5))])["pixel_values"]) == 2


def test_none_in_a_call_is_the_processors_own_setting() -> None:
    processor = ViTImageProcessor(size=16)
    assert processor(IMAGE, do_resize=None, size=None)["pixel_values"][0].shape == (3, 16, 16)


def test_data_format_is_that_of_the_result() -> None:
    first = ViTImageProcessor(size=[4, 6])(IMAGE, return_tensors="pt")["pixel_values"]
    for kind in ("pt", "np", None):
        last = ViTImageProcessor(size=[4, 6])(IMAGE, return_tensors=kind, data_format="channels_last")["pixel_values"]
        np.testing.assert_array_equal(np.asarray(last[0]), first[0].permute(1, 2, 0).numpy())


def test_a_subclass_with_class_level_defaults() -> None:
    processor = ThresholdProcessor(threshold=0.3)
    assert ThresholdProcessor().size == {"height": 8, "width": 8}
    assert processor.to_dict()["threshold"] == 0.3
    assert processor(IMAGE)["pixel_values"][0][:, 0, 0].tolist() == [1, 0, 1]
    assert ThresholdProcessor(threshold=0.6)(IMAGE)["pixel_values"][0][:, 0, 0].tolist() == [1, 0, 0]
    processor.size["height"] = 4
    assert ThresholdProcessor.size == ThresholdProcessor().size == {"height": 8, "width": 8}
    with pytest.raises(TypeError, match="Did you mean 'threshold'"):
        ThresholdProcessor(treshold=1)


def test_a_subclass_with_its_own_init(tmp_path: Any) -> None:
    processor = OldStyleProcessor(offset=7, do_pad=True)
    assert processor(IMAGE)["pixel_values"][0].shape == (3, 5, 10)
    processor.save_pretrained(tmp_path)
    again = OldStyleProcessor.from_pretrained(tmp_path, offset=9)
    assert again.to_dict() == {**processor.to_dict(), "offset": 9}
    with pytest.raises(AttributeError, match=r"OldStyleProcessor has no 'ofset'\. Did you mean 'offset'"):
        _ = processor.ofset


def test_processors_are_copied_and_pickled() -> None:
    processor = ViTImageProcessor.from_dict({"size": 30, "extra": [1]})
    for other in (copy.copy(processor), copy.deepcopy(processor), pickle.loads(pickle.dumps(processor))):
        assert other.to_dict() == processor.to_dict()
        assert other.extra == [1]


def test_importing_is_light() -> None:
    code = (
        "import sys, vertebra.image_processing, vertebra.image_processing.vit, vertebra.image_processing.timm as t\n"
        "t.TimmWrapperImageProcessor()\n"
        "print([m for m in ('torchvision', 'timm', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
