"""Files: what transformers 4 and 5 wrote, overrides, the round trip, and files that are wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

import vertebra
from vertebra.auto.vision import AutoImageProcessor
from vertebra.image_processing.backends import split_type
from vertebra.image_processing.convnext import ConvNextImageProcessor
from vertebra.image_processing.vit import ViTImageProcessor

# Keys as transformers 4.57 writes them for the class on tensors.
V4_FAST = {
    "crop_size": None,
    "data_format": "channels_first",
    "default_to_square": True,
    "device": None,
    "disable_grouping": None,
    "do_center_crop": None,
    "do_convert_rgb": None,
    "do_normalize": True,
    "do_pad": None,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "ViTImageProcessorFast",
    "image_std": [0.5, 0.5, 0.5],
    "input_data_format": None,
    "pad_size": None,
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
    "return_tensors": None,
    "size": {"height": 224, "width": 224},
}
# Keys as the first checkpoints have them.
V4_OLD = {
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "ViTFeatureExtractor",
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "size": 224,
}


NAMES = [
    f"{family}ImageProcessor" for family in "Beit Bit CLIP ConvNext DeiT DINOv3ViT Pvt Segformer Siglip ViT".split()
]


def write(folder: Path, name: str, content: Any) -> Path:
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


@pytest.mark.parametrize("stored", [V4_FAST, V4_OLD])
def test_reads_what_older_versions_wrote(tmp_path: Path, stored: dict[str, Any]) -> None:
    processor = ViTImageProcessor.from_pretrained(write(tmp_path, "preprocessor_config.json", stored))
    expected = {**ViTImageProcessor().to_dict(), **({"data_format": "channels_first"} if stored is V4_FAST else {})}
    assert processor.to_dict() == expected


def test_a_nested_processor_file_goes_first(tmp_path: Path) -> None:
    write(tmp_path, "preprocessor_config.json", {"size": 10})
    write(tmp_path, "processor_config.json", {"processor_class": "X"})
    assert ViTImageProcessor.from_pretrained(tmp_path).size["height"] == 10
    write(tmp_path, "processor_config.json", {"image_processor": {"size": 20}, "processor_class": "X"})
    assert ViTImageProcessor.from_pretrained(tmp_path).size["height"] == 20


def test_subfolders_and_the_file_itself(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub", "preprocessor_config.json", {"size": 12})
    assert ViTImageProcessor.from_pretrained(tmp_path, subfolder="sub").size["width"] == 12
    assert ViTImageProcessor.from_pretrained(tmp_path / "sub" / "preprocessor_config.json").size["width"] == 12


def test_unknown_keys_are_kept(tmp_path: Path) -> None:
    stored = {**V4_OLD, "processor_class": "CLIPProcessor", "_private": 3, "patches": {"a": [1, 2]}}
    processor = ViTImageProcessor.from_pretrained(write(tmp_path, "preprocessor_config.json", stored))
    assert processor.patches == {"a": [1, 2]}
    (path,) = processor.save_pretrained(tmp_path / "new" / "deep")
    again = json.loads(Path(path).read_text())
    assert {key: again[key] for key in ("processor_class", "_private", "patches")} == {
        "processor_class": "CLIPProcessor",
        "_private": 3,
        "patches": {"a": [1, 2]},
    }
    assert "feature_extractor_type" not in again


def test_overrides_and_unused_arguments(tmp_path: Path) -> None:
    write(tmp_path, "preprocessor_config.json", V4_OLD)
    processor, unused = ViTImageProcessor.from_pretrained(tmp_path, size=9, foo=False, return_unused_kwargs=True)
    assert (processor.size, unused) == ({"height": 9, "width": 9}, {"foo": False})
    with pytest.raises(TypeError, match=r"from_pretrained\(\) or from_dict\(\) got an unknown setting 'do_resise'"):
        ViTImageProcessor.from_pretrained(tmp_path, do_resise=False)


def test_a_none_that_overrides_a_default_is_written() -> None:
    processor = ViTImageProcessor()
    processor.size = None
    assert processor.to_dict()["size"] is None
    assert "crop_size" not in processor.to_dict()


def test_to_json_file_and_back(tmp_path: Path) -> None:
    ViTImageProcessor(size=9).to_json_file(tmp_path / "any.json")
    assert ViTImageProcessor.from_pretrained(tmp_path / "any.json").to_dict() == ViTImageProcessor(size=9).to_dict()


def test_wrong_files(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"has neither 'preprocessor_config\.json' nor .*ViTImageProcessor\(size=…\)"):
        ViTImageProcessor.from_pretrained(tmp_path)
    with pytest.raises(OSError, match="is not an existing folder"):
        ViTImageProcessor.from_pretrained(tmp_path / "missing")
    with pytest.raises(ValueError, match="is not a JSON file"):
        ViTImageProcessor.from_pretrained(write(tmp_path, "preprocessor_config.json", '{"size": '))
    with pytest.raises(ValueError, match="holds a JSON list, not an object"):
        ViTImageProcessor.from_pretrained(write(tmp_path, "preprocessor_config.json", "[]"))
    with pytest.raises(ValueError, match=r"size\['height'\]=-3 is not a positive whole number"):
        ViTImageProcessor.from_pretrained(write(tmp_path, "preprocessor_config.json", {"size": -3}))
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="this is a file; give a folder"):
        ViTImageProcessor().save_pretrained(tmp_path / "file")


@pytest.mark.parametrize(
    ("written", "name", "backend"),
    [
        ("ViTImageProcessor", "ViTImageProcessor", None),
        ("ViTImageProcessorFast", "ViTImageProcessor", "torchvision"),
        ("ViTImageProcessorPil", "ViTImageProcessor", "pil"),
        ("ViTFeatureExtractor", "ViTImageProcessor", None),
        ("TimmWrapperImageProcessor", "TimmWrapperImageProcessor", None),
    ],
)
def test_class_names_in_files(written: str, name: str, backend: str | None) -> None:
    assert split_type(written) == (name, backend)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("suffix", "options", "backend"),
    [
        ("", {}, "torchvision"),
        ("Fast", {}, "torchvision"),
        ("Pil", {}, "pil"),
        ("Pil", {"backend": None, "use_fast": None}, "pil"),
        ("Pil", {"use_fast": True}, "torchvision"),
        ("Pil", {"backend": "torchvision"}, "torchvision"),
        ("", {"use_fast": False}, "pil"),
        ("Fast", {"backend": "pil"}, "pil"),
        ("Fast", {"backend": "pil", "use_fast": False}, "pil"),
    ],
)
def test_backends_by_name_and_argument(
    tmp_path: Path, name: str, suffix: str, options: dict[str, Any], backend: str
) -> None:
    write(tmp_path, "preprocessor_config.json", {"image_processor_type": name + suffix, "size": 20})
    loaded = AutoImageProcessor.from_pretrained(tmp_path, **options)
    direct = getattr(vertebra, name).from_pretrained(tmp_path, **options)
    assert loaded.to_dict() == direct.to_dict()
    assert (type(loaded).__name__, loaded.backend) == (name, backend)
    loaded.save_pretrained(tmp_path / "again")
    stored = json.loads((tmp_path / "again" / "preprocessor_config.json").read_text())
    suffix_known = name != "DINOv3ViTImageProcessor"  # of which transformers has one backend only
    assert stored["image_processor_type"] == name + ("Pil" if backend == "pil" and suffix_known else "")
    assert "backend" not in stored
    assert AutoImageProcessor.from_pretrained(tmp_path / "again").to_dict() == loaded.to_dict()
    theirs = transformers.AutoImageProcessor.from_pretrained(
        tmp_path / "again"
    )  # which forgets PIL: 5.x has a plain name
    assert type(theirs).__name__ == name
    assert dict(theirs.size) == dict(loaded.size)


def test_wrong_backends(tmp_path: Path) -> None:
    write(tmp_path, "preprocessor_config.json", V4_OLD)
    with pytest.raises(ValueError, match=r"use_fast=True means backend='torchvision', but backend='pil'; pass one"):
        ViTImageProcessor.from_pretrained(tmp_path, use_fast=True, backend="pil")
    with pytest.raises(TypeError, match="use_fast='yes' is a str; give True or False"):
        ViTImageProcessor.from_pretrained(tmp_path, use_fast="yes")
    with pytest.raises(
        ValueError, match=r"backend='pill' does not exist; there is torchvision, pil\. Did you mean 'pil'"
    ):
        ViTImageProcessor.from_pretrained(tmp_path, backend="pill")


# As in the files of facebook/convnext-tiny-224 (the same as microsoft/resnet-50) and facebook/dinov2-base; below, other families.
HUB: list[dict[str, Any]] = [
    {
        "crop_pct": 0.875,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "ConvNextFeatureExtractor",
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "resample": 3,
        "size": 224,
    },
    {
        "crop_size": {"height": 224, "width": 224},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_processor_type": "BitImageProcessor",
        "image_std": [0.229, 0.224, 0.225],
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"shortest_edge": 256},
    },
    {"image_processor_type": "ConvNextImageProcessor", "resample": 2, "size": {"shortest_edge": 48}},
    {"image_processor_type": "ConvNextImageProcessorFast", "size": {"shortest_edge": 48}},
    # Keys as versions of 4.x wrote them; the last as KOSMOS-2 has them.
    {
        "crop_size": 64,
        "do_center_crop": False,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "BeitFeatureExtractor",
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "reduce_labels": True,
        "resample": 2,
        "size": 64,
    },
    {
        "crop_size": 224,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "DeiTFeatureExtractor",
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "resample": 3,
        "size": 256,
    },
    {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_processor_type": "PvtImageProcessor",
        "image_std": [0.229, 0.224, 0.225],
        "resample": 2,
        "rescale_factor": 0.00392156862745098,
        "size": {"height": 224, "width": 224},
    },
    {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "SiglipImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "SiglipProcessor",
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"height": 224, "width": 224},
    },
    {
        "crop_size": 224,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "size": 224,
    },
    {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "Kosmos2Processor",
        "size": {"shortest_edge": 224},
        "use_square_size": True,
    },
]


@pytest.mark.parametrize("stored", HUB)
@pytest.mark.parametrize("backend", ["torchvision", "pil"])
def test_files_of_the_hub_mean_the_same(noise: Any, tmp_path: Path, stored: dict[str, Any], backend: str) -> None:
    write(tmp_path, "preprocessor_config.json", stored)
    image = Image.fromarray(noise(90, 70))
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend=backend)
    ours = AutoImageProcessor.from_pretrained(tmp_path, backend=backend)
    assert ours.resample == stored.get("resample", 3)
    expected = theirs(image, return_tensors="pt")["pixel_values"]
    assert torch.equal(ours(image, return_tensors="pt")["pixel_values"], expected)
    theirs.save_pretrained(tmp_path / "theirs")
    again = AutoImageProcessor.from_pretrained(tmp_path / "theirs", backend=backend)
    assert torch.equal(again(image, return_tensors="pt")["pixel_values"], expected)


def test_convnext_takes_a_shortest_edge_only() -> None:
    with pytest.raises(ValueError, match=r"ConvNextImageProcessor resizes to; give an int or \{'shortest_edge': …\}"):
        ConvNextImageProcessor(size=[30, 40])(Image.new("RGB", (20, 20)))


@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_those_of_transformers(name: str) -> None:
    ours, theirs = getattr(vertebra, name)(), getattr(transformers, name)()
    assert json.loads(ours.to_json_string()) == json.loads(theirs.to_json_string())
