"""Storing feature maps, and reading them back."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import close, same
from PIL import Image
from real import photos, tiny_backbone, tiny_processor
from safetensors.torch import load_file

from vertebra.extraction.estimate import estimate
from vertebra.extraction.extract import Extraction, TooManyBad, extract
from vertebra.extraction.plan import open_plans
from vertebra.extraction.recipe import Recipe
from vertebra.extraction.reduction import Reduction
from vertebra.extraction.shard_file import read_metadata
from vertebra.extraction.storage import open_storage
from vertebra.extraction.store.feature_store import FeatureStore

LEVELS = ["stem", "stage1", "stage2"]
IDS = ["cat.png", "daisy.jpg", "espresso.png", "moped.png", "palace.jpg"]


def reasons(out: Path) -> dict[str, str]:
    """What is said of the images in quarantine."""
    return {id_: failure.error for id_, failure in FeatureStore(out).quarantine.items()}


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
    features = FeatureStore(tmp_path / "out")
    assert list(features.ids) == list(features) == IDS
    torch.manual_seed(0)
    backbone, processor = tiny_backbone(out_features=LEVELS), tiny_processor()
    for id_ in IDS:
        with torch.inference_mode():
            expected = backbone(**processor(photos() / id_, return_tensors="pt")).feature_maps
        assert list(features.read(id_)) == LEVELS
        close(tuple(features.read(id_).values()), tuple(level[0] for level in expected), name=id_)
        same(features["stage1"][id_], features.read(id_)["stage1"])


def test_layout_on_disk(tmp_path: Path) -> None:
    run(photos(), tmp_path / "out")
    tensors = load_file(tmp_path / "out/shards/000000.safetensors")
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    assert shapes == {"stem": [5, 4, 8, 12], "stage1": [5, 4, 8, 12], "stage2": [5, 8, 4, 6]}
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    header = read_metadata(open_storage(tmp_path / "out"), "shards/000000.safetensors")
    (plan,) = open_plans(tmp_path / "out")
    assert json.loads(header["ids"]) == [image.id for image in plan.ids_of(0)] == IDS
    assert header["fingerprint"] == plan.fingerprint
    assert FeatureStore(tmp_path / "out").place("daisy.jpg") == (0, 1, (32, 48))
    assert plan.meaning["levels"][2] | {"offset": 0} == {
        "name": "stage2",
        "index": 2,
        "channels": 8,
        "stride": [8, 8],
        "offset": 0,
    }
    assert plan.meaning["preprocessing"]["image_processor_type"] == "ViTImageProcessor"
    assert plan.record["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert not list(tmp_path.rglob("*.tmp"))


def test_levels_are_stages(tmp_path: Path) -> None:
    backbone = tiny_backbone(out_features=["stage2"])
    run(photos(), tmp_path / "out", backbone=backbone)
    assert tuple(FeatureStore(tmp_path / "out").levels.values()) == backbone.output_stages


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtypes(tmp_path: Path, dtype: str) -> None:
    run(photos() / "cat.png", tmp_path / "out", dtype=dtype)
    assert FeatureStore(tmp_path / "out")["stem"]["cat.png"].dtype == getattr(torch, dtype)


def test_several_shards_hold_the_same_values(tmp_path: Path) -> None:
    run(photos(), tmp_path / "one", dtype="float32", batch_size=2)
    done = run(photos(), tmp_path / "many", dtype="float32", batch_size=2, shard_bytes=1)
    assert done.shards == 5
    one, many = FeatureStore(tmp_path / "one"), FeatureStore(tmp_path / "many")
    assert many.place("moped.png").shard == 3
    for id_ in IDS:
        close(tuple(many.read(id_).values()), tuple(one.read(id_).values()), name=id_)


def test_sizes_of_their_own_get_tensors_of_their_own(mixed: Path, tmp_path: Path) -> None:
    done = run(mixed, tmp_path / "out", processor=tiny_processor(do_resize=False), batch_size=3, dtype="float32")
    assert done.extracted == 4
    names = load_file(tmp_path / "out/shards/000000.safetensors")
    assert {name: list(tensor.shape) for name, tensor in names.items() if "stem" in name} == {
        "stem@32x64": [2, 4, 8, 16],
        "stem@32x32": [2, 4, 8, 8],
    }
    features = FeatureStore(tmp_path / "out")
    torch.manual_seed(0)
    backbone, processor = tiny_backbone(out_features=LEVELS), tiny_processor(do_resize=False)
    for id_ in ("a.png", "b.png", "c.png", "d.png"):
        with torch.inference_mode():
            expected = backbone(**processor(mixed / id_, return_tensors="pt")).feature_maps
        close(tuple(features.read(id_).values()), tuple(level[0] for level in expected), name=id_)


def test_failed_images_are_listed_and_the_others_go_on(mixed: Path, tmp_path: Path) -> None:
    done = run(mixed, tmp_path / "out")
    assert (done.exit_code, done.extracted, set(done.failed)) == (3, 4, {"cut.jpg", "text.png"})
    assert reasons(tmp_path / "out") == done.failed
    assert "truncated" in done.failed["cut.jpg"]
    assert done.failed["text.png"] == "UnidentifiedImageError: cannot identify image file 'text.png'"
    with pytest.raises(KeyError, match=r"'text\.png' has no features, its extraction failed \(decode\): Unidentified"):
        FeatureStore(tmp_path / "out").read("text.png")


def test_nothing_extracted_is_a_failure(mixed: Path, tmp_path: Path) -> None:
    done = run(mixed / "text.png", tmp_path / "out")
    assert (done.exit_code, done.extracted) == (1, 0)
    assert reasons(tmp_path / "out") == done.failed


def test_values_beyond_the_dtype_are_never_stored(tmp_path: Path) -> None:
    backbone = tiny_backbone(out_features=["stem"])
    norm = next(module for module in backbone.modules() if isinstance(module, torch.nn.BatchNorm2d))
    torch.nn.init.constant_(norm.bias, 1e5)
    done = run(photos() / "cat.png", tmp_path / "half", backbone=backbone)
    assert done.failed == {
        "cat.png": "ValueError: values of stem are not finite as float16. bfloat16 and float32 reach further."
    }
    assert run(photos() / "cat.png", tmp_path / "brain", backbone=backbone, dtype="bfloat16").exit_code == 0


def test_size_wins_over_the_processor(tmp_path: Path) -> None:
    run(photos() / "cat.png", tmp_path / "out", size=(64, 16))
    features = FeatureStore(tmp_path / "out")
    assert features["stage2"]["cat.png"].shape == (8, 8, 2)
    assert features.meaning["preprocessing"]["size"] == {"height": 64, "width": 16}


def test_same_job_again_computes_what_is_missing(tmp_path: Path) -> None:
    assert run(photos(), tmp_path / "out", shard_bytes=1).computed == 5
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    (tmp_path / "out/shards/000001.safetensors").unlink()  # as after a kill
    again = run(photos(), tmp_path / "out", shard_bytes=1)
    assert (again.computed, again.extracted, again.shards) == (1, 5, 5)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()} == files
    assert run(photos(), tmp_path / "out").computed == 0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"dtype": "bfloat16"}, "dtype: stored 'float16', asked 'bfloat16'"),
        ({"size": (32, 32)}, "preprocessing.size.width: stored 48, asked 32"),
        ({"processor": tiny_processor(image_mean=[0.4] * 3)}, "preprocessing.image_mean: stored"),
    ],
)
def test_another_job_is_refused(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    run(photos() / "cat.png", tmp_path / "out")
    with pytest.raises(ValueError, match=f"holds the features of another job:\n  {text}"):
        run(photos() / "cat.png", tmp_path / "out", **change)
    torch.manual_seed(1)
    other_weights = tiny_backbone(out_features=LEVELS)
    with pytest.raises(ValueError, match=r"model\.weights_sha256: stored"):
        extract(photos() / "cat.png", tmp_path / "out", other_weights, tiny_processor())


def test_appending_and_trying_again(mixed: Path, tmp_path: Path) -> None:
    assert run(mixed, tmp_path / "out").failed.keys() == {"cut.jpg", "text.png"}
    Image.new("RGB", (9, 9)).save(mixed / "text.png")
    Image.new("RGB", (9, 9)).save(mixed / "new.png")
    waiting = run(mixed, tmp_path / "out")
    assert (waiting.computed, waiting.unplanned) == (0, 1)
    done = run(mixed, tmp_path / "out", append=True, retry_quarantined=True)
    assert (done.computed, done.planned, done.extracted, done.failed.keys()) == (3, 7, 6, {"cut.jpg"})
    features = FeatureStore(tmp_path / "out")
    assert list(features.ids) == ["a.png", "b.png", "c.png", "d.png", "new.png", "text.png"]
    assert features["stage2"]["new.png"].equal(features["stage2"]["text.png"])


def test_shares_of_several_machines(tmp_path: Path) -> None:
    first = run(photos(), tmp_path / "out", shard_bytes=1, shard_index=1, shard_count=3)
    assert (first.computed, first.missing, first.exit_code) == (2, 3, 0)
    features = FeatureStore(tmp_path / "out")
    assert (list(features.ids), features.missing) == (["daisy.jpg", "palace.jpg"], 3)
    with pytest.raises(KeyError, match=r"There is no image 'cat\.png'\..* 3 more are still to be computed"):
        features["stem"]["cat.png"]
    for index in (0, 2):
        last = run(photos(), tmp_path / "out", shard_bytes=1, shard_index=index, shard_count=3)
    assert (last.extracted, last.missing) == (5, 0)
    with pytest.raises(ValueError, match=r"shard_index=3 must be within 0\.\.2, since shard_count=3"):
        run(photos(), tmp_path / "out", shard_index=3, shard_count=3)


def test_too_many_bad_images(mixed: Path, tmp_path: Path) -> None:
    with pytest.raises(
        TooManyBad, match=r"2 of 6 images are in quarantine, more than max_bad=0\.3 allows; the first: 'cut"
    ):
        run(mixed, tmp_path / "out", max_bad=0.3)
    assert run(mixed, tmp_path / "out", max_bad=0.34).exit_code == 3


def test_images_that_were_mended_are_tried_again_before_too_many_are_bad(mixed: Path, tmp_path: Path) -> None:
    """What is in quarantine and about to be tried again counts when it has failed again."""
    for _ in range(2):
        with pytest.raises(TooManyBad, match=r"2 of 6 images are in quarantine"):
            run(mixed, tmp_path / "out", max_bad=0.2)
    (mixed / "text.png").write_bytes((mixed / "a.png").read_bytes())
    with pytest.raises(TooManyBad, match=r"1 of 6 images are in quarantine.*'cut"):
        run(mixed, tmp_path / "out", max_bad=0.1, retry_quarantined=True)
    (mixed / "cut.jpg").write_bytes((mixed / "b.png").read_bytes())
    done = run(mixed, tmp_path / "out", max_bad=0, retry_quarantined=True)
    assert (done.extracted, done.failed, done.missing, done.exit_code) == (6, {}, 0, 0)


def test_local_engine_leaves_the_same_store(mixed: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    torch.manual_seed(0)
    tiny_backbone(out_features=LEVELS).save_pretrained(model)
    tiny_processor().save_pretrained(model)
    recipe = Recipe(str(model), {"out_features": LEVELS}, reductions={"stem": Reduction("mean")})
    for engine, workers in (("inline", None), ("local", 2)):
        done = extract(mixed, tmp_path / engine, recipe, shard_bytes=1500, engine=engine, workers=workers)
        assert (done.extracted, done.failed.keys(), done.shards) == (4, {"cut.jpg", "text.png"}, 6)
    for path in (tmp_path / "inline/shards").iterdir():
        assert path.read_bytes() == (tmp_path / "local/shards" / path.name).read_bytes()
    features = FeatureStore(tmp_path / "local")
    assert features.levels["stem"] is None
    assert features["stem"]["a.png"].shape == (4, 1, 1)


def test_images_in_memory(tmp_path: Path) -> None:
    images = [(path.name, Image.open(path).convert("RGB")) for path in sorted(photos().iterdir())]
    run(images, tmp_path / "memory", dtype="float32")
    run(photos(), tmp_path / "files", dtype="float32")
    one, two = FeatureStore(tmp_path / "memory"), FeatureStore(tmp_path / "files")
    for id_ in IDS:
        close(tuple(one.read(id_).values()), tuple(two.read(id_).values()), name=id_)


def test_estimate(mixed: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    recipe = Recipe(tiny_backbone(out_features=LEVELS), processor=tiny_processor())
    with pytest.raises(FileExistsError, match=r"holds other files \(.*give a new or an empty folder"):
        estimate(mixed, mixed, recipe)
    expected = estimate(mixed, tmp_path / "none/out", recipe)
    assert not (tmp_path / "none").exists()
    assert (expected.images, expected.done, expected.sample, expected.bad, expected.fits) == (6, 0, 6, 2, True)
    assert expected.size_bytes == 4 * 1920
    assert expected.images_per_second > 0
    assert expected.seconds == expected.images / expected.images_per_second
    run(mixed, tmp_path / "out")
    again = estimate(mixed, tmp_path / "out", recipe)
    assert (again.images, again.done) == (0, 4)


def test_a_disk_that_is_too_small(tmp_path: Path) -> None:
    """Maps of 10 TB an image do not fit anywhere."""
    backbone = tiny_backbone(out_features=LEVELS)
    processor = tiny_processor(do_resize=False)
    picture = Image.new("RGB", (40, 40))
    huge = run([("a", picture)], tmp_path / "out", backbone=backbone, processor=processor)
    assert huge.extracted == 1
    (plan,) = open_plans(tmp_path / "out")
    path = tmp_path / "out/plan-0000.json"
    path.write_text(
        path.read_text().replace(f'"bytes_per_image": {plan.bytes_per_image}', '"bytes_per_image": 9000000000000000')
    )
    (tmp_path / "out/shards/000000.safetensors").unlink()
    with pytest.raises(OSError, match=r"The maps need about 8381903\.2 GiB, and .* GiB are free at .*Store less"):
        run([("a", picture)], tmp_path / "out", backbone=backbone, processor=processor)


def test_folders_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match=r"holds other files \(cat\.png, daisy\.jpg"):
        run(photos(), photos())
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file; give the folder"):
        run(photos(), tmp_path / "file")


def test_bad_arguments(tmp_path: Path) -> None:
    for options, text in (
        ({"dtype": "int8"}, "dtype='int8' must be one of float16, bfloat16, float32"),
        ({"engine": "dask"}, "engine='dask' must be one of inline, local, ray"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"device": "gpu"}, r"device='gpu' cannot be used here.*'cpu' always works"),
        ({"backbone": tiny_backbone().train()}, r"call backbone\.eval\(\)"),
        ({"backbone": tiny_backbone(out_indices=())}, "selects no stage"),
        ({"backbone": tiny_backbone(size_policy="floor"), "size": (4, 4)}, "The smallest size is 8x8"),
    ):
        with pytest.raises(ValueError, match=text):
            run(photos(), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="the engine 'inline' is this one; take the engine 'local'"):
        run(photos(), tmp_path / "out", workers=2)
