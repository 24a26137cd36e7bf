"""One shard: the values are the backbone's, the bytes are always the same, and what is bad is told apart."""

import io
import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_cases import Plain
from oracle import close, same
from PIL import Image
from real import photos, tiny_backbone, tiny_processor
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_store import LEVELS, broken_jpegs, compute_shards, jpeg, jpegs, recipe

from vertebra.extraction.engines import server
from vertebra.extraction.image_table import image_table
from vertebra.extraction.images import ImageRef, read_uri
from vertebra.extraction.plan import Plan, make_plan
from vertebra.extraction.recipe import Recipe
from vertebra.extraction.reduction import Reduction
from vertebra.extraction.runtime import Runtime, dense, finite_rows
from vertebra.extraction.shard_file import Failure, checksum, read_metadata, shard_name
from vertebra.extraction.storage import open_storage
from vertebra.extraction.worker import Receipt, compute_shard, extract_shard, extract_shards
from vertebra.optimization.engines import ENGINES

BYTES = 1920
Make = Callable[..., Runtime]


@pytest.fixture
def runtime() -> Iterator[Make]:
    made: list[Runtime] = []

    def make(whole: Recipe | None = None, **options: Any) -> Runtime:
        made.append(Runtime(whole or recipe(**options)))
        return made[-1]

    yield make
    for each in made:
        each.close()


def run(source: Any, out: Path, runtime: Runtime, shard_bytes: int = 2**28) -> tuple[Plan, list[Receipt]]:
    found = image_table(source)
    if found.images:
        runtime.recipe = replace(runtime.recipe, images=found.images)
    plan = make_plan(found, out, runtime, shard_bytes)
    return plan, list(extract_shards(plan, plan.shards, runtime))


