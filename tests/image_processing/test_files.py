"""Files: what transformers 4 and 5 wrote, overrides, the round trip, and files that are wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vertebra.image_processing.backends import split_type
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


def write(folder: Path, name: str, content: Any) -> Path:
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


@pytest.mark.parametrize("stored", [V4_FAST, V4_OLD, {**V4_OLD, "image_processor_type": "ViTImageProcessorPil"}])
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
    ("written", "name"),
    [
        ("ViTImageProcessor", "ViTImageProcessor"),
        ("ViTImageProcessorFast", "ViTImageProcessor"),
        ("ViTImageProcessorPil", "ViTImageProcessor"),
        ("ViTFeatureExtractor", "ViTImageProcessor"),
        ("TimmWrapperImageProcessor", "TimmWrapperImageProcessor"),
    ],
)
def test_class_names_in_files(written: str, name: str) -> None:
    assert split_type(written)[0] == name
