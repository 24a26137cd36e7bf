"""Storing feature maps, and reading them back."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import close, same
from PIL import Image
from real import photos, tiny_backbone, tiny_processor
from safetensors.torch import load_file

from vertebra.extraction.extract import Extraction, extract
from vertebra.extraction.reader import load_features
from vertebra.extraction.shards import read_header

LEVELS = ["stem", "stage1", "stage2"]
IDS = ["cat.png", "daisy.jpg", "espresso.png", "moped.png", "palace.jpg"]


def run(source: Any, out: Path, **options: Any) -> Extraction:
    torch.manual_seed(0)
    backbone = options.pop("backbone", None) or tiny_backbone(out_features=LEVELS)
    processor = options.pop("processor", None) or tiny_processor()
    return extract(source, out, backbone, processor, **options)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Two sizes, a truncated file and a text file called .png."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for name, size in (("a.png", (64, 32)), ("b.png", (32, 32)), ("c.png", (64, 32)), ("d.png", (32, 32))):
        Image.effect_noise(size, 80).convert("RGB").save(folder / name)
    whole = (photos() / "daisy.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("no image")
    return folder


def test_values_are_the_backbones_own(tmp_path: Path) -> None:
    done = run(photos(), tmp_path / "out", dtype="float32", batch_size=2)
    assert (done.exit_code, done.extracted, done.failed, done.shards) == (0, 5, {}, 1)
    features = load_features(tmp_path / "out")
    assert features.ids == list(features) == IDS
    torch.manual_seed(0)
    backbone, processor = tiny_backbone(out_features=LEVELS), tiny_processor()
    for id_ in IDS:
        with torch.inference_mode():
            expected = backbone(**processor(photos() / id_, return_tensors="pt")).feature_maps
        assert list(features[id_]) == LEVELS
        close(tuple(features[id_].values()), tuple(level[0] for level in expected), name=id_)
        same(features.read(id_, "stage1"), features[id_]["stage1"])


def test_layout_on_disk(tmp_path: Path) -> None:
    run(photos(), tmp_path / "out")
    tensors = load_file(tmp_path / "out/shards/000000.safetensors")
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    assert shapes == {"stem": [5, 4, 8, 12], "stage1": [5, 4, 8, 12], "stage2": [5, 8, 4, 6]}
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    header = read_header(tmp_path / "out/shards/000000.safetensors")
    index = json.loads((tmp_path / "out/index.json").read_text())
    assert json.loads(header["ids"]) == list(index["images"]) == IDS
    assert header["job"] == index["job"]
    assert index["images"]["daisy.jpg"] == {"shard": 0, "row": 1, "size": [32, 48]}
    assert index["levels"][2] | {"offset": 0} == {
        "name": "stage2",
        "index": 2,
        "channels": 8,
        "stride": [8, 8],
        "offset": 0,
    }
    assert index["preprocessing"]["image_processor_type"] == "ViTImageProcessor"
    assert index["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert not list(tmp_path.rglob("*.tmp"))


def test_levels_are_stages(tmp_path: Path) -> None:
    backbone = tiny_backbone(out_features=["stage2"])
    run(photos(), tmp_path / "out", backbone=backbone)
    assert tuple(load_features(tmp_path / "out").levels.values()) == backbone.output_stages


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtypes(tmp_path: Path, dtype: str) -> None:
    run(photos() / "cat.png", tmp_path / "out", dtype=dtype)
    assert load_features(tmp_path / "out")["cat.png"]["stem"].dtype == getattr(torch, dtype)


def test_several_shards_hold_the_same_values(tmp_path: Path) -> None:
    run(photos(), tmp_path / "one", dtype="float32", batch_size=2)
    done = run(photos(), tmp_path / "many", dtype="float32", batch_size=2, shard_bytes=1)
    assert done.shards == 5
    one, many = load_features(tmp_path / "one"), load_features(tmp_path / "many")
    assert many.place("moped.png").shard == 3
    for id_ in IDS:
        close(tuple(many[id_].values()), tuple(one[id_].values()), name=id_)


def test_sizes_of_their_own_get_tensors_of_their_own(mixed: Path, tmp_path: Path) -> None:
    done = run(mixed, tmp_path / "out", processor=tiny_processor(do_resize=False), batch_size=3, dtype="float32")
    assert done.extracted == 4
    names = load_file(tmp_path / "out/shards/000000.safetensors")
    assert {name: list(tensor.shape) for name, tensor in names.items() if "stem" in name} == {
        "stem@32x64": [2, 4, 8, 16],
        "stem@32x32": [2, 4, 8, 8],
    }
    features = load_features(tmp_path / "out")
    torch.manual_seed(0)
    backbone, processor = tiny_backbone(out_features=LEVELS), tiny_processor(do_resize=False)
    for id_ in ("a.png", "b.png", "c.png", "d.png"):
        with torch.inference_mode():
            expected = backbone(**processor(mixed / id_, return_tensors="pt")).feature_maps
        close(tuple(features[id_].values()), tuple(level[0] for level in expected), name=id_)


def test_failed_images_are_listed_and_the_others_go_on(mixed: Path, tmp_path: Path) -> None:
    done = run(mixed, tmp_path / "out")
    assert (done.exit_code, done.extracted, set(done.failed)) == (3, 4, {"cut.jpg", "text.png"})
    index = json.loads((tmp_path / "out/index.json").read_text())
    assert index["failed"] == done.failed
    assert "truncated" in done.failed["cut.jpg"]
    assert done.failed["text.png"] == "UnidentifiedImageError: cannot identify image file 'text.png'"
    with pytest.raises(KeyError, match=r"'text\.png' has no features, its extraction failed: Unidentified"):
        load_features(tmp_path / "out")["text.png"]


def test_nothing_extracted_is_a_failure(mixed: Path, tmp_path: Path) -> None:
    done = run(mixed / "text.png", tmp_path / "out")
    assert (done.exit_code, done.extracted) == (1, 0)
    assert load_features(tmp_path / "out").failed == done.failed


def test_values_beyond_the_dtype_are_never_stored(tmp_path: Path) -> None:
    backbone = tiny_backbone(out_features=["stem"])
    norm = next(module for module in backbone.modules() if isinstance(module, torch.nn.BatchNorm2d))
    torch.nn.init.constant_(norm.bias, 1e5)
    done = run(photos() / "cat.png", tmp_path / "half", backbone=backbone)
    assert done.failed == {"cat.png": "Values of stem are not finite as float16; bfloat16 and float32 reach further."}
    assert run(photos() / "cat.png", tmp_path / "brain", backbone=backbone, dtype="bfloat16").exit_code == 0


def test_size_wins_over_the_processor(tmp_path: Path) -> None:
    run(photos() / "cat.png", tmp_path / "out", size=(64, 16))
    features = load_features(tmp_path / "out")
    assert features["cat.png"]["stage2"].shape == (8, 8, 2)
    assert features.index["preprocessing"]["size"] == {"height": 64, "width": 16}


def test_same_job_again(tmp_path: Path) -> None:
    run(photos(), tmp_path / "out", shard_bytes=1)
    before = (tmp_path / "out/index.json").read_text()
    (tmp_path / "out/index.json").unlink()  # as after a kill
    (tmp_path / "out/shards/000001.safetensors").unlink()
    run(photos(), tmp_path / "out", shard_bytes=1)
    assert (tmp_path / "out/index.json").read_text() == before


@pytest.mark.parametrize(
    "change", [{"dtype": "bfloat16"}, {"size": (32, 32)}, {"processor": tiny_processor(image_mean=[0.4] * 3)}]
)
def test_another_job_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    run(photos() / "cat.png", tmp_path / "out")
    with pytest.raises(FileExistsError, match=r"holds the features of another job \(another model, selection"):
        run(photos() / "cat.png", tmp_path / "out", **change)
    torch.manual_seed(1)
    other_weights = tiny_backbone(out_features=LEVELS)
    with pytest.raises(FileExistsError, match="another job"):
        extract(photos() / "cat.png", tmp_path / "out", other_weights, tiny_processor())


def test_folders_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match=r"holds other files \(cat\.png, daisy\.jpg"):
        run(photos(), photos())
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file; give the folder"):
        run(photos(), tmp_path / "file")
    (tmp_path / "out/shards").mkdir(parents=True)
    (tmp_path / "out/shards/000000.safetensors").write_text("junk")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        run(photos(), tmp_path / "out")


def test_bad_arguments(tmp_path: Path) -> None:
    for options, text in (
        ({"dtype": "int8"}, "dtype='int8' must be one of float16, bfloat16, float32"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"device": "gpu"}, r"device='gpu' cannot be used here.*'cpu' always works"),
        ({"backbone": tiny_backbone().train()}, r"call backbone\.eval\(\)"),
        ({"backbone": tiny_backbone(out_indices=())}, "selects no stage"),
        ({"backbone": tiny_backbone(size_policy="floor"), "size": (4, 4)}, "The smallest size is 8x8"),
    ):
        with pytest.raises(ValueError, match=text):
            run(photos(), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_reader_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no complete extraction: it has no index\.json"):
        load_features(tmp_path)
    run(photos(), tmp_path / "out")
    features = load_features(tmp_path / "out")
    with pytest.raises(KeyError, match=r"There is no image 'cat\.jpg'\. Did you mean 'cat\.png'.*5 images"):
        features["cat.jpg"]
    with pytest.raises(KeyError, match=r"There is no level 'stage3'\. Did you mean 'stage2', 'stage1'"):
        features.read("cat.png", "stage3")
    (tmp_path / "out/shards/000000.safetensors").write_bytes(b"junk")
    with pytest.raises(OSError, match=r"000000\.safetensors' is damaged or missing"):
        load_features(tmp_path / "out")["cat.png"]
    index = tmp_path / "out/index.json"
    index.write_text(re.sub('"format": 1', '"format": 9', index.read_text(), count=1))
    with pytest.raises(ValueError, match="has format 9; this version of vertebra reads 1"):
        load_features(tmp_path / "out")