def read(plan: Plan, shard: int = 0) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors of a shard, and its metadata with their JSON read."""
    path = plan.storage.folder / shard_name(shard)
    header = read_metadata(open_storage(path.parent), path.name)
    metadata = {key: json.loads(value) if value[:1] in "[{" else value for key, value in header.items()}
    with safe_open(path, "pt") as file:
        assert file.metadata() == header
    return load_file(path), metadata


def test_values_are_the_backbones_own(tmp_path: Path, runtime: Make) -> None:
    plan, receipts = run(photos(), tmp_path / "out", runtime(dtype="float32", batch_size=2), 3 * 2 * BYTES)
    assert [(r.shard, r.ids, r.quarantined, r.smallest_batch) for r in receipts] == [(0, 3, 0, 0), (1, 2, 0, 0)]
    assert [r.bytes for r in receipts] == [(plan.storage.folder / shard_name(k)).stat().st_size for k in plan.shards]
    whole = recipe()
    for k in plan.shards:
        tensors, metadata = read(plan, k)
        assert tensors.keys() == set(LEVELS)
        assert metadata["ids"] == [image.id for image in plan.ids_of(k)]
        for row, id_ in enumerate(metadata["ids"]):
            with torch.inference_mode():
                expected = whole.model(**whole.processor(photos() / id_, return_tensors="pt")).feature_maps  # type: ignore
            close(tuple(tensors[level][row] for level in LEVELS), tuple(level[0] for level in expected), name=id_)
            with Image.open(photos() / id_) as picture:
                assert metadata["sizes"][id_] == [picture.height, picture.width]


def test_layout_on_disk(tmp_path: Path, runtime: Make) -> None:
    plan, _ = run(photos(), tmp_path / "out", runtime())
    tensors, metadata = read(plan)
    assert {name: list(tensor.shape) for name, tensor in tensors.items()} == {
        "stem": [5, 4, 8, 12], "stage1": [5, 4, 8, 12], "stage2": [5, 8, 4, 6],
    }  # fmt: skip
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    with (plan.storage.folder / shard_name(0)).open("rb") as file:
        assert checksum(file) == (metadata["checksum"],) * 2
    assert {**metadata, "ids": 0, "sizes": 0, "checksum": 0} == {
        "format": "2", "fingerprint": plan.fingerprint, "generation": "0", "plan": plan.digest, "shard": "0",
        "size": "32x48", "quarantine": {}, "ids": 0, "sizes": 0, "checksum": 0,
    }  # fmt: skip
    assert [path.name for path in (plan.storage.folder / "shards").iterdir()] == ["000000.safetensors"]


@pytest.mark.parametrize("part", [b"cat.png", b"32x48", b"427,640", None])
def test_tampering_shows(tmp_path: Path, runtime: Make, part: bytes | None) -> None:
    plan, _ = run(photos(), tmp_path / "out", runtime())
    data = bytearray((plan.storage.folder / shard_name(0)).read_bytes())
    data[data.index(part) if part else -1] ^= 1
    stated, actual = checksum(io.BytesIO(data))
    assert stated != actual


def test_sizes_of_their_own_get_tensors_of_their_own(tmp_path: Path, runtime: Make) -> None:
    sizes = [(64, 32), (32, 32), (64, 32), (32, 32), (64, 32)]  # (width, height)
    images = [(f"{i}", jpeg(i, size)) for i, size in enumerate(sizes)]
    make = runtime(processor=tiny_processor(do_resize=False), batch_size=2, dtype="float32")
    plan, _ = run(images, tmp_path / "out", make)
    tensors, metadata = read(plan)
    assert {name: list(tensor.shape) for name, tensor in tensors.items() if "stem" in name} == {
        "stem@32x64": [3, 4, 8, 16], "stem@32x32": [2, 4, 8, 8],
    }  # fmt: skip
    assert (metadata["ids@32x64"], metadata["ids@32x32"]) == (["0", "2", "4"], ["1", "3"])
    assert "size" not in metadata
    for size, ids in (("32x64", metadata["ids@32x64"]), ("32x32", metadata["ids@32x32"])):
        for row, id_ in enumerate(ids):
            alone, _ = compute_shard([ImageRef(id_, "memory:")], runtime(replace(make.recipe, images=dict(images))))
            (maps,) = alone.maps.values()
            close(tensors[f"stage2@{size}"][row], maps["stage2"][0][0], name=id_)


def test_reductions_are_what_is_stored(tmp_path: Path, runtime: Make) -> None:
    whole, _ = run(photos(), tmp_path / "whole", runtime(dtype="float32"))
    reductions = {"stem": Reduction("mean"), "stage2": Reduction(stride=2, channels="0:3"), "*": Reduction("max2")}
    job = runtime(dtype="float32", reductions=reductions)
    less, _ = run(photos(), tmp_path / "less", job)
    maps, kept = read(whole)[0], read(less)[0]
    close(kept["stem"][:, :, 0, 0], maps["stem"].mean((2, 3)))
    same(kept["stage2"], maps["stage2"][:, :3, ::2, ::2])
    same(kept["stage1"], maps["stage1"].unflatten(2, (4, 2)).unflatten(4, (6, 2)).amax((3, 5)))
    assert job.bytes_per_image() == sum(tensor[0].nbytes for tensor in kept.values())
    with pytest.raises(ValueError, match=r"There is no level 'stage3' to reduce\. Did you mean 'stage2', 'stage1'"):
        runtime(reductions={"stage3": Reduction("mean")})


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtypes(tmp_path: Path, runtime: Make, dtype: str) -> None:
    plan, _ = run(photos() / "cat.png", tmp_path / "out", runtime(dtype=dtype, compute_dtype="bfloat16"))
    tensors, _ = read(plan)
    assert {tensor.dtype for tensor in tensors.values()} == {getattr(torch, dtype)}
    exact, _ = run(photos() / "cat.png", tmp_path / "exact", runtime(dtype="float32"))
    for name, level in read(exact)[0].items():
        close(tensors[name].float(), level, tol=0.03, name=name)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an engine that compiles in a moment."""
    monkeypatch.setitem(ENGINES, "plain", Plain("plain", dtypes=(torch.float32, torch.bfloat16)))
    return "plain"


def test_an_engine_computes_the_same_job(tmp_path: Path, runtime: Make, engine: str) -> None:
    made, plain = (runtime(dtype="float32", backend=backend) for backend in (engine, None))
    assert made.fingerprint == plain.fingerprint
    assert (made.record["backend"], plain.record["backend"]) == (engine, None)
    stores = [run(photos(), tmp_path / str(index), job)[0] for index, job in enumerate((made, plain))]
    found, expected = (read(plan)[0] for plan in stores)
    close(list(found.values()), list(expected.values()))
    assert made.model.optimization.backend == engine


def test_a_backbone_that_is_optimized(tmp_path: Path, runtime: Make, engine: str) -> None:
    torch.manual_seed(0)
    plain = tiny_backbone(out_features=LEVELS)
    exact, _ = run(photos(), tmp_path / "exact", runtime(backbone=plain, dtype="float32"))
    for dtype in ("float32", "bfloat16"):
        fast = plain.optimize(engine, dtype=dtype, image_size=(32, 48), batch_size=2, verbose=False)
        made = runtime(backbone=fast, dtype="float32")
        assert (made.compute_dtype, made.record["backend"]) == (dtype, f"{engine} in torch.{dtype}")
        assert made.model is fast
        assert (made.fingerprint == runtime(backbone=plain, dtype="float32").fingerprint) == (dtype == "float32")
        plan, _ = run(photos(), tmp_path / dtype, made)
        for name, level in read(exact)[0].items():
            close(read(plan)[0][name], level, name=name)
        assert len(fast._graphs) > 0, "what is compiled serves the next job"
    with pytest.raises(
        ValueError, match=r"compute_dtype='float32', and the backbone was optimized to compute in bfloat16"
    ):
        runtime(backbone=fast, compute_dtype="float32")


def test_the_backbone_given_is_not_changed(runtime: Make) -> None:
    made = runtime(compute_dtype="bfloat16")
    assert made.model.dtype == torch.bfloat16
    assert made.backbone.dtype == torch.float32


# Bytes


def test_bytes_depend_on_the_shard_alone(tmp_path: Path, runtime: Make) -> None:
    """The same from one process or two, in any order, decoded by one thread or four, one by one or in a row."""
    source = jpegs(tmp_path / "photos", 13)
    broken_jpegs(source)
    plan, _ = run(source, tmp_path / "out", runtime(batch_size=3), 5 * BYTES)
    expected = {k: (plan.storage.folder / shard_name(k)).read_bytes() for k in plan.shards}
    assert len(expected) == 4
    for threads in (1, 4):
        for path in (plan.storage.folder / "shards").iterdir():
            path.unlink()
        fresh = runtime(batch_size=3, decode_threads=threads)
        for k in random.Random(threads).sample(list(plan.shards), 4):
            extract_shard(plan, k, fresh)
        assert {k: (plan.storage.folder / shard_name(k)).read_bytes() for k in plan.shards} == expected
    for path in (plan.storage.folder / "shards").iterdir():
        path.unlink()
    process = server.context().Process(target=compute_shards, args=(str(plan.storage.folder), [2, 0, 3, 1], 3))
    process.start()
    process.join(100)
    assert process.exitcode == 0
    assert {k: (plan.storage.folder / shard_name(k)).read_bytes() for k in plan.shards} == expected


# Bad images


def test_broken_files_are_told_apart_from_good_ones(tmp_path: Path, runtime: Make) -> None:
    source = jpegs(tmp_path / "photos", 4)
    kinds = broken_jpegs(source)
    plan, (receipt,) = run(source, tmp_path / "out", runtime())
    tensors, metadata = read(plan)
    assert (receipt.ids, receipt.quarantined) == (10, 6)
    assert metadata["ids"] == [f"{i:04d}.jpg" for i in range(4)]
    assert metadata["sizes"].keys() == set(metadata["ids"])
    assert metadata["quarantine"].keys() == kinds.keys()
    for name, said in kinds.items():
        assert metadata["quarantine"][name]["error"].startswith(said), name
        assert (metadata["quarantine"][name]["stage"], metadata["quarantine"][name]["tries"]) == ("decode", 1)
    good, _ = run(jpegs(tmp_path / "good", 4), tmp_path / "other", runtime())
    for name, level in read(good)[0].items():
        same(tensors[name], level)


def test_files_that_cannot_be_read(tmp_path: Path, runtime: Make) -> None:
    source = jpegs(tmp_path / "photos", 2)
    os.mkfifo(source / "pipe")
    (source / "loop").symlink_to(source / "loop")
    (source / "folder").mkdir()
    (source / "large").write_bytes(bytes(2000))
    names = ["0000.jpg", "0001.jpg", "pipe", "loop", "folder", "large", "nul\0"]
    plan = make_plan(
        [(name, source / name) for name in names[:-1]] + [(names[-1], "/x\0")], tmp_path / "out", runtime()
    )
    (source / "0001.jpg").unlink()  # after planning
    extract_shard(plan, 0, runtime(max_bytes=1500))
    _, metadata = read(plan)
    assert metadata["ids"] == ["0000.jpg"]
    said = {name: (failure["stage"], failure["error"]) for name, failure in metadata["quarantine"].items()}
    assert said == {
        "0001.jpg": ("read", "FileNotFoundError: [Errno 2] No such file or directory: '0001.jpg'"),
        "pipe": ("read", "OSError: 'pipe' is not a regular file."),
        "loop": ("read", "OSError: [Errno 40] Too many levels of symbolic links: 'loop'"),
        "folder": ("read", "OSError: 'folder' is not a regular file."),
        "large": ("read", "ValueError: The file has 2,000 bytes or more, and max_bytes=1,500 are allowed."),
        "nul\0": ("read", "ValueError: embedded null byte"),
    }


def test_files_without_permission(tmp_path: Path) -> None:
    source = jpegs(tmp_path / "photos", 1)
    (source / "0000.jpg").chmod(0)
    before = os.geteuid()
    try:
        os.seteuid(before or 65534)  # root may read all
        with pytest.raises(PermissionError, match=r"Permission denied: '.*0000\.jpg'"):
            read_uri(str(source / "0000.jpg"))
    finally:
        os.seteuid(before)


def test_images_in_memory_of_every_kind(tmp_path: Path, runtime: Make) -> None:
    whole = jpeg(1)
    picture = Image.open(io.BytesIO(whole)).convert("RGB")
    kinds: dict[str, Any] = {
        "bytes": whole,
        "picture": picture,
        "array": np.asarray(picture),
        "tensor": torch.from_numpy(np.array(picture)).permute(2, 0, 1),
    }
    (tmp_path / "x.jpg").write_bytes(whole)
    source = {**kinds, "path": tmp_path / "x.jpg", "grey": np.zeros((5, 5), np.uint8), "wrong": object()}
    plan, _ = run(source, tmp_path / "out", runtime(dtype="float32"))
    tensors, metadata = read(plan)
    assert sorted(metadata["ids"]) == sorted([*kinds, "path", "grey"])
    assert metadata["sizes"] == {**{name: [30, 40] for name in (*kinds, "path")}, "grey": [5, 5]}
    rows = [tensors["stage2"][metadata["ids"].index(name)] for name in (*kinds, "path")]
    for row in rows:
        close(row, rows[0])
    (failure,) = metadata["quarantine"].values()
    assert failure["error"].startswith("TypeError: images is a object; an image is PIL.Image")


def test_sizes_that_the_backbone_does_not_run_at(tmp_path: Path, runtime: Make) -> None:
    backbone = tiny_backbone(out_features=LEVELS, size_policy="floor")
    made = runtime(backbone=backbone, processor=tiny_processor(do_resize=False))
    plan, _ = run([("small", jpeg(0, (40, 4))), ("good", jpeg(0))], tmp_path / "out", made)
    _, metadata = read(plan)
    assert metadata["ids"] == ["good"]
    failure = metadata["quarantine"]["small"]
    assert failure["stage"] == "forward"
    assert failure["error"].startswith("ValueError: ")
    assert "The smallest size is 8x8" in failure["error"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_finite_rows(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    values = [0.0, -0.0, largest, -largest, torch.finfo(dtype).tiny / 4, torch.inf, -torch.inf, torch.nan, -torch.nan]
    level = torch.zeros(len(values), 2, 3, 3, dtype=dtype)
    level[:, 1, 2, 0] = torch.tensor(values, dtype=dtype)
    assert torch.equal(finite_rows(level), torch.isfinite(level).flatten(1).all(1))
    assert finite_rows(level).tolist() == [True] * 5 + [False] * 4


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_dense(format: torch.memory_format) -> None:
    level = torch.randn(3, 8, 5, 7).to(memory_format=format)
    for part in (level, level[:, 2:4], level[:1, 2:4], level[:, :, ::2, ::3], level[:, [3, 1]]):
        copy = dense(part)
        same(copy, part)
        assert copy.is_contiguous()
        assert copy.untyped_storage().nbytes() == copy.nbytes


def overflowing() -> Any:
    backbone = tiny_backbone(out_features=["stem"])
    norm = next(module for module in backbone.modules() if isinstance(module, torch.nn.BatchNorm2d))
    torch.nn.init.constant_(norm.bias, 1e5)
    return backbone


def test_values_beyond_the_dtype_are_refused_unless_allowed(tmp_path: Path, runtime: Make) -> None:
    plan, _ = run(photos() / "cat.png", tmp_path / "half", runtime(backbone=overflowing()))
    assert read(plan)[1]["quarantine"] == {
        "cat.png": {
            "stage": "forward",
            "error": "ValueError: values of stem are not finite as float16. bfloat16 and float32 reach further.",
            "tries": 1,
        }
    }
    plan, (receipt,) = run(photos() / "cat.png", tmp_path / "brain", runtime(backbone=overflowing(), dtype="bfloat16"))
    assert receipt.quarantined == 0
    plan, _ = run(photos() / "cat.png", tmp_path / "kept", runtime(backbone=overflowing(), allow_nonfinite=True))
    assert read(plan)[0]["stem"].isinf().any()


def test_one_image_that_is_not_a_number_spoils_no_other(tmp_path: Path, runtime: Make) -> None:
    images = {f"{i}": np.random.default_rng(i).random((32, 48, 3), np.float32) for i in range(5)}
    spoiled = {**images, "2": np.full((32, 48, 3), np.nan, np.float32)}
    options: dict[str, Any] = {"processor": tiny_processor(do_rescale=False), "dtype": "float32"}
    whole, _ = run(images, tmp_path / "whole", runtime(images=images, **options))
    plan, _ = run(spoiled, tmp_path / "out", runtime(images=spoiled, **options))
    tensors, metadata = read(plan)
    assert metadata["ids"] == ["0", "1", "3", "4"]
    assert metadata["quarantine"]["2"]["error"].startswith("ValueError: values of stem, stage1, stage2 are not finite")
    for name, level in read(whole)[0].items():
        same(tensors[name], level[[0, 1, 3, 4]])


def test_crashed_images_are_not_touched(tmp_path: Path, runtime: Make) -> None:
    asked: list[str] = []

    class Asked(dict[str, Any]):
        def __getitem__(self, id_: str) -> Any:
            asked.append(id_)
            return super().__getitem__(id_)

    images = Asked({f"{i}": jpeg(i) for i in range(4)})
    made = runtime(images=images)
    plan = make_plan(images, tmp_path / "out", made)
    crash = Failure("crash", "the process ended with signal 11", 3)
    receipt = extract_shard(plan, 0, made, crashed={"2": crash, "of another shard": crash})
    assert (receipt.ids, receipt.quarantined) == (4, 1)
    assert sorted(asked) == ["0", "1", "3"]
    assert plan.quarantine() == {"2": crash}


def test_all_images_bad(tmp_path: Path, runtime: Make) -> None:
    plan, (receipt,) = run([("x", b"")], tmp_path / "out", runtime())
    tensors, metadata = read(plan)
    assert (tensors, metadata["ids"], receipt.quarantined) == ({}, [], 1)


# Memory


def short_of_memory(largest: int) -> Any:
    """A backbone on a device where no more than `largest` images fit."""
    backbone = tiny_backbone(out_features=LEVELS)

    def check(module: Any, args: tuple[torch.Tensor]) -> None:
        if len(args[0]) > largest:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    backbone.register_forward_pre_hook(check)
    return backbone


@pytest.mark.parametrize("largest", [5, 3, 1])
def test_where_memory_is_short_the_batch_is_halved(
    tmp_path: Path, runtime: Make, largest: int, caplog: pytest.LogCaptureFixture
) -> None:
    source = jpegs(tmp_path / "photos", 11)
    torch.manual_seed(0)
    made = runtime(backbone=short_of_memory(largest), batch_size=8, dtype="float32")
    plan, (receipt,) = run(source, tmp_path / "out", made)
    assert receipt.quarantined == 0
    assert receipt.smallest_batch == {5: 4, 3: 2, 1: 1}[largest]
    assert "Memory is short for 8 images of 32x48 at once; going on with 4." in caplog.text
    whole, _ = run(source, tmp_path / "whole", runtime(dtype="float32"))
    (tensors, metadata), (expected, _) = read(plan), read(whole)
    assert metadata["ids"] == [f"{i:04d}.jpg" for i in range(11)]
    for name, level in expected.items():
        close(tensors[name], level, name=name)


def test_one_image_that_is_too_large_for_the_device(tmp_path: Path, runtime: Make) -> None:
    backbone = tiny_backbone(out_features=LEVELS)

    def check(module: Any, args: tuple[torch.Tensor]) -> None:
        if args[0].shape[-1] > 1000:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")

    backbone.register_forward_pre_hook(check)
    made = runtime(backbone=backbone, processor=tiny_processor(do_resize=False), batch_size=2)
    images = [("a", jpeg(0)), ("b", jpeg(1)), ("huge", jpeg(2, (1600, 32))), ("c", jpeg(3))]
    plan, _ = run(images, tmp_path / "out", made)
    assert read(plan)[1]["quarantine"]["huge"] == {
        "stage": "forward", "error": "MemoryError: not enough memory for this image of 32x1600 pixels.", "tries": 1,
    }  # fmt: skip


def test_one_image_that_is_too_large_for_the_memory_of_a_decoder(tmp_path: Path, runtime: Make) -> None:
    class Greedy(type(tiny_processor())):  # type: ignore[misc]
        def resize(self, image: torch.Tensor, *args: Any, **settings: Any) -> torch.Tensor:
            if image.shape[-1] > 1000:
                torch.empty(2**50)
            return super().resize(image, *args, **settings)  # type: ignore[no-any-return]

    processor = Greedy(size={"height": 32, "width": 48})
    plan, _ = run([("a", jpeg(0)), ("huge", jpeg(1, (1600, 32)))], tmp_path / "out", runtime(processor=processor))
    quarantine = read(plan)[1]["quarantine"]
    assert (quarantine.keys(), quarantine["huge"]["stage"]) == ({"huge"}, "decode")
    assert "can't allocate memory" in quarantine["huge"]["error"]


def test_no_memory_from_the_start_is_an_error(tmp_path: Path, runtime: Make) -> None:
    made = runtime(backbone=short_of_memory(0))
    with pytest.raises(
        MemoryError, match=r"not memory enough on cpu for one image of 32x48 pixels.*Give a smaller size"
    ):
        run(photos(), tmp_path / "out", made)
    assert not (tmp_path / "out/shards").exists()


def test_other_errors_are_not_swallowed(tmp_path: Path, runtime: Make) -> None:
    backbone = tiny_backbone(out_features=LEVELS)

    def fail(module: Any, args: Any) -> None:
        raise RuntimeError("something else")

    backbone.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="something else"):
        run(photos(), tmp_path / "out", runtime(backbone=backbone))


def test_only_so_many_images_are_decoded_ahead(tmp_path: Path, runtime: Make) -> None:
    """What is decoded and not yet run never passes two batches and the threads."""
    made: Runtime
    most = decoded = ran = 0

    class Counted(dict[str, Any]):
        def __getitem__(self, id_: str) -> Any:
            nonlocal decoded, most
            decoded += 1
            most = max(most, decoded - ran)
            return jpeg(0)

    backbone = tiny_backbone(out_features=LEVELS)

    def count(module: Any, args: tuple[torch.Tensor], output: Any) -> None:
        nonlocal ran
        ran += len(args[0])

    backbone.register_forward_hook(count)
    images = Counted({f"{i:03d}": None for i in range(100)})
    made = runtime(backbone=backbone, images=images, batch_size=4, decode_threads=3)
    plan = make_plan(images, tmp_path / "out", made, 10 * BYTES)
    assert len(list(extract_shards(plan, plan.shards, made))) == 10
    assert (decoded, ran) == (100, 100)
    assert most <= 2 * 4 + 3 + 4  # and the batch that is being put together


def test_shards_follow_each_other(tmp_path: Path, runtime: Make) -> None:
    """Receipts come in order while later shards are computed; progress counts every image once."""
    made = runtime()
    plan = make_plan(jpegs(tmp_path / "photos", 10), tmp_path / "out", made, 3 * BYTES)
    counted: list[int] = []
    receipts = extract_shards(plan, iter(plan.shards), made, advance=counted.append)
    assert next(receipts).shard == 0
    assert 0 in plan.done()
    assert [receipt.shard for receipt in receipts] == [1, 2, 3]
    assert sum(counted) == 10
    assert plan.done() == set(plan.shards)


def test_another_job_is_refused(tmp_path: Path, runtime: Make) -> None:
    plan = make_plan(photos(), tmp_path / "out", runtime())
    with pytest.raises(
        ValueError, match=r"holds the features of another job:\n  dtype: stored 'float16', asked 'float32'"
    ):
        extract_shard(plan, 0, runtime(dtype="float32"))


def test_the_folder_of_shards_is_a_file(tmp_path: Path, runtime: Make) -> None:
    """That is an error, and leaves nothing behind."""
    made = runtime()
    plan = make_plan(photos(), tmp_path / "out", made)
    (plan.storage.folder / "shards").write_text("")
    with pytest.raises(OSError, match="File exists"):
        extract_shard(plan, 0, made)
    assert sorted(path.name for path in plan.storage.folder.iterdir()) == [
        "plan-0000.json",
        "plan-0000.parquet",
        "shards",
    ]


def test_hostile_ids_name_no_file(tmp_path: Path, runtime: Make) -> None:
    ids = ["../../x", "/etc/passwd", "x" * 4096, "a\nb", "\x00", "ünï☃\u202e", "0" * 64, '{"format": "9"}']
    plan, _ = run(
        [(id_, jpeg(0)) for id_ in ids], tmp_path / "store/out", runtime(images={id_: jpeg(0) for id_ in ids})
    )
    _, metadata = read(plan)
    assert metadata["ids"] == ids
    assert metadata["sizes"].keys() == set(ids)
    with (plan.storage.folder / shard_name(0)).open("rb") as file:
        assert len(set(checksum(file))) == 1
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == [
        "000000.safetensors", "plan-0000.json", "plan-0000.parquet",
    ]  # fmt: skip
